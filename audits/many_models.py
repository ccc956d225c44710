"""A method on many models, one after the other: what every audit does."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from base_models import BaseConfig, BaseModels
from evaluation import NotFinite, names_in
from model_sets import ModelSpec, oracles_of
from pipeline import Pipeline, PipelineConfig
from run_artifacts import log_code
from run_settings import MASKED, CheckedConfig, origin_tags, run_params
from tracking.finished import HASH
from tracking.run import TrackedRun, tracked_run
from training import Progress, load_checkpoint, warm_up
from training.file_lock import locked
from unlearn import METHODS, ForgetData, Oracles, resolved, unlearn

Notice = Callable[[str], None]


@dataclass(frozen=True)
class StartingModel:
    """One of the models that a method unlearns: who it is, and how to get it and its data."""

    name: str
    made: Callable[[], tuple[nn.Module, ForgetData]]


@dataclass(frozen=True)
class AuditResult:
    """What an audit measured, and where it is. `beside`: what the values are to be held against. `notes`: lines for a reader.

    `models`: a row for each model that was measured, as in the artifact models.csv.
    """

    run_id: str
    name: str
    values: dict[str, float]
    beside: dict[str, float]
    undefined: dict[str, str]
    notes: list[str]
    stages: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)


def job_of(
    unlearn: str, settings: Mapping[str, Any], base: BaseConfig, experiment: str | None, progress: Progress, judges: Sequence[int] | None
) -> CheckedConfig:
    """The method, its settings and its data, checked as for a run of it. Raises ValueError or FileNotFoundError as `Pipeline` does.

    judges: the seeds of the oracles that the audit compares with; None where each model would need oracles of its own.
    """
    if base.mask is not None:
        raise ValueError(f"--mask is one model, and an audit needs many, of seeds from --seed on, got {base.mask}. Leave out --mask")
    method = METHODS[unlearn]
    if judges is None and "oracles" in method.facts.needs:
        raise ValueError(
            f"{method.name} needs oracles, and each shadow model would need its own, of what it retains. Audit it by klom, or with "
            "--ulira_out retrained"
        )
    config = PipelineConfig(unlearn=unlearn, settings=settings, base=base, experiment=experiment)
    made = BaseModels(base, progress=progress)
    if judges is not None and "oracles" in method.facts.needs:  # first the last model, which asks for the last of them
        oracles = Oracles(partial(oracles_of, made), tuple(judges))
        data = ForgetData.of_division(made.splits, made.division, seed=judges[-1], device=made.device, oracles=oracles)
        resolved(unlearn, made.untrained(), data, method.settings(settings))
    return Pipeline(config, progress=progress, base=made, judges=judges).checked


def params_of(job: CheckedConfig, **own: Any) -> dict[str, Any]:
    """What an audit logs of its settings: those of a run, but for what is of one model."""
    of_one = {"mask", "ideal", "checkpoint_epochs", "report", MASKED}
    return {name: value for name, value in run_params(job).items() if name not in of_one} | {"split": job.base.splits.digest, **own}


@contextmanager
def audit_run(job: CheckedConfig, kind: str, name: str, params: Mapping[str, Any]) -> Iterator[TrackedRun]:
    """The MLflow run of an audit, begun with its params.

    Processes that want the same audit wait for each other, by a lock in the folder of the checkpoints.
    """
    settings = {"audit": kind, **{setting: str(value) for setting, value in params.items()}}
    settings_hash = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    tags = {"audit": kind, **origin_tags(job), HASH: settings_hash}
    begun = tracked_run(job.experiment, name, tags=tags, columns=names_in("overview"))
    with locked(job.base.save_dir / settings_hash), begun as run:
        run.params(params)
        log_code(run, job.entries)
        yield run


def loaded(job: CheckedConfig, spec: ModelSpec) -> nn.Module:
    """A model of a set, from its checkpoint."""
    model = job.base.built(spec.weights)
    load_checkpoint(spec.path, model)
    return model


def tell_cost(job: CheckedConfig, first: StartingModel, count: int, notice: Notice) -> None:
    """Unlearn one model, and say what that took and what `count` will: before hundreds are trained. Raises NotFinite if it diverges."""
    warm_up()
    started = time.perf_counter()
    _unlearned(job, first)
    seconds = time.perf_counter() - started
    notice(f"{job.method.name}: {seconds:.2f} s for a first model, so about {_span(seconds * count)} for the {count} of this audit")


def unlearned(job: CheckedConfig, starts: Sequence[StartingModel]) -> Iterator[nn.Module]:
    """The unlearned models, in the order of the starts. Raises NotFinite, which names the model, where a method diverges."""
    for start in job.data.progress(starts, f"{job.method.name} on many models"):
        yield _unlearned(job, start)


def _unlearned(job: CheckedConfig, start: StartingModel) -> nn.Module:
    model, data = start.made()
    try:
        return unlearn(job.config.unlearn, model, data, **job.settings).model
    except FloatingPointError as error:
        raise NotFinite(f"{job.method.name} on {start.name}: {error}") from error


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
