"""The registry of metrics: names -> functions of models' outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from registry import Function, Registry

Unit = Literal["", "percent", "points", "nats", "fraction", "distance", "seconds", "steps", "ratio"]
# Where a metric is shown: in the table of one run, in tables of several, in MLflow's list of runs; attack: one that is trained.
Group = Literal["headline", "summary", "overview", "attack"]
Better = Literal["", "higher", "lower", "near the ideal's", "near 0", "near 0.5", "near 0.01", "near 1"]


@dataclass(frozen=True)
class MetricFacts:
    """What a metric's registration declares; empty where a user's own function declares nothing.

    unit is that of the value, better the direction that is good, source its origin. better_of_images and better_of_classes
    are the direction where images of classes that stay, or whole classes, were forgotten, where that is another one.
    groups say where it is shown. whole_class marks a metric that exists only where a whole class was forgotten, costly one
    that is measured only when it, or all, is asked for. What it needs is not here: its positional parameters say that.
    """

    unit: Unit = ""
    better: Better = ""
    source: str = ""
    whole_class: bool = False
    costly: bool = False
    groups: tuple[Group, ...] = ()
    better_of_images: Better = ""
    better_of_classes: Better = ""

    def direction(self, whole: bool) -> Better:
        """The direction that is good where whole classes were forgotten, or else images of classes that stay."""
        return (self.better_of_classes if whole else self.better_of_images) or self.better


VERSION = 3  # part of what kept values are found by: raise it when the same outputs would give another value

UNDECIDED = "undecided"  # how the reason of a metric begins that was measured and came to no value
BAD_TEACHING = "Chundawat et al. 2023, arXiv:2205.08096"  # the source of several metrics

METRICS: Registry[MetricFacts] = Registry("metric", MetricFacts)
register = METRICS.register

IN_WORDS = {
    "model": "a model to evaluate",
    "ideal": "an ideal model",
    "initial": "the initial model",
    "incompetent": "an incompetent teacher (an untrained model of the same architecture)",
    "models": "many unlearned models",
    "oracles": "oracles (python -u audit.py klom --unlearn NAME)",
    "shadows": "shadow models (python -u audit.py ulira --unlearn NAME)",
    "times": "the seconds that the models took to make",
}
OF_MANY = frozenset({"models", "oracles", "shadows"})  # what an audit has, and no run of one model
NO_COMMANDS: Mapping[str, str] = MappingProxyType({})
OF_BASE_MODELS = ("initial", "ideal")  # a run logs their metrics as initial_<name> and ideal_<name>


class Undecided(ValueError):
    """A metric that was measured and came to no value. The message, which becomes its reason in the run, begins with "undecided: "."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{UNDECIDED}: {why}")


def reasons_of(model: str, reasons: Mapping[str, str]) -> dict[str, str]:
    """Why metrics of one model (initial, unlearned or ideal) have no value, by the metric's name. reasons: of a run, by logged name."""
    if model in OF_BASE_MODELS:
        prefix = f"{model}_"
        return {name.removeprefix(prefix): why for name, why in reasons.items() if name.startswith(prefix)}
    others = tuple(f"{base}_" for base in OF_BASE_MODELS)
    return {name: why for name, why in reasons.items() if not name.startswith(others)}


def is_undecided(metric: str, reasons: Mapping[str, str]) -> bool:
    """Whether the metric of that name was measured and came to no value. reasons: of the metrics without a value, by name."""
    return reasons.get(metric, "").startswith(UNDECIDED)


def needs_of(metric: Function) -> tuple[str, ...]:
    """The names of what a metric needs: its parameters, but for the keyword-only ones.

    ("model",), or ("model", "ideal") for one that compares with the ideal model. Takes the function itself, not its registry entry.
    """
    parameters = inspect.signature(metric).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def missing(needs: tuple[str, ...], given: tuple[str, ...], commands: Mapping[str, str] = NO_COMMANDS) -> str:
    """One line on the needs that are not among the given, as "needs an ideal model"; empty if all are.

    commands: the commands that make them, by need; those that are known are named.
    """
    absent = [need for need in needs if need not in given]
    if not absent:
        return ""
    makers = [commands[need] for need in absent if need in commands]
    return f"needs {' and '.join(IN_WORDS.get(need, need) for need in absent)}" + (f". Make it: {'; '.join(makers)}" if makers else "")
