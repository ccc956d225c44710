"""The KLoM audit: N unlearned models beside N oracles, image by image, and the NeurIPS 2023 challenge's score
of them.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from torch import Tensor, nn

from audits.many_models import (
    AuditResult,
    Notice,
    StartingModel,
    announce_cost,
    audit_run,
    job_of,
    loaded,
    params_of,
    unlearned,
)
from audits.margin_files import (
    COLUMNS,
    SETS,
    array_of,
    check_columns,
    columns,
    npy,
    read_margins,
    sets_of,
    table,
)
from base_config import BaseConfig
from base_models import BaseModels
from evaluation import METRICS, MetricFacts, ModelOutputs, Population, evaluate, needs_of, noise_floor
from evaluation.impl import Undecided
from evaluation.klom import KLOM
from evaluation.population import MINIMUM
from measurement import model_outputs
from model_sets import Kind, ModelSpec, specs_of, train_set
from registry import Entry
from timed import timed
from tracking.run import TrackedRun
from tracking.stored_run import WARNING_TAG
from training import Progress, checkpoint_digest, checkpoint_header_digest, model_digest, silent
from unlearn import ForgetData

Direction = Literal["unlearned_oracle", "oracle_unlearned"]
ORACLES, UNLEARNED, MODELS = "oracle_margins.npy", "unlearned_margins.npy", "models.csv"


@dataclass(frozen=True)
class KlomConfig:
    """A method, and how many models a side.

    oracle_margins: a file of the oracles' margins, from elsewhere; see margin_files.columns. also: metrics of
    one model, measured of each.
    klom_direction: whether KLoM is KL(unlearned || oracles), as in EasyDUB, or KL(oracles || unlearned), as
    in data-unlearning-bench.
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
    """N initial models of seeds from --seed on, each unlearned; N oracles of the same seeds, or their margins
    from a file.

    A method that returns the ideal model gets one of a seed after all of these, for an oracle is not to be
    compared with itself. Raises ValueError or FileNotFoundError, before anything is trained, for everything
    that a person may have got wrong.
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
        needed: tuple[Kind, ...] = (
            ("initial models", "oracles") if self.given is None else ("initial models",)
        )
        for kind in needed:
            specs_of(self.job.base, kind, config.models)
        self.also = [self._of_one_model(name) for name in config.also]
        self._check_also()
        self.stages: dict[str, float] = {}

    @property
    def _seeds(self) -> range:
        return range(self.config.base.seed, self.config.base.seed + self.config.models)

    @property
    def name(self) -> str:
        given = "".join(f" {name}={value}" for name, value in self.config.settings.items())
        return f"KLoM {self.job.method.name} {self.job.base.request_slug} N={self.config.models} seed{self.config.base.seed}{given}"

    def run(self) -> AuditResult:
        """Do it, in one MLflow run."""
        started = time.perf_counter()
        self.stages = {}
        own = {
            "models": self.config.models,
            "oracle_margins": self.config.oracle_margins,
            "metrics": ",".join(self._names),
        }
        own |= {"klom_direction": self.config.klom_direction}
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
            self._log(run, models, oracles, rows)
            self.stages["total"] = time.perf_counter() - started
            run.metrics(
                values
                | beside
                | {f"stage_{stage}_seconds": seconds for stage, seconds in self.stages.items()}
            )
            run.tags({f"undefined.{name}": reason for name, reason in undefined.items()})
        return AuditResult(
            run.run_id, self.name, values, beside, undefined, self._notes(), self.stages, models=rows
        )

    @property
    def _names(self) -> list[str]:
        return [metric.name for metric in self.also]

    def _of_one_model(self, name: str) -> Entry[MetricFacts]:
        """A metric that needs one model alone. ValueError for another, and for one that this request can't
        have.
        """
        metric = METRICS[name]
        if needs_of(metric.function) != ("model",):
            raise ValueError(
                f"--metrics: expected metrics of one model alone, got {metric.name}, which needs others. "
                "Leave it out"
            )
        if metric.facts.whole_class and not self.job.data.forget_classes:
            raise ValueError(
                f"--metrics: {metric.name} needs a class that is forgotten whole, got the request "
                f"{self.job.base.request_slug}. Leave it "
                "out, or forget a whole class, e.g. --class_to_replace 3"
            )
        return metric

    def _check_also(self) -> None:
        """ValueError for a metric that these images, or this architecture, don't allow: found by an untrained
        model.
        """
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
            self.warning = f"there is no {COLUMNS} beside {path}, so that nothing can tell whether its margins are of this forget request and split"
        return margins

    def _oracles(self, rows: list[dict[str, Any]]) -> Population:
        if self.given is not None:
            return Population(self.given)
        specs = train_set(self.job.base, "oracles", self.config.models).specs
        return Population.of(self._seen("oracle", loaded(self.job, spec), spec, rows) for spec in specs)

    def _after(self, initial: list[ModelSpec], rows: list[dict[str, Any]]) -> Iterator[ModelOutputs]:
        """What each unlearned model says."""
        starts = self._starts(initial, self._ideals(len(initial)))
        for spec, model in zip(initial, unlearned(self.job, starts), strict=True):
            yield self._seen("unlearned", model, spec, rows)

    def _starts(self, initial: list[ModelSpec], ideals: list[ModelSpec]) -> list[StartingModel]:
        return [
            StartingModel(
                f"the model of seed {spec.seed}", partial(self._start, spec, ideals[number : number + 1])
            )
            for number, spec in enumerate(initial)
        ]

    def _ideals(self, count: int) -> list[ModelSpec]:
        """Ideal models that no oracle is, for a method that asks for one."""
        if "ideal" not in self.job.method.facts.needs:
            return []
        base = self.job.base
        after = replace(base.config, seed=base.config.seed + self.config.models)
        return train_set(
            BaseModels(after, progress=base.progress, splits=base.splits), "oracles", count
        ).specs

    def _start(self, spec: ModelSpec, ideal: list[ModelSpec]) -> tuple[nn.Module, ForgetData]:
        data = replace(
            self.job.data,
            seed=spec.seed,
            progress=silent,
            ideal=partial(loaded, self.job, ideal[0]) if ideal else None,
        )
        return loaded(self.job, spec), data

    def _seen(self, side: str, model: nn.Module, spec: ModelSpec, rows: list[dict[str, Any]]) -> ModelOutputs:
        outputs = model_outputs(model, self.job.data, self.job.base.splits.test)
        ta = "test_retain_score" if outputs.forget_classes else "test_score"
        scores = {"retain_score": outputs.metric("retain_score"), "ta": outputs.metric(ta)}
        also = {metric.name: _value(metric, outputs) for metric in self.also}
        rows.append({"side": side, **origin(spec), "digest": model_digest(model), **scores, **also})
        return outputs

    def _log(
        self, run: TrackedRun, models: Population, oracles: Population, rows: list[dict[str, Any]]
    ) -> None:
        log_images(run, self.job.base, self.sets)
        tables = {COLUMNS: table(columns(self.sets)).encode(), MODELS: table(rows).encode()}
        log_arrays(
            run, tables | {UNLEARNED: npy(array_of(models.margins)), ORACLES: npy(array_of(oracles.margins))}
        )

    def _notes(self) -> list[str]:
        whose = (
            f"margins from {self.config.oracle_margins}" if self.given else f"{self.config.models} oracles"
        )
        left_out = [name for name in SETS if name not in self.sets]
        missing = [f"no {name} images: not measured on them" for name in left_out]
        if self.config.klom_direction == "oracle_unlearned":
            missing.append("KLoM is KL(oracles || unlearned), as in data-unlearning-bench")
        warning = [f"warning: {self.warning}"] if self.warning else []
        return [f"{self.config.models} unlearned models beside {whose}", *missing, *warning]


def compared(
    models: Population, oracles: Population, direction: str
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of many models, and why others have no value. direction: of KLoM, see KlomConfig."""
    values, undefined = evaluate(models=models, oracles=oracles)
    if direction == "oracle_unlearned":
        values |= evaluate(names=KLOM, models=oracles, oracles=models)[0]
    return values, undefined


def _value(metric: Entry[MetricFacts], outputs: ModelOutputs) -> float | None:
    """A metric of one model, None where it is undecided. ValueError, with its name, where it can't be
    measured.
    """
    try:
        return outputs.value(metric)
    except Undecided:
        return None
    except ValueError as error:
        raise ValueError(
            f"--metrics: {metric.name} can't be measured here: {str(error).rstrip('.')}. Leave it out"
        ) from error


def means_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """The mean of each metric over the models of each side: unlearned_mean_<name>, oracle_mean_<name>. rows:
    also as read from models.csv.

    Models of which it is undecided are left out, and counted: unlearned_undecided_<name>,
    oracle_undecided_<name>, where there are some.
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


def origin(spec: ModelSpec) -> dict[str, Any]:
    """Where a model comes from: its checkpoint, with the digests of its weights and of its header."""
    header = checkpoint_header_digest(spec.path) or ""
    digests = {"checkpoint_digest": checkpoint_digest(spec.path), "header_digest": header}
    return {"seed": spec.seed, "checkpoint": spec.path, **digests}


def floor_of(models: int) -> dict[str, float]:
    """What stands beside every KLoM: N, and what two samples of one normal come to."""
    mean, p95 = noise_floor(models)
    return {"klom_models": float(models), "klom_floor_mean": mean, "klom_floor_p95": p95}


def log_images(run: TrackedRun, base: BaseModels, sets: Mapping[str, Any]) -> None:
    """The image sets as inputs of the run."""
    dataset = base.splits.dataset
    for name, images in {**sets, "test": base.splits.test}.items():
        run.image_set(f"{dataset} {name}", images.digest, dataset, name)


def log_arrays(run: TrackedRun, files: Mapping[str, bytes]) -> None:
    """Files as artifacts, and the SHA-256 of each as a param."""
    run.params({f"sha256.{name}": hashlib.sha256(content).hexdigest() for name, content in files.items()})
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.write_bytes(content)
            run.file(path)
