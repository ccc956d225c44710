"""Every metric that the evidence allows, and for each of the others the reason why it is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import torch

from evaluation.evidence import NO_WHOLE_CLASS, Evidence
from evaluation.impl import METRICS, MetricFacts, missing, needs_of
from evaluation.population import Population
from evaluation.ulira import Shadows
from registry import Entry

Metric = Entry[MetricFacts]
Known = Evidence | Population | Shadows


def _untouched(metrics: Iterable[Metric]) -> Iterable[Metric]:
    return metrics


def evaluate(
    *,
    names: Sequence[str] | None = None,
    progress: Callable[[Iterable[Metric]], Iterable[Metric]] = _untouched,
    **evidence: Known,
) -> tuple[dict[str, float], dict[str, str]]:
    """The values by metric name, in the metrics' units, and the reasons of those that have none.

        values, reasons = evaluate(model=..., ideal=...)
        values, reasons = evaluate(models=..., oracles=...)    populations
        values, reasons = evaluate(shadows=...)

    names: which metrics (default: all registered ones that read something of what is given, so those of one model or those of
    many). progress wraps the list of metrics, as tqdm does. Each chosen
    metric is in exactly one of the two results; NaN is a reason, not a value. Raises ValueError for an unknown name, or
    for evidence that was not made on the same images.
    """
    _check_same_images({name: known for name, known in evidence.items() if isinstance(known, Evidence)})
    chosen = _about(evidence) if names is None else list({METRICS[name].function: METRICS[name] for name in names}.values())
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for metric in progress(chosen):
        try:
            values[metric.name] = _value(metric, evidence)
        except ValueError as error:
            reasons[metric.name] = str(error)
    return values, reasons


def _about(given: Mapping[str, Known]) -> list[Metric]:
    return [metric for metric in METRICS if not given.keys().isdisjoint(needs_of(metric.function))]


def _value(metric: Metric, evidence: Mapping[str, Known]) -> float:
    needs = needs_of(metric.function)
    absent = missing(needs, tuple(evidence))
    if absent:
        raise ValueError(absent)
    own = {need: evidence[need] for need in needs}
    if metric.facts.whole_class and not all(known.forget_classes for known in own.values() if isinstance(known, Evidence)):
        raise ValueError(NO_WHOLE_CLASS)
    model = evidence.get("model")
    value = model.value(metric) if needs == ("model",) and isinstance(model, Evidence) else metric(**own)
    if math.isnan(value):
        raise ValueError("the result is not a number")
    return float(value)


def _check_same_images(evidence: Mapping[str, Evidence]) -> None:
    for (one, first), (other, second) in combinations(evidence.items(), 2):
        for name in first.sets.keys() & second.sets.keys():
            ours, theirs = first.sets[name].labels, second.sets[name].labels
            if len(ours) and len(theirs) and not torch.equal(ours.cpu(), theirs.cpu()):  # a set without images was left out
                raise ValueError(
                    f"expected the same {name} images for {one} and {other}, got other labels. "
                    "Evaluate both on the same sets, in the same order."
                )
