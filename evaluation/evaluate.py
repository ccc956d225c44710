"""Every metric that the evidence allows, and for each of the others the reason why it is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import torch

from evaluation.evidence import NO_WHOLE_CLASS, Evidence, Times
from evaluation.impl import METRICS, NO_WAYS, MetricFacts, missing, needs_of
from registry import Entry

Metric = Entry[MetricFacts]


def _untouched(metrics: Iterable[Metric]) -> Iterable[Metric]:
    return metrics


def evaluate(
    *,
    names: Sequence[str | Metric] | None = None,
    progress: Callable[[Iterable[Metric]], Iterable[Metric]] = _untouched,
    ways: Mapping[str, str] = NO_WAYS,
    **evidence: Evidence | Times,
) -> tuple[dict[str, float], dict[str, str]]:
    """The values by metric name, in the metrics' units, and the reasons of those that have none.

        values, reasons = evaluate(model=..., ideal=...)

    names: which metrics, or the registry's entries themselves (default: all registered ones). progress wraps the list of
    metrics, as tqdm does. ways: the commands that make what a metric needs, by need (`impl.IN_WORDS`), for the reasons.
    `times` are Times, all else is Evidence. Each chosen metric is in exactly one of the two results; NaN is a reason, not a
    value. Raises ValueError for an unknown name, or for evidence that was not made on the same images.
    """
    _check_same_images({name: own for name, own in evidence.items() if isinstance(own, Evidence)})
    found = METRICS if names is None else [METRICS[name] if isinstance(name, str) else name for name in names]
    chosen = list({metric.function: metric for metric in found}.values())
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for metric in progress(chosen):
        try:
            values[metric.name] = _value(metric, evidence, ways)
        except ValueError as error:
            reasons[metric.name] = str(error)
    return values, reasons


def _value(metric: Metric, evidence: Mapping[str, Evidence | Times], ways: Mapping[str, str]) -> float:
    needs = needs_of(metric.function)
    absent = missing(needs, tuple(evidence), ways)
    if absent:
        raise ValueError(absent)
    given = {need: evidence[need] for need in needs}
    if metric.facts.whole_class and not all(own.forget_classes for own in given.values() if isinstance(own, Evidence)):
        raise ValueError(NO_WHOLE_CLASS)
    alone = given["model"] if needs == ("model",) else None
    value = alone.value(metric) if isinstance(alone, Evidence) else metric(**given)
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
