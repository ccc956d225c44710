"""Unlearn many models, one after the other, and log the audit: shared by KLoM and U-LiRA."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from lethe.audits.margin_files import COLUMNS, KEPT_FILE, columns, npy, table
from lethe.data import ImageSet
from lethe.evaluation import Missing, NotFinite, names_in
from lethe.experiment.artifacts import log_code, log_files, log_image_sets, undefined_tags
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.identity import MASKED, CheckedConfig, origin_tags, run_params
from lethe.experiment.model_sets import ModelSpec, oracles_of
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.registry import Entry
from lethe.system.threads import computing_with
from lethe.tracking.finished import HASH
from lethe.tracking.run import TrackedRun, tracked_run
from lethe.training import Progress, checkpoint_digest, checkpoint_header_digest, load_checkpoint, warm_up
from lethe.training.file_lock import locked
from lethe.unlearn import METHODS, ForgetData, Oracles, resolved, unlearn

Notice = Callable[[str], None]
MODELS = "models.csv"


@dataclass(frozen=True)
class StartingModel:
    """A model to unlearn: its name, and a function that loads it with its data."""

    name: str
    made: Callable[[], tuple[nn.Module, ForgetData]]


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit.

    `beside`: references for the values. `notes`: lines for the reader. `intervals`: 95 % intervals of values.
    `models`: a row per evaluated model, as in the artifact models.csv.
    """

    run_id: str
    name: str
    values: dict[str, float]
    beside: dict[str, float]
    undefined: dict[str, Missing]
    notes: list[str]
    stages: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)


def job_of(
    unlearn: str,
    settings: Mapping[str, Any],
    base: BaseConfig,
    experiment: str | None,
    progress: Progress,
    judges: Sequence[int] | None,
) -> CheckedConfig:
    """Return the method, its settings and its data. Raises ValueError or FileNotFoundError as `Pipeline`.

    judges: the seeds of the oracles to compare with; None if each model would need its own oracles.
    """
    if base.mask is not None:
        raise ValueError(
            f"--mask is one model, and an audit needs many, of seeds from --seed on, got {base.mask}. Leave "
            "out --mask"
        )
    method = METHODS[unlearn]
    if judges is None and "oracles" in method.facts.needs:
        raise ValueError(
            f"{method.name} needs oracles, and each shadow model would need its own, of what it retains. "
            "Audit it by klom, or with --ulira_out retrained"
        )
    if "updates" in method.facts.needs:
        raise ValueError(
            f"{method.name} needs the log of each model's training, and an audit's models have none. Audit "
            "another method"
        )
    config = PipelineConfig(unlearn=unlearn, settings=settings, base=base, experiment=experiment)
    made = BaseModels(base, progress=progress)
    if judges is not None and "oracles" in method.facts.needs:
        # Check the last model first: it needs the last oracles.
        oracles = Oracles(partial(oracles_of, made), tuple(judges))
        data = ForgetData.of_division(
            made.splits, made.division, seed=judges[-1], device=made.device, oracles=oracles
        )
        resolved(unlearn, made.untrained(), data, method.settings(settings))
    return Pipeline(config, progress=progress, base=made, judges=judges).checked


def params_of(job: CheckedConfig, **own: Any) -> dict[str, Any]:
    """Return an audit's params: those of a run, without the settings of one model."""
    of_one = {"mask", "ideal", "checkpoint_epochs", "report", MASKED}
    shared = {name: value for name, value in run_params(job).items() if name not in of_one}
    return {**shared, "split": job.base.splits.digest, **own}


@contextmanager
def audit_run(job: CheckedConfig, kind: str, name: str, params: Mapping[str, Any]) -> Iterator[TrackedRun]:
    """Begin the MLflow run of an audit of a method and log its params. See `begun`."""
    with begun(job.base, kind, name, params, job.experiment, origin_tags(job), job.entries) as run:
        yield run


@contextmanager
def begun(
    base: BaseModels,
    kind: str,
    name: str,
    params: Mapping[str, Any],
    experiment: str,
    origin_of_code: Mapping[str, str],
    entries: Sequence[Entry[Any]],
) -> Iterator[TrackedRun]:
    """Begin the MLflow run of an audit and log its params. entries: what may be a user's own code.

    Processes with the same audit wait for each other, by a lock in the folder of the checkpoints.
    """
    settings = {"audit": kind, **{setting: str(value) for setting, value in params.items()}}
    settings_hash = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    tags = {"audit": kind, **origin_of_code, HASH: settings_hash}
    started = tracked_run(experiment, name, tags=tags, columns=names_in("overview"))
    threads = computing_with(base.threads)
    with locked(base.save_dir / settings_hash), threads, started as run:
        run.params(params)
        log_code(run, entries)
        yield run


def origin(spec: ModelSpec) -> dict[str, Any]:
    """Return a model's seed and checkpoint, with the digests of its weights and of its header."""
    header = checkpoint_header_digest(spec.path) or ""
    digests = {"checkpoint_digest": checkpoint_digest(spec.path), "header_digest": header}
    return {"seed": spec.seed, "checkpoint": spec.path, **digests}


def log_margins(
    run: TrackedRun,
    base: BaseModels,
    sets: Mapping[str, ImageSet],
    rows: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """Log the image sets, the tables of columns and of models (rows), and the arrays.

    Each file's SHA-256 is a param.
    """
    log_image_sets(run, base.splits.dataset, {**sets, "test": base.splits.test})
    files = {COLUMNS: table(columns(sets)).encode(), MODELS: table(rows).encode()}
    log_kept(run, files | {name: npy(array) for name, array in arrays.items()})


def log_kept(run: TrackedRun, files: Mapping[str, bytes]) -> None:
    """Log contents as artifacts by file name, and each one's SHA-256 as a param."""
    run.params({KEPT_FILE + name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    log_files(run, files)


def log_result(run: TrackedRun, result: AuditResult) -> None:
    """Log the numbers, and the reasons of missing ones."""
    seconds = {f"stage_{stage}_seconds": value for stage, value in result.stages.items()}
    run.metrics(result.values | result.beside | ends_of(result.intervals) | seconds)
    run.tags(undefined_tags(result.undefined))


def ends_of(intervals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return intervals as metrics: <name>_low and <name>_high."""
    lows = {f"{name}_low": low for name, (low, _) in intervals.items()}
    return lows | {f"{name}_high": high for name, (_, high) in intervals.items()}


def loaded(job: CheckedConfig, spec: ModelSpec) -> nn.Module:
    """Load a model of a set from its checkpoint."""
    model = job.base.built(spec.weights)
    load_checkpoint(spec.path, model)
    return model


def announce_cost(job: CheckedConfig, first: StartingModel, count: int, notice: Notice) -> None:
    """Unlearn one model and print the time for `count` of them. Raises NotFinite if it diverges."""
    warm_up()
    started = time.perf_counter()
    _unlearned(job, first)
    seconds = time.perf_counter() - started
    notice(
        f"{job.method.name}: {seconds:.2f} s for a first model, so about {_span(seconds * count)} for the "
        f"{count} of this audit"
    )


def unlearned(job: CheckedConfig, starts: Sequence[StartingModel]) -> Iterator[nn.Module]:
    """Yield the unlearned models in order. Raises NotFinite, naming the model, if the method diverges."""
    for start in job.data.progress(starts, f"{job.method.name} on many models"):
        yield _unlearned(job, start)


def _unlearned(job: CheckedConfig, start: StartingModel) -> nn.Module:
    model, data = start.made()
    try:
        return unlearn(job.config.unlearn, model, data, **job.settings).model
    except FloatingPointError as error:
        raise NotFinite(f"{job.method.name} on {start.name}: {error}") from error


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
