"""Evaluate two models made elsewhere, before and after unlearning, in one run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lethe.data import (
    AUTO,
    DATA,
    DATASETS,
    checked_normalisation,
    in_words,
    load_splits,
    normalisation_of,
    origin,
)
from lethe.evaluation import ALL, OF_MANY, chosen, names_in, needs_of
from lethe.experiment.artifacts import log_code, log_data, log_measured
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import check_retrained, stated_by
from lethe.experiment.identity import git_commit
from lethe.experiment.measure import INCOMPETENT, Measured, measure
from lethe.experiment.warnings import warnings_of
from lethe.models import ARCHITECTURES, build
from lethe.registry import Entry
from lethe.report.run_warning import RunWarning, in_one_line
from lethe.system.device import device_named
from lethe.tracking.run import TrackedRun, tracked_run
from lethe.tracking.store import check_store
from lethe.training import (
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
from lethe.unlearn import ForgetData, Unlearned
from lethe.version import __version__

TrainedOn = Literal["train", "all"]


@dataclass(frozen=True)
class ForeignConfig:
    """Files of weights; `base` has their dataset, architecture and forget request.

    trained_on: the training images of the initial model: "train", Lethe's split, or "all", the whole
    published training part, with the tenth that Lethe keeps for validation.
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
    """Loads and evaluates the models.

    Raises ValueError or FileNotFoundError for files that are missing or do not fit the architecture.
    """

    def __init__(self, config: ForeignConfig, *, progress: Progress = silent) -> None:
        base = config.base
        splits = load_splits(base.dataset, base.data, base.split_seed, base.reading)
        self.splits = splits.without_validation() if config.trained_on == "all" else splits
        base = replace(base, request=base.request.resolved(self.splits))
        self.config = config = replace(config, base=base)
        known = checked_normalisation(base.normalize) != AUTO
        self.architecture: Entry[Any] = ARCHITECTURES[base.arch or DATASETS[base.dataset].facts.arch]
        self.options = self.architecture.settings(base.arch_options)
        self.device = device_named(base.device)
        files = {"initial": config.initial, "unlearned": config.unlearned, "ideal": config.ideal}
        self.files = {name: path for name, path in files.items() if path is not None}
        self.models = {name: self._built(0) for name in self.files}
        self.loaded = {
            name: load_weights(path, self.models[name], normalisation_known=known)
            for name, path in self.files.items()
        }
        self.normalize = self._normalize()
        self.splits = self.splits.normalised(normalisation_of(self.normalize, self.splits.own_normalisation))
        self.data = self._forget_data(progress)
        self.metrics = [
            metric for metric in chosen(config.metrics) if OF_MANY.isdisjoint(needs_of(metric.function))
        ]
        doubts = [self._check_training(name, path) for name, path in self.files.items()]
        self.doubts = [RunWarning("not checked", doubt) for doubt in doubts if doubt]
        self.notes = [
            f"{self.files[name]}: {note}" for name, own in self.loaded.items() for note in own.notes
        ]
        self.notes.append(in_words(self.normalize, self.splits.train.normalisation))
        if config.ideal is not None:
            check_retrained(self.models["initial"], self.models["ideal"], config.ideal)
        self.experiment = config.experiment or f"{self.splits.dataset}-{self.architecture.name}"
        check_store(self.experiment)

    @property
    def forgotten(self) -> str:
        """Return the forget request in words, with the names of classes."""
        return self.config.base.request.in_words(len(self.data.forget), self.splits.class_names)

    def run(self) -> ForeignResult:
        """Evaluate the models in one MLflow run."""
        started = time.perf_counter()
        name = f"evaluate {self.config.unlearned.name} {self.config.base.request.slug}"
        tags = {"audit": "evaluate", "lethe_version": __version__, "git_commit": git_commit()}
        with tracked_run(self.experiment, name, tags=tags, columns=names_in("overview")) as run:
            run.params(self.params())
            log_code(run, [self.architecture, DATASETS[self.config.base.dataset], *self.metrics])
            others = {name: model for name, model in self.models.items() if name != "unlearned"}
            seed = generator_for(self.config.base.seed, "evaluation", INCOMPETENT).initial_seed()
            others[INCOMPETENT] = self._built(seed)
            unlearned = self.models["unlearned"]
            measured = measure(unlearned, others, self.data, self.splits.test, metrics=self.metrics)
            found = warnings_of(
                self.models["initial"], Unlearned(unlearned), measured, classes=self.splits.classes
            )
            warnings = self.doubts + found
            self._log(run, measured, warnings)
            run.metrics({"stage_total_seconds": time.perf_counter() - started})
        return ForeignResult(run.run_id, measured, warnings, self.notes)

    def params(self) -> dict[str, Any]:
        """Return every setting, and the digests of the models."""
        base = self.config.base
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
            **base.request.choice_params(),
            "request": base.request.slug,
            "forget_request": self.forgotten,
            "forget_count": len(self.data.forget),
            "retain_count": len(self.data.retain),
            "device": self.device,
            "metrics": ",".join(self.config.metrics),
            **{f"{name}_checkpoint": path for name, path in self.files.items()},
            **{f"{name}_digest": model_digest(model) for name, model in self.models.items()},
            **base.reading,
            **self.options,
        }

    def _digests(self) -> dict[str, str]:
        """Return the whole digests of the forget list and of users' files, and the packages of plugins."""
        dataset = DATASETS[self.config.base.dataset]
        digests = {
            "request_digest": self.config.base.request.digest,
            "arch_code": self.architecture.code_digest,
            "arch_package": self.architecture.package,
            "dataset_code": dataset.code_digest,
            "dataset_package": dataset.package,
        }
        return {name: digest for name, digest in digests.items() if digest}

    def _log(self, run: TrackedRun, measured: Measured, warnings: list[RunWarning]) -> None:
        log_measured(run, measured)
        run.tags({"warning": in_one_line(warnings)} if warnings else {})
        log_data(run, self.splits.dataset, self.data, self.splits.test)
        with tempfile.TemporaryDirectory() as folder:
            for name, model in self.models.items():
                path = Path(folder) / f"{name}.safetensors"
                metadata = self._metadata(f"{name}, made elsewhere", versions=library_versions())
                save_checkpoint(path, model, metadata)
                run.file(path)

    def _normalize(self) -> str:
        """Return the normalisation: from the flag, else from the files, else from the training images.

        Raises ValueError if two files disagree.
        """
        asked = checked_normalisation(self.config.base.normalize)
        if asked != AUTO:
            return asked
        known = {name: own for name, own in self.loaded.items() if own.metadata or own.normalisation}
        stated = {name: stated_by(own) for name, own in known.items()}
        if len(set(stated.values())) > 1:
            each = ", ".join(f"{how} ({name})" for name, how in stated.items())
            raise ValueError(
                f"--normalize: expected models of one normalisation, and their files say {each}. Give the "
                "one that holds for all"
            )
        return next(iter(stated.values()), DATA)

    def _forget_data(self, progress: Progress) -> ForgetData:
        base = self.config.base
        try:
            return ForgetData.of(
                self.splits, base.request, seed=base.seed, device=self.device, progress=progress
            )
        except ValueError as error:
            if self.config.trained_on == "all":
                raise
            raise ValueError(
                f"{error}. If the models saw the whole published training part, say --trained_on all"
            ) from error

    def _built(self, seed: int) -> nn.Module:
        arch = self.config.base.arch or self.architecture.name
        shape, classes = self.splits.train.image_shape, self.splits.classes
        return build(arch, shape, classes, seed=seed, options=self.options).to(self.device)

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

    def _check_training(self, name: str, path: Path) -> str:
        """Check the training images in the metadata of a checkpoint of Lethe; return a warning, or "".

        Warns of base models without metadata.
        """
        found, identity = self.loaded[name].metadata, self.config.base.request.identity
        if found is None and name == "unlearned":
            return ""
        if found is None:
            return f"that {path} was trained on these images can't be checked, it has no metadata of Lethe"
        trained_on = "train" if name == "initial" else identity
        if name == "unlearned":
            trained_on = f"unlearned {identity} by "
            _check_unlearned(path, found, trained_on)
            trained_on += found.trained_on.rpartition(" by ")[2]  # any method
        if self.config.trained_on == "all":
            raise ValueError(
                f"--trained_on all: {path} is Lethe's, and was trained on its train split. Leave out "
                "--trained_on"
            )
        expected = self._metadata(trained_on, training=found.training)
        check_checkpoint(path, expected, self.architecture.defaults, flag=name)
        return unsealed(path)


def _check_unlearned(path: Path, found: Metadata, what: str) -> None:
    """Raise ValueError for an unlearned model of Lethe with another forget request."""
    stated = found.trained_on
    if not stated.startswith((what, shortened(what))):
        got = "one trained on everything" if stated == "train" else f"one marked {stated!r}"
        raise ValueError(
            f"{path}: expected a model that {what.removesuffix(' by ')}, got {got}. Give the forget request "
            "that it was made with, or name another file with --unlearned"
        )
