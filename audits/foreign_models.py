"""Evaluate two models made elsewhere, before and after unlearning, in one run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from base_config import BaseConfig
from base_models import check_retrained, stated_by
from device import device_named
from evaluation import ALL, OF_MANY, chosen, names_in, needs_of
from identity import git_commit
from measurement import INCOMPETENT, Measured, measure
from models import ARCHITECTURES, build
from registry import Entry, __version__
from reporter.run_warning import RunWarning, in_one_line
from run_artifacts import log_code
from run_report import FORGET_LIST
from run_warnings import warnings_of
from tracking.run import TrackedRun, tracked_run
from tracking.store import check_store
from training import (
    Loaded,
    Metadata,
    Progress,
    check_checkpoint,
    generator_for,
    library_versions,
    load_weights,
    model_digest,
    save_checkpoint,
    shortened,
    silent,
    unsealed,
)
from unlearn import ForgetData, Unlearned
from vision_data import (
    AUTO,
    DATA,
    DATASETS,
    checked_normalisation,
    in_words,
    load_splits,
    normalisation_of,
    origin,
)

TrainedOn = Literal["train", "all"]


@dataclass(frozen=True)
class ForeignConfig:
    """Files of weights; `base` has their dataset, architecture and forget request.

    trained_on: the training images of the initial model, "train" (Lethe's split, without a tenth of each
    class for validation) or "all" (the whole published training part).
    """

    initial: Path
    unlearned: Path
    base: BaseConfig
    ideal: Path | None = None
    trained_on: TrainedOn = "train"
    metrics: tuple[str, ...] = (ALL,)
    experiment: str | None = None


@dataclass(frozen=True)
class ForeignResult:
    """The metrics and the run. `notes`: the normalisation, and conversions of other programs' weights."""

    run_id: str
    measured: Measured
    warnings: list[RunWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ForeignModels:
    """Raises ValueError or FileNotFoundError for files that are missing or do not fit the architecture."""

    def __init__(self, config: ForeignConfig, *, progress: Progress = silent) -> None:
        splits = load_splits(
            config.base.dataset, config.base.data, config.base.split_seed, config.base.reading
        )
        request = config.base.request.of_classes(splits.class_names)
        self.config = config = replace(config, base=replace(config.base, request=request))
        self.splits = splits.without_validation() if config.trained_on == "all" else splits
        checked_normalisation(config.base.normalize)
        self.architecture: Entry[Any] = ARCHITECTURES[
            config.base.arch or DATASETS[config.base.dataset].facts.arch
        ]
        self.options = self.architecture.settings(config.base.arch_options)
        self.device = device_named(config.base.device)
        files = {"initial": config.initial, "unlearned": config.unlearned, "ideal": config.ideal}
        self.models: dict[str, nn.Module] = {}
        self.loaded: dict[str, Loaded] = {}
        for name, path in files.items():
            if path is not None:
                self.models[name] = self._built(0)
                self.loaded[name] = load_weights(
                    path, self.models[name], normalisation_known=config.base.normalize.casefold() != AUTO
                )
        self.normalize = self._normalize()
        self.splits = self.splits.normalised(normalisation_of(self.normalize, self.splits.own_normalisation))
        self.data = self._forget_data(progress)
        self.request_slug = config.base.request.slug
        self.metrics = [
            metric for metric in chosen(config.metrics) if OF_MANY.isdisjoint(needs_of(metric.function))
        ]
        identity = config.base.request.identity
        trained_on = {"initial": "train", "unlearned": f"unlearned {identity} by ", "ideal": identity}
        self.doubts = [
            RunWarning("not checked", doubt)
            for name, images in trained_on.items()
            if (path := files[name]) and (doubt := self._check_training(name, path, images))
        ]
        self.notes = [
            f"{files[name]}: {words}" for name, loaded in self.loaded.items() for words in loaded.notes
        ]
        self.notes.append(in_words(self.normalize, self.splits.train.normalisation))
        if config.ideal is not None:
            check_retrained(self.models["initial"], self.models["ideal"], config.ideal)
        self.experiment = config.experiment or f"{self.splits.dataset}-{self.architecture.name}"
        check_store(self.experiment)

    @property
    def forgotten(self) -> str:
        """The forget request in words, with the names of classes."""
        return self.config.base.request.in_words(len(self.data.forget), self.splits.class_names)

    def run(self) -> ForeignResult:
        """Evaluate the models in one MLflow run."""
        started = time.perf_counter()
        name = f"evaluate {self.config.unlearned.name} {self.request_slug}"
        tags = {"audit": "evaluate", "lethe_version": __version__, "git_commit": git_commit()}
        with tracked_run(self.experiment, name, tags=tags, columns=names_in("overview")) as run:
            run.params(self.params())
            log_code(run, [self.architecture, DATASETS[self.config.base.dataset], *self.metrics])
            others = {name: model for name, model in self.models.items() if name != "unlearned"} | {
                INCOMPETENT: self._built(
                    generator_for(self.config.base.seed, "evaluation", INCOMPETENT).initial_seed()
                )
            }
            measured = measure(
                self.models["unlearned"], others, self.data, self.splits.test, metrics=self.metrics
            )
            unlearned = Unlearned(self.models["unlearned"])
            warnings = self.doubts + warnings_of(
                self.models["initial"], unlearned, measured, classes=self.splits.classes
            )
            self._log(run, measured, warnings)
            run.metrics({"stage_total_seconds": time.perf_counter() - started})
        return ForeignResult(run.run_id, measured, warnings, self.notes)

    def params(self) -> dict[str, Any]:
        """Every setting, and the digests of the models."""
        base = self.config.base
        files = {
            "initial": self.config.initial,
            "unlearned": self.config.unlearned,
            "ideal": self.config.ideal,
        }
        return {
            "dataset": self.splits.dataset,
            "dataset_file": origin(base.dataset),
            "data": base.data,
            "arch": self.architecture.name,
            "arch_file": self.architecture.file,
            **self._digests(),
            "num_classes": self.splits.classes,
            "seed": base.seed,
            "split_seed": base.split_seed,
            "split": self.splits.digest,
            "normalize": self.normalize,
            "trained_on": self.config.trained_on,
            "class_to_replace": " ".join(map(str, base.request.classes)),
            "num_indexes_to_replace": base.request.number,
            "forget_indexes": base.request.file,
            "request": self.request_slug,
            "forget_request": self.forgotten,
            "forget_count": len(self.data.forget),
            "retain_count": len(self.data.retain),
            "device": self.device,
            "metrics": ",".join(self.config.metrics),
            **{f"{name}_checkpoint": files[name] for name in self.models},
            **{f"{name}_digest": model_digest(model) for name, model in self.models.items()},
            **base.reading,
            **self.options,
        }

    def _digests(self) -> dict[str, str]:
        """The whole digests of the forget list and of users' files."""
        digests = {
            "request_digest": self.config.base.request.digest,
            "arch_code": self.architecture.code_digest,
            "dataset_code": DATASETS[self.config.base.dataset].code_digest,
        }
        return {name: digest for name, digest in digests.items() if digest is not None}

    def _log(self, run: TrackedRun, measured: Measured, warnings: list[RunWarning]) -> None:
        run.metrics(measured.model)
        for name, values in (("initial", measured.initial), ("ideal", measured.ideal)):
            run.metrics({f"{name}_{metric}": value for metric, value in values.items()})
        run.tags({f"undefined.{name}": reason for name, reason in measured.undefined.items()})
        run.tags({"warning": in_one_line(warnings)} if warnings else {})
        for name, images in (
            ("forget", self.data.forget),
            ("retain", self.data.retain),
            ("test", self.splits.test),
        ):
            run.image_set(f"{self.splits.dataset} {name}", images.digest, self.splits.dataset, name)
        run.text("".join(f"{index}\n" for index in self.data.forget.indexes.tolist()), FORGET_LIST)
        with tempfile.TemporaryDirectory() as folder:
            for name, model in self.models.items():
                path = Path(folder) / f"{name}.safetensors"
                save_checkpoint(
                    path, model, self._metadata(f"{name}, made elsewhere", versions=library_versions())
                )
                run.file(path)

    def _normalize(self) -> str:
        """Return the normalisation: from the flag, else from the files, else from the training images.

        Raises ValueError if two files disagree.
        """
        asked = checked_normalisation(self.config.base.normalize)
        if asked != AUTO:
            return asked
        saying = {
            name: own
            for name, own in self.loaded.items()
            if own.metadata is not None or own.normalisation is not None
        }
        stated = {name: stated_by(own) for name, own in saying.items()}
        if len(set(stated.values())) > 1:
            each = ", ".join(f"{how} ({name})" for name, how in stated.items())
            raise ValueError(
                f"--normalize: expected models of one normalisation, and their files say {each}. Say which "
                "one holds for all"
            )
        return next(iter(stated.values()), DATA)

    def _forget_data(self, progress: Progress) -> ForgetData:
        base = self.config.base
        try:
            return ForgetData.of(
                self.splits, base.request, seed=base.seed, device=self.device, progress=progress
            )
        except ValueError as error:
            way_out = (
                ""
                if self.config.trained_on == "all"
                else ". If the models saw the whole published training part, say --trained_on all"
            )
            raise ValueError(f"{error}{way_out}") from error

    def _built(self, seed: int) -> nn.Module:
        arch = self.config.base.arch or self.architecture.name
        return build(
            arch, self.splits.train.image_shape, self.splits.classes, seed=seed, options=self.options
        ).to(self.device)

    def _metadata(self, trained_on: str, **others: Any) -> Metadata:
        return Metadata(
            dataset=self.splits.dataset,
            split=self.splits.digest,
            split_seed=self.config.base.split_seed,
            arch=self.architecture.identity,
            options=dict(self.options),
            classes=self.splits.classes,
            image_shape=self.splits.train.image_shape,
            seed=self.config.base.seed,
            epochs=0,
            trained_on=trained_on,
            normalisation="" if self.normalize == DATA else self.normalize,
            **others,
        )

    def _check_training(self, name: str, path: Path, trained_on: str) -> str:
        """Check the training images in the metadata of Lethe's checkpoints; return a warning for other files.

        Returns no warning for the unlearned model."""
        found = self.loaded[name].metadata
        if found is None:
            return (
                ""
                if name == "unlearned"
                else f"that {path} was trained on these images can't be checked, it has no metadata of Lethe"
            )
        if name == "unlearned":
            _check_unlearned(path, found, trained_on)
            trained_on += found.trained_on.rpartition(" by ")[2]  # the method's name is not asked for
        if self.config.trained_on == "all":
            raise ValueError(
                f"--trained_on all: {path} is Lethe's, and was trained on its train split. Leave out "
                "--trained_on"
            )
        try:
            check_checkpoint(
                path, self._metadata(trained_on, training=found.training), self.architecture.defaults
            )
        except ValueError as error:
            raise ValueError(
                str(error)
                .replace("--mask, or another folder with --save_dir", "--mask")
                .replace("--mask", f"--{name}")
            ) from error
        return unsealed(path)


def _check_unlearned(path: Path, found: Metadata, what: str) -> None:
    """Raise ValueError for an unlearned model of Lethe with another forget request."""
    if not found.trained_on.startswith((what, shortened(what))):
        got = (
            "one trained on everything" if found.trained_on == "train" else f"one marked {found.trained_on!r}"
        )
        raise ValueError(
            f"{path}: expected a model that {what.removesuffix(' by ')}, got {got}. Give the forget request "
            "that it was made with, or "
            "name another file with --unlearned"
        )
