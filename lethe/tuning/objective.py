"""The value of a trial: how far the settings leave the model from the ideal one, on validation images."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lethe.evaluation import Missing, chosen
from lethe.experiment.base_models import BaseModels
from lethe.experiment.identity import train_seconds
from lethe.experiment.measure import INCOMPETENT, Measured, Metric, measure
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.flag_error import FlagError
from lethe.sweeps.sweep import same_splits
from lethe.training import Progress, silent
from lethe.unlearn import ForgetData, unlearn

INSTEAD = "avg_gap_without_mia"  # of avg_gap, where the attack is undecided
SHOWN = ("forget_score", "retain_score", "test_score")  # measured beside the objectives
TARGETS = {"near 0": 0.0, "near 0.5": 0.5, "near 0.01": 0.01, "near 1": 1.0}


@dataclass(frozen=True)
class TrialResult:
    """What a trial found.

    losses: the mean over the tuning seeds of each objective, turned so that less is better. metrics: by seed
    and name; a test metric is of the validation images. seconds: of unlearning, all seeds together.
    """

    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float


class Failed(ValueError):
    """Raised for a trial without a value: the method diverged, the settings don't go together."""


@dataclass
class Objective:
    """Runs a method on the tuning seeds, and measures forget, retain and validation images.

    No test image is looked at. The base models are trained when they are first needed. Raises ValueError or
    FileNotFoundError, when it is made, for every mistake that does not depend on the settings.
    """

    config: PipelineConfig
    seeds: Sequence[int]
    names: tuple[str, ...]
    progress: Progress = silent
    _bases: dict[int, BaseModels] = field(default_factory=dict)
    _words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._words = objectives_named(self.names)
        self.names = tuple(self._words)
        self._choose()
        first = Pipeline(self._of_seed(self.seeds[0], {}), progress=self.progress)
        self._bases[self.seeds[0]] = first.base
        self.method, self.experiment = first.checked.method, first.checked.experiment
        self.whole = bool(first.checked.data.forget_classes)
        self.forgotten = first.base.forgotten
        self.slug = first.base.request_slug
        self.made_of = {
            "split": first.base.splits.digest,
            "arch": first.base.architecture.identity,
            "metrics": [metric.identity for metric in self.metrics],
        }
        self._check_directions()

    def _check_directions(self) -> None:
        for name in self.names:
            if not self._metric(name).facts.direction(self.whole):
                raise FlagError(
                    "objective",
                    f"expected a metric with a good direction, got {name}. Register it with better='lower', "
                    "say",
                )

    @property
    def words(self) -> tuple[str, ...]:
        """The objectives as --objective takes them: by name, or path/to/file.py:function."""
        return tuple(self._words.get(name, name) for name in self.names)

    def _choose(self) -> None:
        """Choose the metrics that the objectives need."""
        self.config = replace(self.config, ideal="train", report="skip", metrics=(*self.words, *SHOWN))
        self.metrics = chosen(self.config.metrics)

    def settle(self) -> list[str]:
        """Replace avg_gap by avg_gap_without_mia if the attack on an ideal model is undecided; say so.

        Trains the base models. Raises ValueError for another objective without a value for an ideal model.
        """
        notes = []
        for seed in self.seeds:
            ideal = self._base(seed).ideal().model
            measured = self._measured(seed, ideal, self._data(seed))
            for name in [name for name in self.names if name not in measured.model]:
                reason = measured.undefined.get(name, "this request does not have it")
                if name != "avg_gap":
                    raise FlagError(
                        "objective", f"{name} has no value for the ideal model of seed {seed}: {reason}"
                    )
                self.names = tuple(dict.fromkeys(INSTEAD if one == name else one for one in self.names))
                notes.append(f"objective {INSTEAD}: the ideal model of seed {seed} has no avg_gap ({reason})")
        self._choose()
        return notes

    def ideal_seconds(self) -> float:
        """Return the seconds that the ideal models of the tuning seeds took to train, all together."""
        return sum(train_seconds(self._base(seed).ideal()) or 0.0 for seed in self.seeds)

    def value_of(self, settings: Mapping[str, Any]) -> TrialResult:
        """Unlearn with these settings on every tuning seed. Raises Failed if there is no value."""
        metrics: dict[str, float] = {}
        losses: dict[str, list[float]] = {name: [] for name in self.names}
        seconds = 0.0
        for seed in self.seeds:
            measured, took = self._unlearned(seed, settings)
            seconds += took
            shown = {name.replace("test", "validation"): value for name, value in measured.model.items()}
            metrics |= {f"seed{seed}_{name}": value for name, value in shown.items()}
            for name in self.names:
                if name in measured.model:
                    losses[name].append(self._loss(name, measured))
        missing = [name for name, values in losses.items() if not values]
        if missing:
            reason = measured.undefined.get(missing[0], Missing("this request does not have it"))
            raise Failed(f"{missing[0]} has no value on any tuning seed: {reason}")
        means = {name: statistics.fmean(values) for name, values in losses.items()}
        infinite = [name for name, value in means.items() if not math.isfinite(value)]
        if infinite:
            raise Failed(f"{infinite[0]} is not finite")
        return TrialResult(means, metrics, seconds)

    def _unlearned(self, seed: int, settings: Mapping[str, Any]) -> tuple[Measured, float]:
        """Return the metrics of the unlearned model of one seed, and the seconds of unlearning."""
        base = self._base(seed)
        try:
            checked = Pipeline(self._of_seed(seed, settings), progress=self.progress, base=base).checked
            initial = base.initial().model
            started = time.perf_counter()
            made = unlearn(checked.config.unlearn, initial, checked.data, **checked.settings)
            seconds = time.perf_counter() - started
            return self._measured(seed, made.model, checked.data), seconds
        except (ValueError, ArithmeticError, torch.linalg.LinAlgError, torch.OutOfMemoryError) as error:
            raise Failed(str(error)) from error

    def _measured(self, seed: int, model: nn.Module, data: ForgetData) -> Measured:
        """Return the metrics of a model, with the validation images in the place of the test images."""
        base = self._base(seed)
        models = {"initial": base.initial().model, "ideal": base.ideal().model}
        models[INCOMPETENT] = base.incompetent()
        validation = base.splits.validation
        return measure(model, models, data, validation, metrics=self.metrics)

    def _data(self, seed: int) -> ForgetData:
        return Pipeline(self._of_seed(seed, {}), progress=self.progress, base=self._base(seed)).checked.data

    def _base(self, seed: int) -> BaseModels:
        if seed not in self._bases:
            config = self._of_seed(seed, {}).base
            splits = same_splits(list(self._bases.values()), config)
            self._bases[seed] = BaseModels(config, progress=self.progress, splits=splits)
        return self._bases[seed]

    def _of_seed(self, seed: int, settings: Mapping[str, Any]) -> PipelineConfig:
        base = replace(self.config.base, seed=seed)
        return replace(self.config, base=base, settings={**self.config.settings, **settings})

    def _loss(self, name: str, measured: Measured) -> float:
        """Return a metric turned so that less is better, by the direction that it was registered with."""
        better, value = self._metric(name).facts.direction(self.whole), measured.model[name]
        if better == "higher":
            return -value
        if better == "near the ideal's":
            return abs(value - measured.ideal[name])
        return abs(value - TARGETS[better]) if better in TARGETS else value

    def in_words(self, name: str) -> str:
        """Return what is minimised for an objective."""
        better = self._metric(name).facts.direction(self.whole)
        if better == "higher":
            return f"the negative of {name}"
        return f"the distance of {name} from {better.removeprefix('near ')}" if "near" in better else name

    def _metric(self, name: str) -> Metric:
        return next(one for one in self.metrics if one.name == name)


def objectives_named(words: Sequence[str]) -> dict[str, str]:
    """Return the words by the name of the metric. Raises FlagError for an unknown one, all and default."""
    found = {}
    for word in words:
        try:
            metrics = chosen((word,))
        except FlagError as error:
            raise FlagError("objective", error.args[1]) from error
        if len(metrics) > 1:
            raise FlagError(
                "objective",
                f"expected names of metrics, got {word}, which is {len(metrics)}. Give e.g. avg_gap",
            )
        name = metrics[0].name
        found[name] = word if ":" in word else name
    return found
