"""The initial and the ideal model of a run: loaded if their checkpoints exist, else trained."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.commands import named
from lethe.data import (
    AUTO,
    DATA,
    DATASETS,
    NONE,
    ForgetRequest,
    ImageSet,
    Splits,
    checked_normalisation,
    forward_batch,
    in_words,
    load_splits,
    normalisation_of,
    spelled,
)
from lethe.data.impl import results_folder
from lethe.data.splits import FEWEST_IN_CLASS
from lethe.experiment.base_config import BaseConfig, base_flags_of
from lethe.experiment.base_recipe import check_recipe_augments, default_recipe, epochs_of, recipe_of
from lethe.flag_error import FlagError, errors_of
from lethe.flag_words import command, name_of
from lethe.models import (
    ARCHITECTURES,
    build,
    check_logits,
    check_trains,
    evaluating,
    fails_on_one,
    is_builtin,
    step_work,
)
from lethe.registry import Entry
from lethe.system.device import device_named
from lethe.system.temporary_files import remove_left_over
from lethe.system.threads import computing_with, threads_for
from lethe.training import (
    Loaded,
    Metadata,
    Progress,
    Recipe,
    StateFile,
    check_checkpoint,
    check_writable,
    checkpoint_metadata,
    fit,
    generator_for,
    library_versions,
    load_weights,
    model_digest,
    same_weights,
    save_checkpoint,
    silent,
    unsealed,
)
from lethe.training.estimate import estimated_seconds
from lethe.training.file_lock import locked_together
from lethe.training.precision import Precision
from lethe.training.process_group import ALONE, ProcessGroup, processes_started
from lethe.training.recipe import PREFIX, differences
from lethe.training.storage import LONGEST_NAME, shortened
from lethe.training.training_log import END, TrainingLog, Update, check_room

LONG_TRAINING = 60.0  # seconds; a warning says so before a longer one


@dataclass(frozen=True)
class Trained:
    """A model with its checkpoint and the metadata there (None in an older one).

    loaded: whether it was loaded, not trained. seconds: of loading or training. history: of its training.
    """

    model: nn.Module
    path: Path
    metadata: Metadata | None
    loaded: bool
    seconds: float
    history: list[dict[str, float]]


class BaseModels:
    """A dataset's split, and the models that are trained on it.

    The constructor checks everything before anything is trained. Raises ValueError for unknown names and
    options, checkpoints of another model, and folders that can't be written; FileNotFoundError for missing
    data.

    config: with the classes of the request as numbers, and a choice of images as their list; `asked`: as
    given. group: the processes that train a model together; the first of them saves it.
    """

    def __init__(
        self,
        config: BaseConfig,
        *,
        progress: Progress = silent,
        splits: Splits | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        if processes_started() != group.size:
            raise ValueError(
                f"expected one process, got {processes_started()} of torchrun (WORLD_SIZE). Use torchrun for "
                f"{named('baseline')}, {named('ideal')} and {named('forget')}, and start this without it"
            )
        dataset = DATASETS[config.dataset]
        self.asked = self.config = config
        self.progress, self.group = progress, group
        self.device = device_named(config.device)
        self.architecture: Entry[Any] = ARCHITECTURES[config.arch or dataset.facts.arch]
        self.options = self.architecture.settings(config.arch_options)
        mask = config.mask
        found = group.broadcast(checkpoint_metadata(mask) if mask is not None and mask.exists() else None)
        self.epochs = epochs_of(config, dataset.facts.epochs, found)
        default = default_recipe(self.epochs, self.architecture, dataset)
        self.recipe = recipe_of(config, default, found)
        self.training = differences(self.recipe, default)
        self.save_dir = config.save_dir or results_folder(config.dataset)
        self.splits = splits or load_splits(config.dataset, config.data, config.split_seed, config.reading)
        if config.num_classes not in (None, self.splits.classes):
            raise FlagError(
                "num_classes",
                f"{dataset.name} has {self.splits.classes} classes, got {config.num_classes}. "
                "Leave the flag out",
            )
        check_recipe_augments(self.recipe, self.splits.train.image_shape)
        self.normalize = self._normalize(found)
        self.splits = self.splits.normalised(normalisation_of(self.normalize, self.splits.own_normalisation))
        self.config = config = replace(config, request=config.request.resolved(self.splits))
        self.division = config.request.divide(self.splits.train, self.splits.classes, config.split_seed)
        with errors_of("arch"):
            self._check_architecture()
        self.check_trainable("train")
        remove_left_over(self.save_dir)
        there = {}
        for path, trained_on in ((self.initial_path, "train"), (self.ideal_path, self.request_identity)):
            is_mask = path == config.mask
            with errors_of("mask" if is_mask else "save_dir"):
                if not path.exists():
                    check_writable(path.parent)
                    continue
                check_checkpoint(path, self.metadata(trained_on), self.architecture.defaults, named=is_mask)
                there[path], loaded = self._read(path)  # the header can't tell whether the weights are whole
            self._warn_of_weights(path, loaded)
            if loaded.metadata is not None and (remark := unsealed(path)):
                warnings.warn(remark, stacklevel=2)
        if len(there) == 2:
            check_retrained(there[self.initial_path], there[self.ideal_path], self.ideal_path)

    def _check_architecture(self) -> None:
        """Raise ValueError for a user's architecture that gives no logits, in eval or in train mode."""
        model = self.untrained()
        if is_builtin(self.architecture):
            return
        images, classes = self._few_images(2), self.splits.classes
        who = f"--arch {self.config.arch}: expected an architecture"
        check_logits(model, images, classes, who=who, remedy="Correct it, or choose another --arch")
        check_trains(model, images, classes, who=who)

    def _few_images(self, count: int) -> Tensor:
        """Return the first training images, normalised, on the device."""
        train = self.splits.train
        return train.normalisation(train.images[:count].to(self.device))

    def check_trainable(self, trained_on: str) -> None:
        """Raise ValueError if a model has no checkpoint and can't be trained on these images.

        trained_on: "train", the initial model; or the request's identity, the ideal model.
        """
        images, path = self.splits.train, self.initial_path
        if trained_on != "train":
            images, path = self.division.retain, self.ideal_path
        if path.exists():
            return
        self.validation_of(trained_on)
        size = self.recipe.batch_size_for(len(images), self.group.size)
        # Batch norm needs two images in a batch; several processes refuse smaller batches themselves.
        if self.group.size > 1 or 1 not in (size, len(images)):
            return
        if not fails_on_one(self.untrained(), self._few_images(1)):
            return
        if len(images) == 1:
            raise ValueError(
                "expected at least two images to train a model with batch norm on, got one: the forget "
                "request leaves no more. Ask for fewer images, or choose an --arch without batch norm"
            )
        raise FlagError(
            "train_batch_size", "expected at least 2 for a model with batch norm, got 1. Give more"
        )

    def _normalize(self, found: Metadata | None) -> str:
        """Return the normalisation: as asked for, else as the file of --mask says, else `data`."""
        asked, mask = checked_normalisation(self.config.normalize), self.config.mask
        if asked != AUTO:
            return asked
        if found is not None:
            return found.normalisation or DATA
        stated = DATA
        if self.group.first and mask is not None and mask.exists():
            stated = stated_by(load_weights(mask, self.untrained()))
        return str(self.group.broadcast(stated))

    def _warn_of_weights(self, path: Path, loaded: Loaded) -> None:
        """Warn of weights from another program: how they were changed, and how images are normalised."""
        if loaded.metadata is None:
            notes = "".join(f"{note}; " for note in loaded.notes)
            normalised = in_words(self.normalize, self.splits.train.normalisation)
            warnings.warn(f"{path}: {notes}{normalised}", stacklevel=2)

    @property
    def unusual(self) -> dict[str, Any]:
        """The options of the architecture that are not the defaults."""
        defaults = self.architecture.defaults
        return {
            name: value
            for name, value in self.options.items()
            if name not in defaults or value != defaults[name]
        }

    @property
    def forgotten(self) -> str:
        """A description of the forget set: the classes with their names."""
        return self.config.request.in_words(len(self.division.forget), self.splits.class_names)

    @property
    def request_slug(self) -> str:
        """A short name of the forget request, for names of files and runs."""
        return self.config.request.slug

    @property
    def request_identity(self) -> str:
        """The forget request's name with whole digests, for checkpoints and hashes."""
        return self.config.request.identity

    @property
    def embedded(self) -> bool:
        """Whether the dataset is small and needs no download: --ideal auto then trains its ideal model."""
        return bool(DATASETS[self.config.dataset].facts.embedded)

    @property
    def initial_path(self) -> Path:
        return self.config.mask or self.initial_path_of(self.config.seed)

    @property
    def ideal_path(self) -> Path:
        return self.ideal_path_of(self.config.seed)

    def initial_path_of(self, seed: int) -> Path:
        """Return the path of a seed's initial model, --mask aside."""
        return self.checkpoint_named(self.stem_of(seed))

    def ideal_path_of(self, seed: int) -> Path:
        """Return the path of a seed's ideal model, which may be an oracle."""
        return self.checkpoint_named(f"{self.stem_of(seed)}_ideal_{self.request_slug}")

    def checkpoint_named(self, name: str) -> Path:
        """Return the path of a checkpoint; a name too long for file systems is cut and gets a digest."""
        return self.save_dir / f"{shortened(name, LONGEST_NAME)}.safetensors"

    def stem_of(self, seed: int) -> str:
        """Return <seed><arch>_ep<epochs> and all settings that are not the defaults.

        No model overwrites one of other settings.
        """
        options = "".join(f"_{name}{name_of(value)}" for name, value in sorted(self.unusual.items()))
        training = "".join(
            f"_{name.removeprefix(PREFIX)}{name_of(value)}" for name, value in sorted(self.training.items())
        )
        split = f"_split{self.config.split_seed}" if self.config.split_seed else ""
        reading = "".join(f"_{name}{value}" for name, value in sorted(self.config.reading.items()))
        normalize = "" if self.normalize == DATA else f"_normalize-{self.normalize.replace(':', '-by-')}"
        architecture = re.sub(r"[^\w.+-]", "-", self.architecture.slug)  # torchvision:NAME
        name = f"{seed}{architecture}_ep{self.epochs}{options}{training}{split}{reading}{normalize}"
        return re.sub(r"[/\\\0]", "-", name)

    def untrained(self) -> nn.Module:
        """Return the architecture with the seed's initial weights, on the device."""
        return self.built(self.config.seed)

    def incompetent(self) -> nn.Module:
        """Return the architecture with weights that no model of this seed starts from: it knows nothing."""
        return self.built(generator_for(self.config.seed, "evaluation", "incompetent").initial_seed())

    def built(self, seed: int) -> nn.Module:
        """Return the architecture with any seed's initial weights, on the device."""
        shape = self.splits.train.image_shape
        arch = self.config.arch or self.architecture.name
        return build(arch, shape, self.splits.classes, seed=seed, options=self.options).to(self.device)

    @cached_property
    def threads(self) -> int:
        """The threads that torch computes with here: as asked, else by the work of a training step."""
        if self.config.threads is not None:
            return self.config.threads
        size = self.recipe.batch_size_for(len(self.splits.train), self.group.size)
        return threads_for(step_work(self.untrained(), self._few_images(1), size))

    def initial(self) -> Trained:
        """Load the model that is trained on everything, or train and save it."""
        return self._made_once(self.splits.train, self.initial_path, "train", "initial model")

    def initial_with_log(self, most: float) -> Trained:
        """Return the initial model with a log of its training of at most `most` GB: made if it is missing.

        A model that is there without a log is trained again, to the same weights. Raises ValueError for a log
        that would be larger, for several processes, for --mask, and where the weights differ.
        """
        if self.config.mask is not None:
            raise FlagError(
                "training_log",
                "expected a model that this command trains, got one by --mask. Leave one of the two out",
                named=False,
            )
        if self.group.size > 1:
            raise FlagError(
                "training_log",
                f"expected one process, got {self.group.size} of torchrun. Start it without torchrun",
            )
        path, log = self.initial_path, self.training_log
        with locked_together(path, self.group):
            there = self._load(path) if path.exists() else None
            if there is not None and log.is_of(model_digest(there.model)):
                return there
            train = self.splits.train
            size = self.recipe.batch_size_for(len(train), 1)
            steps = self.recipe.epochs * math.ceil(len(train) / size)
            check_room(log.folder, self.untrained(), steps, size, most)
            return self._train(train, path, "train", "initial model", log=log, same_as=there)

    @property
    def training_log(self) -> TrainingLog:
        """The log of the initial model's training, whether there is one or not."""
        return TrainingLog(self.initial_path.with_suffix(".updates"), self._about_training("train"))

    def updates(self, model: nn.Module) -> Iterator[Update]:
        """Return the updates of the initial model's training.

        Raises FileNotFoundError, with the command that makes them, without a log.
        """
        log = self.training_log
        if not (log.folder / END).exists():
            config = replace(self.config, request=ForgetRequest())
            makes = command("baseline", base_flags_of(config) | {"training_log": []})
            raise FileNotFoundError(
                f"expected a training log in {log.folder}, and there is none. Make it: {makes}"
            )
        return log.updates(model)

    def ideal(self) -> Trained:
        """Load the model that is trained without the forget set, or train and save it."""
        return self._made_once(self.division.retain, self.ideal_path, self.request_identity, "ideal model")

    def _made_once(self, images: ImageSet, path: Path, trained_on: str, label: str) -> Trained:
        """Load a model, or train it in one process (or one torchrun); others wait and load it."""
        made = None
        if not self.group.broadcast(path.exists()):
            with locked_together(path, self.group), computing_with(self.threads):
                if not self.group.broadcast(path.exists()):
                    made = self._train(images, path, trained_on, label)
        made = made or self._load(path)
        # Trained together, each process has running statistics of its own. Only the first one loads a file.
        self.group.share_weights(made.model)
        return made

    def ideal_command(self) -> str:
        """Return the command that trains this ideal model."""
        return command("ideal", base_flags_of(self.config))

    @cached_property
    def _split_digest(self) -> str:
        return self.splits.digest

    def metadata(self, trained_on: str, *, seed: int | None = None, **measured: Any) -> Metadata:
        """Return the metadata of a model of this architecture and split. seed: default, the config's."""
        return Metadata(
            dataset=self.splits.dataset,
            split=self._split_digest,
            split_seed=self.config.split_seed,
            arch=self.architecture.identity,
            options=dict(self.options),
            classes=self.splits.classes,
            image_shape=self.splits.train.image_shape,
            seed=self.config.seed if seed is None else seed,
            epochs=self.epochs,
            trained_on=trained_on,
            training=self.training,
            normalisation="" if self.normalize == DATA else self.normalize,
            **measured,
        )

    def _read(self, path: Path) -> tuple[nn.Module, Loaded]:
        """Load the model of a checkpoint, on the device."""
        model = self.untrained()
        return model, load_weights(path, model, normalisation_known=True)

    def _load(self, path: Path) -> Trained:
        started = time.perf_counter()
        if not self.group.first:  # other machines may not have the file
            return Trained(self.untrained(), path, None, True, time.perf_counter() - started, [])
        model, loaded = self._read(path)
        return Trained(model, path, loaded.metadata, True, time.perf_counter() - started, [])

    def _train(
        self,
        images: ImageSet,
        path: Path,
        trained_on: str,
        label: str,
        *,
        log: TrainingLog | None = None,
        same_as: Trained | None = None,
    ) -> Trained:
        """Train and save a model; with `same_as`, only train it, to the weights that this one has."""
        self.check_trainable(trained_on)
        validation_images = self.validation_of(trained_on)
        self._warn_of_duration(images, label)
        started = time.perf_counter()
        model = self.untrained()
        state = StateFile(path.with_name(f"{path.name}.state"), self._about_training(trained_on))
        history = fit(
            model,
            images,
            self.settled_recipe(),
            generator=generator_for(self.config.seed, "train"),
            device=self.device,
            progress=self.progress,
            label=label,
            state=state,
            group=self.group,
            log=log,
        )
        if same_as is not None and not same_weights(same_as.model, model):
            state.remove()
            raise ValueError(
                f"{path}: expected the weights that training gives here, got others (of another device or "
                "version). Move this file away, and what was made from it, and start again"
            )
        if log is not None:
            log.end(model_digest(model))
        if same_as is not None:
            state.remove()
            return same_as
        seconds = time.perf_counter() - started + state.before
        validation = score_of(model, validation_images, self.device)
        metadata = self.metadata(
            trained_on,
            train_score=history[-1]["score"],
            validation_score=validation,
            train_seconds=seconds,
            versions=library_versions(),
            computed=str(state.precision),
        )
        if self.group.first:
            try:
                save_checkpoint(path, model, metadata)
            except ValueError as error:
                kept = ""
                if state.path.exists():
                    kept = f". The training is kept in {state.path}: the same command goes on from there"
                raise ValueError(f"{error}{kept}") from error
            state.remove()
        self.group.wait()
        return Trained(model, path, metadata, False, time.perf_counter() - started, history)

    def _warn_of_duration(self, images: ImageSet, label: str) -> None:
        """Warn if a user's own images take minutes to train on: another architecture may take seconds."""
        if not DATASETS[self.config.dataset].facts.free_form or not self.group.first or len(images) < 2:
            return
        seconds = estimated_seconds(self.untrained(), images, self.recipe, self.device)
        if seconds < LONG_TRAINING:
            return
        size = " x ".join(map(str, images.image_shape))
        warnings.warn(
            f"{label}: {self.architecture.name} on {len(images):,} images of {size}, {self.epochs} epochs "
            f"on {self.device}: about {seconds / 60:.0f} minutes. --arch cnn or mlp, or fewer --epochs, take "
            "less",
            stacklevel=2,
        )

    def settled_recipe(self) -> Recipe:
        """Return the recipe with each `auto` as in the checkpoint of the initial or the ideal model, if any.

        Models that are compared are then computed in the same precision.
        """
        if "auto" not in (self.recipe.precision, self.recipe.memory_format, self.recipe.compile):
            return self.recipe
        computed = ""
        for path in (self.initial_path, self.ideal_path) if self.group.first else ():
            found = checkpoint_metadata(path) if path.exists() else None
            computed = computed or (found.computed if found is not None else "")
        computed = self.group.broadcast(computed)
        return Precision.named(computed).settled(self.recipe, self.device) if computed else self.recipe

    def validation_of(self, trained_on: str) -> ImageSet:
        """Return the validation images of the classes that are trained on.

        Raises ValueError if there are none.
        """
        left_out = self.division.gone if trained_on == self.request_identity else ()
        found = self.splits.validation.without_classes(*left_out)
        if not len(found):
            counts = self.splits.train.without_classes(*left_out).labels.bincount()
            most = int(counts.max()) if len(counts) else 0
            raise ValueError(
                f"{self.splits.dataset}: expected a class of at least {FEWEST_IN_CLASS} images beside the "
                f"test part, of which one is for validation, got at most {most}. Add images"
            )
        return found

    def _about_training(self, trained_on: str) -> dict[str, Any]:
        """Return everything that a training depends on, as JSON; a state with the same is resumed."""
        about = asdict(self.metadata(trained_on)) | {
            "versions": library_versions(),
            "recipe": asdict(self.recipe),
            "processes": self.group.size,
        }
        known = {name: value for name, value in about.items() if value == value}  # not NaN
        plain: dict[str, Any] = json.loads(json.dumps(known))
        return plain


def check_retrained(initial: nn.Module, ideal: nn.Module, path: Path) -> None:
    """Raise ValueError if the ideal model in `path` has the weights of the initial one."""
    if same_weights(initial, ideal):
        raise ValueError(
            f"{path}: expected a model that was retrained without the forget set, got the weights of the "
            f"initial model. Name another, or move this file away and retrain it by {named('ideal')}"
        )


def stated_by(loaded: Loaded) -> str:
    """Return the normalisation that a file of weights states, as --normalize takes it; `data` without one."""
    if loaded.metadata is not None:
        return loaded.metadata.normalisation or DATA
    if loaded.normalisation is None:
        return DATA
    return spelled(*loaded.normalisation) if loaded.normalisation[0] else NONE


def score_of(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Return the percentage of images whose class the model predicts, in eval mode."""
    with evaluating(model), torch.inference_mode():
        correct = [
            (model(x).argmax(1) == y).sum() for x, y in images.batches(forward_batch(device), device=device)
        ]
    return 100 * int(torch.stack(correct).sum()) / len(images)
