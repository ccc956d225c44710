"""The KLoM audit: N unlearned models beside N oracles, and the NeurIPS 2023 challenge's score of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from torch import Tensor, nn

from lethe.audits.many_models import (
    AuditResult,
    Notice,
    StartingModel,
    announce_cost,
    audit_run,
    job_of,
    loaded,
    log_margins,
    log_result,
    origin,
    params_of,
    unlearned,
)
from lethe.audits.margin_files import COLUMNS, SETS, array_of, check_columns, read_margins, sets_of
from lethe.evaluation import (
    METRICS,
    MetricFacts,
    Missing,
    ModelOutputs,
    Population,
    evaluate,
    needs_of,
    noise_floor,
)
from lethe.evaluation.impl import Undecided
from lethe.evaluation.klom import KLOM
from lethe.evaluation.population import MINIMUM
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.measure import model_outputs
from lethe.experiment.model_sets import Kind, ModelSpec, specs_of, train_set
from lethe.registry import Entry
from lethe.system.timed import timed
from lethe.tracking.stored_run import WARNING_TAG
from lethe.training import Progress, model_digest, silent
from lethe.unlearn import ForgetData

Direction = Literal["unlearned_oracle", "oracle_unlearned"]
ORACLES, UNLEARNED = "oracle_margins.npy", "unlearned_margins.npy"


@dataclass(frozen=True)
class KlomConfig:
    """A method, and the number of models a side.

    oracle_margins: a file of oracles made elsewhere; see margin_files.columns. also: metrics of one model,
    measured of every model. klom_direction: KL(unlearned || oracles), as in EasyDUB, or
    KL(oracles || unlearned), as in data-unlearning-bench.
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    models: int = 100
    oracle_margins: Path | None = None
    also: tuple[str, ...] = ()
    experiment: str | None = None
    klom_direction: Direction = "unlearned_oracle"


class KlomAudit:
    """Unlearns N initial models of the seeds from --seed on; compares with N oracles of the same seeds.

    A method that needs the ideal model gets one of a later seed, as no oracle is compared with itself. Raises
    ValueError or FileNotFoundError for a user's mistake, before anything is trained.
    """

    def __init__(
        self, config: KlomConfig, *, progress: Progress = silent, notice: Notice = lambda line: None
    ) -> None:
        if config.models < MINIMUM:
            raise ValueError(
                f"--models: expected at least {MINIMUM} a side, got {config.models}. Ask for more: 100 have "
                "a low noise floor"
            )
        self.config = config
        self.notice = notice
        self.job = job_of(
            config.unlearn, config.settings, config.base, config.experiment, progress, self._seeds
        )
        self.sets = sets_of(self.job.data)
        self.warning = ""
        self.given = None if config.oracle_margins is None else self._given(config.oracle_margins)
        trained: tuple[Kind, ...] = ("initial models",)
        for kind in trained if self.given else (*trained, "oracles"):
            specs_of(self.job.base, kind, config.models)
        self.also = [self._of_one_model(name) for name in config.also]
        self._check_also()
        self.stages: dict[str, float] = {}

    @property
    def _seeds(self) -> range:
        return range(self.config.base.seed, self.config.base.seed + self.config.models)

    @property
    def name(self) -> str:
        given = [f"{name}={value}" for name, value in self.config.settings.items()]
        size, seed = f"N={self.config.models}", f"seed{self.config.base.seed}"
        return " ".join(["KLoM", self.job.method.name, self.job.base.request_slug, size, seed, *given])

    def run(self) -> AuditResult:
        """Run the audit in one MLflow run."""
        started = time.perf_counter()
        self.stages = {}
        own = {
            "models": self.config.models,
            "oracle_margins": self.config.oracle_margins,
            "metrics": ",".join(self._names),
            "klom_direction": self.config.klom_direction,
        }
        if self.warning:
            self.notice(f"warning: {self.warning}")
        with audit_run(self.job, "klom", self.name, params_of(self.job, **own)) as run:
            run.tags({WARNING_TAG: self.warning} if self.warning else {})
            with timed(self.stages, "first"):
                first = self._starts(train_set(self.job.base, "initial models", 1).specs, self._ideals(1))[0]
                announce_cost(self.job, first, self.config.models, self.notice)
            with timed(self.stages, "initial"):
                initial = train_set(self.job.base, "initial models", self.config.models).specs
            rows: list[dict[str, Any]] = []
            with timed(self.stages, "oracles"):
                oracles = self._oracles(rows)
            with timed(self.stages, "unlearn"):
                models = Population.of(self._after(initial, rows))
            with timed(self.stages, "evaluate"):
                values, undefined = compared(models, oracles, self.config.klom_direction)
                beside = floor_of(self.config.models) | means_of(rows, self._names)
            arrays = {UNLEARNED: array_of(models.margins), ORACLES: array_of(oracles.margins)}
            log_margins(run, self.job.base, self.sets, rows, arrays)
            self.stages["total"] = time.perf_counter() - started
            result = AuditResult(
                run.run_id, self.name, values, beside, undefined, self._notes(), self.stages, models=rows
            )
            log_result(run, result)
        return result

    @property
    def _names(self) -> list[str]:
        return [metric.name for metric in self.also]

    def _of_one_model(self, name: str) -> Entry[MetricFacts]:
        """Return a metric of one model. Raises ValueError if the request does not allow it."""
        metric = METRICS[name]
        if needs_of(metric.function) != ("model",):
            raise ValueError(
                f"--metrics: expected metrics of one model alone, got {metric.name}, which needs others. "
                "Leave it out"
            )
        if metric.facts.whole_class and not self.job.data.forget_classes:
            raise ValueError(
                f"--metrics: {metric.name} needs a class that is forgotten whole, got the request "
                f"{self.job.base.request_slug}. Leave it out, or forget a whole class: --class_to_replace 3"
            )
        return metric

    def _check_also(self) -> None:
        """Measure an untrained model. Raises ValueError for a metric that images or architecture forbid."""
        if self.also:
            outputs = model_outputs(self.job.base.untrained(), self.job.data, self.job.base.splits.test)
            for metric in self.also:
                _value(metric, outputs)

    def _given(self, path: Path) -> dict[str, Tensor]:
        margins = read_margins(path, {name: len(images) for name, images in self.sets.items()})
        count = len(margins["forget"])
        if count != self.config.models:
            raise ValueError(
                f"{path}: expected {self.config.models} oracles, as many as unlearned models, got {count}. "
                f"Ask for --models {count}"
            )
        if not check_columns(path, self.sets, sum(own.shape[1] for own in margins.values())):
            self.warning = (
                f"there is no {COLUMNS} beside {path}, so it can't be checked that its margins are of this "
                "forget request and split"
            )
        return margins

    def _oracles(self, rows: list[dict[str, Any]]) -> Population:
        if self.given is not None:
            return Population(self.given)
        specs = train_set(self.job.base, "oracles", self.config.models).specs
        return Population.of(self._seen("oracle", loaded(self.job, spec), spec, rows) for spec in specs)

    def _after(self, initial: list[ModelSpec], rows: list[dict[str, Any]]) -> Iterator[ModelOutputs]:
        """Yield the outputs of each unlearned model."""
        starts = self._starts(initial, self._ideals(len(initial)))
        for spec, model in zip(initial, unlearned(self.job, starts), strict=True):
            yield self._seen("unlearned", model, spec, rows)

    def _starts(self, initial: list[ModelSpec], ideals: Sequence[ModelSpec | None]) -> list[StartingModel]:
        own_ideals = ideals or [None] * len(initial)
        return [
            StartingModel(f"the model of seed {spec.seed}", partial(self._start, spec, ideal))
            for spec, ideal in zip(initial, own_ideals, strict=True)
        ]

    def _ideals(self, count: int) -> list[ModelSpec]:
        """Train ideal models that are no oracles; [] for a method that needs none."""
        if "ideal" not in self.job.method.facts.needs:
            return []
        base = self.job.base
        after = replace(base.config, seed=base.config.seed + self.config.models)
        others = BaseModels(after, progress=base.progress, splits=base.splits)
        return train_set(others, "oracles", count).specs

    def _start(self, spec: ModelSpec, ideal: ModelSpec | None) -> tuple[nn.Module, ForgetData]:
        retrained = None if ideal is None else partial(loaded, self.job, ideal)
        data = replace(self.job.data, seed=spec.seed, progress=silent, ideal=retrained)
        return loaded(self.job, spec), data

    def _seen(self, side: str, model: nn.Module, spec: ModelSpec, rows: list[dict[str, Any]]) -> ModelOutputs:
        outputs = model_outputs(model, self.job.data, self.job.base.splits.test)
        ta = "test_retain_score" if outputs.forget_classes else "test_score"
        scores = {"retain_score": outputs.metric("retain_score"), "ta": outputs.metric(ta)}
        also = {metric.name: _value(metric, outputs) for metric in self.also}
        rows.append({"side": side, **origin(spec), "digest": model_digest(model), **scores, **also})
        return outputs

    def _notes(self) -> list[str]:
        count, file = self.config.models, self.config.oracle_margins
        notes = [f"{count} unlearned models beside {f'margins from {file}' if file else f'{count} oracles'}"]
        notes += [f"no {name} images: not measured on them" for name in SETS if name not in self.sets]
        if self.config.klom_direction == "oracle_unlearned":
            notes.append("KLoM is KL(oracles || unlearned), as in data-unlearning-bench")
        return [*notes, f"warning: {self.warning}"] if self.warning else notes


def compared(
    models: Population, oracles: Population, direction: str
) -> tuple[dict[str, float], dict[str, Missing]]:
    """Return the metrics of many models, and the reasons of missing ones. direction: see KlomConfig."""
    values, undefined = evaluate(models=models, oracles=oracles)
    if direction == "oracle_unlearned":
        values |= evaluate(names=KLOM, models=oracles, oracles=models)[0]
    return values, undefined


def _value(metric: Entry[MetricFacts], outputs: ModelOutputs) -> float | None:
    """Return a metric of one model; None if it is undecided. Raises ValueError if it can't be measured."""
    try:
        return outputs.value(metric)
    except Undecided:
        return None
    except ValueError as error:
        raise ValueError(
            f"--metrics: {metric.name} can't be measured here: {str(error).rstrip('.')}. Leave it out"
        ) from error


def means_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean of each metric over the models of a side: unlearned_mean_<name>, oracle_mean_<name>.

    Leaves out models with an undecided value, and counts them in unlearned_undecided_<name> and
    oracle_undecided_<name>, if there are any. rows: of the audit, or as read from models.csv.
    """
    found: dict[str, float] = {}
    for side in ("unlearned", "oracle"):
        own = [row for row in rows if row["side"] == side]
        for name in names:
            values = [float(row[name]) for row in own if row[name] not in (None, "")]
            if values:
                found[f"{side}_mean_{name}"] = mean(values)
            if len(values) < len(own):
                found[f"{side}_undecided_{name}"] = float(len(own) - len(values))
    return found


def floor_of(models: int) -> dict[str, float]:
    """Return N, and KLoM's noise floor: its value for two samples of N from one normal distribution."""
    mean, p95 = noise_floor(models)
    return {"klom_models": float(models), "klom_floor_mean": mean, "klom_floor_p95": p95}
