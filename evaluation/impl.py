"""The registry of metrics: names -> functions of models' outputs."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeVar

from lethe.commands import started
from lethe.evaluation.units import Unit
from lethe.registry import Registry
from lethe.signature import Function

# Where a metric is shown: in the table of one run, in tables of several, in MLflow's list of runs, as a curve
# over kappa; attack: one that is trained.
Group = Literal["headline", "summary", "overview", "kappa", "attack"]
Reason = TypeVar("Reason")
Better = Literal["", "higher", "lower", "near the ideal's", "near 0", "near 0.5", "near 0.01", "near 1"]


@dataclass(frozen=True)
class MetricFacts:
    """The facts that a metric registers; all empty for an unregistered function of a user.

    unit: of the value. better: the good direction. source: the publication. better_of_images,
    better_of_classes: the good direction for a request of some images of a class, or of whole classes, where
    it differs. groups: the tables that show the metric. column: its name in the tables of the literature,
    "RA"; complement: that column shows 100 - the value. Of several metrics of one column, the last that a run
    has is shown. whole_class: the metric exists only for a request of whole classes. costly: measured only
    when named, or with "all". The positional parameters of the function declare its inputs.
    """

    unit: Unit = ""
    better: Better = ""
    source: str = ""
    whole_class: bool = False
    costly: bool = False
    groups: tuple[Group, ...] = ()
    column: str = ""
    complement: bool = False
    better_of_images: Better = ""
    better_of_classes: Better = ""

    def direction(self, whole: bool) -> Better:
        """Return the good direction for a request of whole classes (`whole`), or of images."""
        return (self.better_of_classes if whole else self.better_of_images) or self.better


VERSION = 4  # part of the cache key: raise it when a metric changes its value for the same outputs

UNDECIDED = "undecided"  # shown for a metric that was measured without a result; begins its reason
BAD_TEACHING = "Chundawat et al. 2023, arXiv:2205.08096"  # the source of several metrics

METRICS: Registry[MetricFacts] = Registry("metric", MetricFacts, plugins="lethe.metrics")
"""The metrics by name, or path/to/file.py:function."""
register = METRICS.register
"""Decorator: register a metric, a function of models' outputs that returns a number.

    @lethe.register_metric("confidence", unit="percent", better="lower")
    def confidence(model: ModelOutputs) -> float: ...

Its parameters say what it needs: model, ideal, initial, incompetent, times, memorisation, and in audits
models, oracles or shadows. Further keyword arguments are the fields of `MetricFacts`. Raises ValueError for a
name that is registered already.
"""

IN_WORDS = {
    "model": "a model to evaluate",
    "ideal": "an ideal model",
    "initial": "the initial model",
    "incompetent": "an incompetent teacher (an untrained model of the same architecture)",
    "models": "many unlearned models",
    "oracles": "oracles",
    "shadows": "shadow models",
    "times": "the seconds that the models took to make",
    "memorisation": "the memorisation of the forget images",
}
AUDITS = {"oracles": "klom", "shadows": "ulira"}  # the audit that has what a metric needs
OF_MANY = frozenset({"models", "oracles", "shadows"})  # inputs that only an audit of many models has
NO_COMMANDS: Mapping[str, str] = MappingProxyType({})
OF_BASE_MODELS = ("initial", "ideal")  # a run logs their metrics as initial_<name> and ideal_<name>


class Undecided(ValueError):
    """Raised for a metric that was measured without a result. Its message begins with "undecided: "."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{UNDECIDED}: {why}")


@dataclass(frozen=True)
class Missing:
    """Why something was not measured. `command`: makes what is missing. `undecided`: measured, no result."""

    reason: str
    command: str = ""
    undecided: bool = False

    def __str__(self) -> str:
        return f"{self.reason}. Make it: {self.command}" if self.command else self.reason


def reasons_of(model: str, reasons: Mapping[str, Missing]) -> dict[str, Missing]:
    """Return why metrics of one model have no value, by metric name. reasons: of a run, by logged name."""
    if model in OF_BASE_MODELS:
        prefix = f"{model}_"
        return {name.removeprefix(prefix): why for name, why in reasons.items() if name.startswith(prefix)}
    others = tuple(f"{base}_" for base in OF_BASE_MODELS)
    return {name: why for name, why in reasons.items() if not name.startswith(others)}


def by_reason(reasons: Iterable[tuple[str, Reason]]) -> dict[Reason, list[str]]:
    """Group names by their reason, in the given order. reasons: pairs of a name and its reason."""
    groups: dict[Reason, list[str]] = {}
    for name, why in reasons:
        groups.setdefault(why, []).append(name)
    return groups


def is_undecided(metric: str, reasons: Mapping[str, Missing]) -> bool:
    """Return whether a metric was measured without a result. reasons: why metrics have no value, by name."""
    return metric in reasons and reasons[metric].undecided


@cache
def needs_of(metric: Function) -> tuple[str, ...]:
    """Return the names of a metric's inputs: its positional parameters.

    ("model",), or ("model", "ideal") for a comparison with the ideal model. Takes the function itself, not
    its registry entry.
    """
    parameters = inspect.signature(metric).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def missing_inputs(
    needs: Sequence[str], given: Collection[str], commands: Mapping[str, str] = NO_COMMANDS
) -> Missing | None:
    """Return what is missing, such as "needs an ideal model"; None if every input is given.

    commands: the commands that make missing inputs, by input name.
    """
    absent = [need for need in needs if need not in given]
    if not absent:
        return None
    inputs = " and ".join(_in_words(need) for need in absent)
    return Missing(f"needs {inputs}", "; ".join(commands[need] for need in absent if need in commands))


def _in_words(need: str) -> str:
    """Return what a metric needs, with the command of the audit that has it."""
    words = IN_WORDS.get(need, need)
    return f"{words} ({started('audit')} {AUDITS[need]} --unlearn NAME)" if need in AUDITS else words
