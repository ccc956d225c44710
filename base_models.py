"""The models that an experiment starts from and is judged by: the initial and the ideal one, loaded or
trained.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from base_config import BaseConfig, base_flags_of
from flag_error import FlagError, errors_of
from flag_words import command
from models import ARCHITECTURES, build, check_logits, check_trains, evaluating, fails_on_one, is_builtin
from registry import Entry
from temporary_files import remove_left_over
from training import (
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
    same_weights,
    save_checkpoint,
    silent,
    unsealed,
)
from training.estimate import estimated_seconds
from training.file_lock import locked_together
from training.precision import Precision
from training.process_group import ALONE, ProcessGroup, processes_started
from training.recipe import FLAGS, changed, differences
from training.storage import LONGEST_NAME, shortened
from vision_data import (
    AUTO,
    DATA,
    DATASETS,
    NONE,
    ImageSet,
    Splits,
    checked_normalisation,
    forward_batch,
    in_words,
    load_splits,
    normalisation_of,
    spelled,
)
from vision_data.augmentation import augmentations, check_augmentable
from vision_data.impl import results_folder
from vision_data.splits import FEWEST_IN_CLASS

WORTH_A_WORD = 60.0  # seconds of a training


@dataclass(frozen=True)
class Trained:
    """A model with where it is kept, what it says of itself (None for an older checkpoint), and how it came
    to be here.
    """

    model: nn.Module
    path: Path
    metadata: Metadata | None
    loaded: bool
    seconds: float
    history: list[dict[str, float]]


class BaseModels:
    """A dataset's split, and the models trained on it.

    Everything that a person may have got wrong is found when this is made, before anything is trained:
    ValueError for unknown names, options, classes, a checkpoint of something else, a folder that can't be
    written; FileNotFoundError for
    missing data. `group`: the processes that train a model together; the first of them saves it.
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
                f"expected one process, got {processes_started()} of torchrun (WORLD_SIZE). Train by "
                "torchrun main_baseline.py and "
                "main_ideal.py, then start this without torchrun"
            )
        dataset = DATASETS[config.dataset]
        self.asked = self.config = config
        self.progress, self.group = progress, group
        self.device = device_named(config.device)
        self.architecture: Entry[Any] = ARCHITECTURES[config.arch or dataset.facts.arch]
        self.options = self.architecture.settings(config.arch_options)
        mask = config.mask
        found = group.broadcast(checkpoint_metadata(mask) if mask is not None and mask.exists() else None)
        self.epochs = self._epochs(dataset.facts.epochs, found)
        facts = self.architecture.facts
        usual = Recipe(
            self.epochs,
            facts.optimizer,
            facts.lr,
            facts.batch_size,
            facts.weight_decay,
            dataset.facts.augment,
        )
        self.recipe = self._recipe(usual, found)
        self.training = differences(self.recipe, usual)
        self.save_dir = config.save_dir or results_folder(config.dataset)
        self.splits = splits or load_splits(config.dataset, config.data, config.split_seed, config.reading)
        if config.num_classes not in (None, self.splits.classes):
            raise FlagError(
                "num_classes",
                f"{dataset.name} has {self.splits.classes} classes, got {config.num_classes}. "
                "Leave the flag out",
            )
        self._check_augmentable()
        self.normalize = self._normalize(found)
        self.splits = self.splits.normalised(normalisation_of(self.normalize, self.splits.own_normalisation))
        self.config = config = replace(config, request=config.request.of_classes(self.splits.class_names))
        self.division = config.request.divide(self.splits.train, self.splits.classes, config.split_seed)
        with errors_of("arch"):
            self._check_architecture()
        self.check_trainable("train")
        remove_left_over(self.save_dir)
        there = {}
        for path, trained_on in ((self.initial_path, "train"), (self.ideal_path, self.request_identity)):
            named = path == config.mask
            with errors_of("mask" if named else "save_dir"):
                if not path.exists():
                    check_writable(path.parent)
                    continue
                check_checkpoint(path, self.metadata(trained_on), self.architecture.defaults, named=named)
                there[path], loaded = self._read(path)  # the header can't tell whether the weights are whole
            self._tell(path, loaded)
            if loaded.metadata is not None and (remark := unsealed(path)):
                warnings.warn(remark, stacklevel=2)
        if len(there) == 2:
            check_retrained(there[self.initial_path], there[self.ideal_path], self.ideal_path)

    def _check_architecture(self) -> None:
        """ValueError where the model, on images as they are, gives anything but logits; a person's own is
        tried in train mode too.
        """
        model = self.untrained()
        if is_builtin(self.architecture):
            return
        images, classes = self._few_images(2), self.splits.classes
        who = f"--arch {self.config.arch}: expected an architecture"
        check_logits(model, images, classes, who=who, remedy="Correct it, or choose another --arch")
        check_trains(model, images, classes, who=who)

    def _few_images(self, count: int) -> Tensor:
        """The first training images, normalised, on the device."""
        train = self.splits.train
        return train.normalisation(train.images[:count].to(self.device))

    def check_trainable(self, trained_on: str) -> None:
        """ValueError where the initial ("train") or the ideal model (the request) is still to be trained, and
        can't be on these images.
        """
        images, path = (
            (self.splits.train, self.initial_path)
            if trained_on == "train"
            else (self.division.retain, self.ideal_path)
        )
        if path.exists():
            return
        self.validation_of(trained_on)
        size = self.recipe.batch_size_for(len(images), self.group.size)
        if (
            1 not in (size, len(images))
            or self.group.size > 1
            or not fails_on_one(self.untrained(), self._few_images(1))
        ):
            return
        if len(images) == 1:
            raise ValueError(
                "expected at least two images to train a model with batch norm on, got one: the forget "
                "request leaves no more. Ask for "
                "fewer images, or choose an --arch without batch norm"
            )
        raise FlagError(
            "train_batch_size", "expected at least 2 for a model with batch norm, got 1. Give more"
        )

    def _epochs(self, default: int, found: Metadata | None) -> int:
        """The epochs asked for; else those of the checkpoint that --mask names, for the ideal model gets as
        many; else the default.
        """
        asked, mask = self.config.epochs, self.config.mask
        if found is not None and asked not in (None, found.epochs):
            raise FlagError(
                "epochs", f"{mask} was trained for {found.epochs}, got {asked}. Leave out --epochs or --mask"
            )
        if asked is not None:
            return asked
        return found.epochs if found else default

    def _recipe(self, usual: Recipe, found: Metadata | None) -> Recipe:
        """The usual recipe with the settings asked for; without any, with those of the checkpoint that --mask
        names.
        """
        asked = self.config.training
        return changed(
            usual, **(found.training if found is not None and not asked else FLAGS.settings(asked))
        )

    def _check_augmentable(self) -> None:
        """ValueError for an augmentation that would leave images of this size as they are."""
        try:
            check_augmentable(augmentations(self.recipe.augment), self.splits.train.image_shape)
        except ValueError as error:
            raise FlagError("train_augment", error) from error

    def _normalize(self, found: Metadata | None) -> str:
        """How images are normalised: as asked for; else as the file that --mask names says; else by the
        training images' own numbers.
        """
        asked, mask = checked_normalisation(self.config.normalize), self.config.mask
        if asked != AUTO:
            return asked
        if found is not None:
            return found.normalisation or DATA
        there = self.group.first and mask is not None and mask.exists()
        return str(
            self.group.broadcast(
                stated_by(load_weights(Path(str(mask)), self.untrained())) if there else DATA
            )
        )

    def _tell(self, path: Path, loaded: Loaded) -> None:
        """Warn of what was done to take weights of another program, and of how images are normalised for
        them.
        """
        if loaded.metadata is None:
            said = "".join(f"{words}; " for words in loaded.notes)
            warnings.warn(
                f"{path}: {said}{in_words(self.normalize, self.splits.train.normalisation)}", stacklevel=2
            )

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
        """What is to be forgotten, in words: the classes with their names."""
        return self.config.request.in_words(len(self.division.forget), self.splits.class_names)

    @property
    def request_slug(self) -> str:
        """The forget request in a word, for names."""
        return self.config.request.slug

    @property
    def request_identity(self) -> str:
        """The forget request as checkpoints and hashes know it."""
        return self.config.request.identity

    @property
    def embedded(self) -> bool:
        """The dataset is small and needs no download: its ideal model is trained without being asked for."""
        return bool(DATASETS[self.config.dataset].facts.embedded)

    @property
    def initial_path(self) -> Path:
        return self.config.mask or self.initial_path_of(self.config.seed)

    @property
    def ideal_path(self) -> Path:
        return self.ideal_path_of(self.config.seed)

    def initial_path_of(self, seed: int) -> Path:
        """Where the initial model of another seed is, unless --mask says otherwise."""
        return self.checkpoint_named(self.stem_of(seed))

    def ideal_path_of(self, seed: int) -> Path:
        """Where the ideal model of another seed is: an oracle."""
        return self.checkpoint_named(f"{self.stem_of(seed)}_ideal_{self.request_slug}")

    def checkpoint_named(self, name: str) -> Path:
        """A checkpoint of this experiment. A name that is longer than file systems hold is cut, and gets a
        digest of the whole.
        """
        return self.save_dir / f"{shortened(name, LONGEST_NAME)}.safetensors"

    def stem_of(self, seed: int) -> str:
        """<seed><arch>_ep<epochs>, and what else differs from the defaults, so that no setting overwrites
        another's.
        """
        options = "".join(
            f"_{name}{'-'.join(map(str, v)) if isinstance(v, tuple) else v}"
            for name, v in sorted(self.unusual.items())
        )
        training = "".join(
            f"_{name.removeprefix('train_')}{'-'.join(v) if isinstance(v, tuple) else v}"
            for name, v in sorted(self.training.items())
        )
        split = f"_split{self.config.split_seed}" if self.config.split_seed else ""
        split += "".join(f"_{name}{value}" for name, value in sorted(self.config.reading.items()))
        architecture = re.sub(r"[^\w.+-]", "-", self.architecture.slug)  # torchvision:NAME
        normalize = "" if self.normalize == DATA else f"_normalize-{self.normalize.replace(':', '-by-')}"
        return re.sub(
            r"[/\\\0]", "-", f"{seed}{architecture}_ep{self.epochs}{options}{training}{split}{normalize}"
        )

    def untrained(self) -> nn.Module:
        """The architecture with the seed's initial weights, on the device."""
        return self.built(self.config.seed)

    def incompetent(self) -> nn.Module:
        """The architecture with weights that no model of this seed starts from: what knowing nothing looks
        like.
        """
        return self.built(generator_for(self.config.seed, "evaluation", "incompetent").initial_seed())

    def built(self, seed: int) -> nn.Module:
        """The architecture with any seed's initial weights, on the device."""
        shape = self.splits.train.image_shape
        arch = self.config.arch or self.architecture.name
        return build(arch, shape, self.splits.classes, seed=seed, options=self.options).to(self.device)

    def initial(self) -> Trained:
        """The model trained on everything: loaded if its checkpoint exists, else trained and saved there."""
        return self._made_once(self.splits.train, self.initial_path, "train", "initial model")

    def ideal(self) -> Trained:
        """The same recipe without the forget set: loaded if its checkpoint exists, else trained and saved
        there.
        """
        return self._made_once(self.division.retain, self.ideal_path, self.request_identity, "ideal model")

    def _made_once(self, images: ImageSet, path: Path, trained_on: str, label: str) -> Trained:
        """One process trains, or those of one torchrun together; all others that want the same model wait for
        it, and load it.
        """
        if self.group.broadcast(path.exists()):
            return self._load(path)
        with locked_together(path, self.group):
            return (
                self._load(path)
                if self.group.broadcast(path.exists())
                else self._train(images, path, trained_on, label)
            )

    def ideal_command(self) -> str:
        """The command that trains this ideal model."""
        return command("main_ideal.py", base_flags_of(self.config))

    @cached_property
    def _split_digest(self) -> str:
        return self.splits.digest

    def metadata(self, trained_on: str, *, seed: int | None = None, **measured: Any) -> Metadata:
        """What the checkpoint of a model of this architecture, trained on this split, says of itself. `seed`:
        where it is another.
        """
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
        """The model in a checkpoint, on the device."""
        model = self.untrained()
        return model, load_weights(path, model, normalisation_known=True)

    def _load(self, path: Path) -> Trained:
        started = time.perf_counter()
        if not self.group.first:  # other machines may not have the file
            return Trained(self.untrained(), path, None, True, time.perf_counter() - started, [])
        model, loaded = self._read(path)
        return Trained(model, path, loaded.metadata, True, time.perf_counter() - started, [])

    def _train(self, images: ImageSet, path: Path, trained_on: str, label: str) -> Trained:
        self.check_trainable(trained_on)
        validation_images = self.validation_of(trained_on)
        self._tell_duration(images, label)
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
        )
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
                kept = (
                    f". The training is kept in {state.path}: the same command goes on from there"
                    if state.path.exists()
                    else ""
                )
                raise ValueError(f"{error}{kept}") from error
            state.remove()
        self.group.wait()
        return Trained(model, path, metadata, False, time.perf_counter() - started, history)

    def _tell_duration(self, images: ImageSet, label: str) -> None:
        """A warning where images of a person's own take minutes to train on: another architecture may take
        seconds.
        """
        if not DATASETS[self.config.dataset].facts.free_form or not self.group.first or len(images) < 2:
            return
        seconds = estimated_seconds(self.untrained(), images, self.recipe, self.device)
        if seconds >= WORTH_A_WORD:
            size = " x ".join(map(str, images.image_shape))
            warnings.warn(
                f"{label}: {self.architecture.name} on {len(images):,} images of {size}, {self.epochs} "
                f"epochs on {self.device}: about "
                f"{seconds / 60:.0f} minutes. --arch cnn or mlp, or fewer --epochs, take less",
                stacklevel=2,
            )

    def settled_recipe(self) -> Recipe:
        """Return the recipe with each `auto` as the initial model, else the ideal model, was trained, if
        there is one.

        Models that are compared are then computed in the same precision.
        """
        if "auto" not in (self.recipe.precision, self.recipe.memory_format, self.recipe.compile):
            return self.recipe
        there = (
            [path for path in (self.initial_path, self.ideal_path) if path.exists()]
            if self.group.first
            else []
        )
        said = (
            found.computed
            for found in map(checkpoint_metadata, there)
            if found is not None and found.computed
        )
        words = self.group.broadcast(next(said, ""))
        return Precision.named(words).settled(self.recipe) if words else self.recipe

    def validation_of(self, trained_on: str) -> ImageSet:
        """The validation images of the classes that are trained on. ValueError, before anything is trained,
        where there are none.
        """
        left_out = self.division.gone if trained_on == self.request_identity else ()
        found = self.splits.validation.without_classes(*left_out)
        if not len(found):
            counts = self.splits.train.without_classes(*left_out).labels.bincount()
            raise ValueError(
                f"{self.splits.dataset}: expected a class of at least {FEWEST_IN_CLASS} images beside the "
                "test part, of which one is for "
                f"validation, got at most {int(counts.max()) if len(counts) else 0}. Add images"
            )
        return found

    def _about_training(self, trained_on: str) -> dict[str, Any]:
        """What a training depends on: a state of it that is found is gone on with if it says the same."""
        about = asdict(self.metadata(trained_on)) | {
            "versions": library_versions(),
            "recipe": asdict(self.recipe),
            "processes": self.group.size,
        }
        plain: dict[str, Any] = json.loads(
            json.dumps({name: value for name, value in about.items() if value == value})
        )
        return plain


def check_retrained(initial: nn.Module, ideal: nn.Module, path: Path) -> None:
    """ValueError where the ideal model in `path` is the initial one: it saw the forget set, whatever its
    checkpoint says of itself.
    """
    if same_weights(initial, ideal):
        raise ValueError(
            f"{path}: expected a model that was retrained without the forget set, got the weights of the "
            "initial model. "
            "Name another, or move this file away and retrain it by main_ideal.py"
        )


def stated_by(loaded: Loaded) -> str:
    """How images are normalised for these weights, as --normalize has it: as their file says, else by the
    training images' own numbers.
    """
    if loaded.metadata is not None:
        return loaded.metadata.normalisation or DATA
    if loaded.normalisation is None:
        return DATA
    return spelled(*loaded.normalisation) if loaded.normalisation[0] else NONE


def score_of(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Percent of the images whose class the model predicts, in eval mode."""
    with evaluating(model), torch.inference_mode():
        correct = [
            (model(x).argmax(1) == y).sum() for x, y in images.batches(forward_batch(device), device=device)
        ]
    return 100 * int(torch.stack(correct).sum()) / len(images)


def device_named(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU if there is one. ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.zeros(1, device=name)
        found.item()  # "meta" makes tensors and holds none
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FlagError(
            "device", f"expected auto, cpu or a device that is here, got {name!r} ({reason}). Use auto"
        ) from error
    try:
        return found.double().device
    except (RuntimeError, TypeError) as error:  # MPS, Apple's GPU
        raise FlagError(
            "device", f"expected a device with float64, which metrics and methods need, got {name!r}. Use cpu"
        ) from error
