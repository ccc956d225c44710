"""Several runs as children of one parent run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from lethe.data import Splits
from lethe.evaluation import names_in
from lethe.evaluation.over_seeds import OverSeeds
from lethe.experiment.artifacts import PICTURES
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.identity import CheckedConfig
from lethe.experiment.pipeline import Pipeline, PipelineConfig, Result
from lethe.report.kappa_chart import kappa_curve
from lethe.report.run_note import sweep_note
from lethe.report.seeds_text import seeds_of
from lethe.report.svg import Picture
from lethe.report.svg_file import svg_file
from lethe.tracking.run import TrackedRun, tracked_run
from lethe.training import Progress, silent
from lethe.training.process_group import ALONE, ProcessGroup


def run_all(
    configs: Sequence[PipelineConfig], *, progress: Progress = silent, group: ProcessGroup = ALONE
) -> list[Result]:
    """Run configs that differ in the method's settings and the seed, as children of one parent run.

    A single config has no parent. All are checked before the first runs. Base models are made once. group:
    the processes that compute each run together; the first of them has the results.
    """
    if len({config.base.seed for config in configs}) > 1 and any(config.base.mask for config in configs):
        raise ValueError(
            "--mask is one model, and several seeds mean several. Leave out --mask, or give one --seed"
        )
    twice = next((config for number, config in enumerate(configs) if config in configs[:number]), None)
    if twice is not None:
        settings = {**twice.settings, "seed": twice.base.seed}
        given = ", ".join(f"{name} {value}" for name, value in settings.items())
        message = f"expected every run once, got the same twice: {twice.unlearn} with {given}"
        raise ValueError(f"{message}. Leave out the repeated value")
    bases: list[BaseModels] = []
    pipelines = []
    for config in configs:
        base = next((made for made in bases if made.asked == config.base), None)
        if base is None:
            splits = same_splits(bases, config.base)
            base = BaseModels(config.base, progress=progress, splits=splits, group=group)
            bases.append(base)
        pipelines.append(Pipeline(config, progress=progress, base=base))
    if not group.first:
        for pipeline in pipelines:
            pipeline.take_part()
        return []
    if len(pipelines) == 1:
        return [pipelines[0].run()]
    first = pipelines[0].checked
    name = f"{first.method.name} {first.base.request_slug} x {len(pipelines)}"
    with tracked_run(
        first.experiment, name, tags={"sweep": "parent"}, columns=names_in("overview")
    ) as parent:
        try:
            results = [pipeline.run(nested=True) for pipeline in pipelines]
        finally:  # also when a method diverged, which ends the sweep
            _tag_warnings(parent, pipelines)
        _log_parent(parent, first, results)
    return results


def by_setting(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Return the results by setting, which has no seed, and by seed."""
    found: dict[str, dict[int, Result]] = {}
    for result in results:
        found.setdefault(result.setting, {})[result.seed] = result
    return found


def over_seeds_of(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return by setting and metric the statistics over seeds, of values and of gaps to the ideal models."""
    return {setting: _over_seeds(runs) for setting, runs in by_setting(results).items() if len(runs) > 1}


def _over_seeds(runs: Mapping[int, Result]) -> dict[str, Any]:
    metrics = {seed: run.metrics for seed, run in runs.items()}
    ideals = {seed: run.ideal for seed, run in runs.items()}
    found = {}
    for name in dict.fromkeys(name for values in metrics.values() for name in values):
        parts = zip(("unlearned", "ideal", "gap"), seeds_of(name, metrics, ideals), strict=True)
        found[name] = {part: None if over is None else _as_json(over) for part, over in parts}
    return found


def _as_json(over: OverSeeds) -> dict[str, Any]:
    """Return the statistics, infinity and NaN as text; for saturated values the counts instead of a mean."""
    values = [value if math.isfinite(value) else str(value) for value in over.values]
    if over.saturated and over.n > 1:
        return {
            "seeds": over.n,
            "values": values,
            "saturated": True,
            "counts": {f"{value:g}": n for value, n in over.counts.items()},
        }
    return {"seeds": over.n, **asdict(over), "values": values}


def _tag_warnings(parent: TrackedRun, pipelines: Sequence[Pipeline]) -> None:
    warned = sum(bool(pipeline.warnings) for pipeline in pipelines)
    if warned:
        have = "has a warning" if warned == 1 else "have warnings"
        parent.tags({"warning": f"{warned} of {len(pipelines)} runs {have}"})


def same_splits(bases: Sequence[BaseModels], config: BaseConfig) -> Splits | None:
    """Return the splits of earlier base models on the same images and split; None if there are none."""

    def images_of(one: BaseConfig) -> tuple[Any, ...]:
        return one.dataset, one.data, one.split_seed, one.reading

    return next((base.splits for base in bases if images_of(base.config) == images_of(config)), None)


def _log_parent(parent: TrackedRun, first: CheckedConfig, results: Sequence[Result]) -> None:
    """Log common params, the names of varying ones, and a curve if only kappa and the seed vary."""
    params = [result.params for result in results]
    varying = sorted(name for name in params[0] if len({str(own[name]) for own in params}) > 1)
    parent.params({name: value for name, value in params[0].items() if name not in varying})
    parent.tags({"varying": ", ".join(varying)})
    decided = [name for name in varying if name not in ("kappa_count", "mask")] or varying
    parent.note(sweep_note({result.name: result.metrics for result in results}, ", ".join(decided)))
    seeds = over_seeds_of(results)
    if seeds:
        parent.text(json.dumps(seeds, indent=2, allow_nan=False), "over_seeds.json")
    made_by_seed = {"seed", "mask"}
    scored = all(name in result.metrics for result in results for name in _scores(first))
    if scored and "kappa" in varying and set(varying) <= {"kappa", "kappa_count"} | made_by_seed:
        picture = _kappa_curve(first, results)
        parent.text(svg_file(picture, f"{len(results)} runs"), f"{PICTURES}/{picture.name}.svg")


def _scores(checked: CheckedConfig) -> list[str]:
    on_test = "test_" if checked.data.forget_classes else ""
    return [f"{on_test}{name}_score" for name in ("forget", "retain")]


def _kappa_curve(first: CheckedConfig, results: Sequence[Result]) -> Picture:
    """Draw the forget and retain scores over kappa: on test images if a class is forgotten whole."""
    scores = _scores(first)
    points = [
        (result.params["kappa_count"], result.metrics[scores[0]], result.metrics[scores[1]])
        for result in results
    ]
    forget, retain = (mean(result.initial[name] for result in results) for name in scores)
    images = "test images" if first.data.forget_classes else "training images"
    title = f"{first.method.name}, {first.base.splits.dataset}, {first.base.forgotten}: {images}"
    mask = results[0].unlearned.mask  # a chosen layer has no size before its mask is made
    size = first.layer_size if mask is None else mask.keep.numel()
    return kappa_curve(points, (forget, retain), title=title, size=size)
