"""Evaluate metrics, and give the reason for each that has no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import torch

from lethe.evaluation.impl import (
    METRICS,
    NO_COMMANDS,
    OF_MANY,
    MetricFacts,
    Missing,
    Undecided,
    missing_inputs,
    needs_of,
)
from lethe.evaluation.memorisation import Memorisation
from lethe.evaluation.model_outputs import NO_WHOLE_CLASS, ModelOutputs, Times
from lethe.evaluation.population import Population
from lethe.evaluation.ulira import Shadows
from lethe.registry import Entry

Metric = Entry[MetricFacts]
Known = ModelOutputs | Times | Population | Shadows | Memorisation


def _untouched(metrics: Iterable[Metric]) -> Iterable[Metric]:
    return metrics


def evaluate(
    *,
    names: Sequence[str | Metric] | None = None,
    progress: Callable[[Iterable[Metric]], Iterable[Metric]] = _untouched,
    commands: Mapping[str, str] = NO_COMMANDS,
    **given: Known,
) -> tuple[dict[str, float], dict[str, Missing]]:
    """Return the values by metric name, and for metrics without a value the reasons.

        values, reasons = evaluate(model=..., ideal=...)
        values, reasons = evaluate(models=..., oracles=...)    populations
        values, reasons = evaluate(shadows=...)

    names: names or registry entries of metrics (default: all metrics of one model; with populations or
    shadows, all metrics of many). progress: wraps the list of metrics, as tqdm does. commands: the commands
    that make missing inputs, by input name (`impl.IN_WORDS`). Inputs: `times` is Times, `models` and
    `oracles` are Populations, `shadows` is Shadows, `memorisation` is Memorisation of the forget images, all
    others are ModelOutputs. Each metric is in exactly
    one of the two results; NaN is a reason, not a value. Raises ValueError for an unknown name, and for
    outputs on different images.
    """
    _check_same_images({name: own for name, own in given.items() if isinstance(own, ModelOutputs)})
    asked = _about(given) if names is None else names
    named = [METRICS[name] if isinstance(name, str) else name for name in asked]
    chosen = list({metric.function: metric for metric in named}.values())
    values: dict[str, float] = {}
    reasons: dict[str, Missing] = {}
    for metric in progress(chosen):
        absent = missing_inputs(needs_of(metric.function), given, commands)
        if absent is not None:
            reasons[metric.name] = absent
            continue
        try:
            values[metric.name] = _value(metric, given)
        except ValueError as error:
            reasons[metric.name] = Missing(str(error), undecided=isinstance(error, Undecided))
    return values, reasons


def _about(given: Mapping[str, Known]) -> list[Metric]:
    """Return the metrics of many models that read the given inputs, else all metrics of one model."""
    wanted = OF_MANY & given.keys()
    needs = {metric: OF_MANY & set(needs_of(metric.function)) for metric in METRICS}
    return [metric for metric, of_many in needs.items() if (of_many & wanted if wanted else not of_many)]


def _value(metric: Metric, given: Mapping[str, Known]) -> float:
    needs = needs_of(metric.function)
    arguments = {need: given[need] for need in needs}
    if metric.facts.whole_class and not all(
        own.forget_classes for own in arguments.values() if isinstance(own, ModelOutputs)
    ):
        raise ValueError(NO_WHOLE_CLASS)
    alone = arguments["model"] if needs == ("model",) else None
    value = alone.value(metric) if isinstance(alone, ModelOutputs) else metric(**arguments)
    if math.isnan(value):
        raise ValueError("the result is not a number")
    return float(value)


def _check_same_images(given: Mapping[str, ModelOutputs]) -> None:
    for (one, first), (other, second) in combinations(given.items(), 2):
        for name in first.sets.keys() & second.sets.keys():
            ours, theirs = first.sets[name].labels, second.sets[name].labels
            both = len(ours) and len(theirs)  # a set without images was left out
            if both and not torch.equal(ours.cpu(), theirs.cpu()):
                raise ValueError(
                    f"expected the same {name} images for {one} and {other}, got other labels. "
                    "Evaluate both on the same sets, in the same order."
                )
