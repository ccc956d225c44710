"""The registry of metrics: names -> functions of models' outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from evaluation.units import Unit
from registry import Registry
from signature import Function

# Where a metric is shown: in the table of one run, in tables of several, in MLflow's list of runs, as a curve
# over kappa; attack: one that is trained.
Group = Literal["headline", "summary", "overview", "kappa", "attack"]
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


VERSION = 3  # part of the cache key: raise it when a metric changes its value for the same outputs

UNDECIDED = "undecided"  # prefix of the reason of a metric that was measured without a result
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
OF_MANY = frozenset({"models", "oracles", "shadows"})  # inputs that only an audit of many models has
NO_COMMANDS: Mapping[str, str] = MappingProxyType({})
OF_BASE_MODELS = ("initial", "ideal")  # a run logs their metrics as initial_<name> and ideal_<name>


class Undecided(ValueError):
    """Raised for a metric that was measured without a result. Its message begins with "undecided: "."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{UNDECIDED}: {why}")


def reasons_of(model: str, reasons: Mapping[str, str]) -> dict[str, str]:
    """Return why metrics of one model have no value, by metric name. reasons: of a run, by logged name."""
    if model in OF_BASE_MODELS:
        prefix = f"{model}_"
        return {name.removeprefix(prefix): why for name, why in reasons.items() if name.startswith(prefix)}
    others = tuple(f"{base}_" for base in OF_BASE_MODELS)
    return {name: why for name, why in reasons.items() if not name.startswith(others)}


def is_undecided(metric: str, reasons: Mapping[str, str]) -> bool:
    """Return whether a metric was measured without a result. reasons: why metrics have no value, by name."""
    return reasons.get(metric, "").startswith(UNDECIDED)


def needs_of(metric: Function) -> tuple[str, ...]:
    """Return the names of a metric's inputs: its positional parameters.

    ("model",), or ("model", "ideal") for a comparison with the ideal model. Takes the function itself, not
    its registry entry.
    """
    parameters = inspect.signature(metric).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def missing(needs: tuple[str, ...], given: tuple[str, ...], commands: Mapping[str, str] = NO_COMMANDS) -> str:
    """Return one line about the missing inputs, such as "needs an ideal model"; "" if none is missing.

    commands: the commands that make missing inputs, by input name.
    """
    absent = [need for need in needs if need not in given]
    if not absent:
        return ""
    inputs = " and ".join(IN_WORDS.get(need, need) for need in absent)
    makers = "; ".join(commands[need] for need in absent if need in commands)
    return f"needs {inputs}. Make it: {makers}" if makers else f"needs {inputs}"
