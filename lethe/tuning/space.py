"""The search space of a method: its hyperparameters' ranges, narrowed by a file, without the fixed ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean
from lethe.registry import Entry
from lethe.signature import Hyperparameter, Search
from lethe.sweeps.source_lines import Located, read_yaml

if TYPE_CHECKING:
    from optuna.trial import Trial

NEAR = 0.02  # of a range: so near to an end, the best value may lie beyond it
RANGE_KEYS = ("low", "high", "scale")
EXAMPLE = "Write e.g. {low: 0.001, high: 0.1, scale: log}, or a list of values"


@dataclass(frozen=True)
class Range:
    """A hyperparameter that is searched: a range of numbers, or a list of values."""

    parameter: Hyperparameter
    search: Search | None = None
    values: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def whole(self) -> bool:
        """Whether the values are integers; None, a default that the method resolves, is not drawn."""
        return self.parameter.whole

    def suggested(self, trial: Trial) -> Any:
        """Return the value that Optuna suggests for a trial."""
        if self.search is None:
            return self.values[trial.suggest_categorical(self.name, range(len(self.values)))]
        log = self.search.scale == "log"
        if self.whole:
            return trial.suggest_int(self.name, math.ceil(self.search.low), int(self.search.high), log=log)
        return trial.suggest_float(self.name, self.search.low, self.search.high, log=log)

    def encoded(self, value: Any) -> Any:
        """Return Optuna's own value for a setting; None if the setting is not in the range."""
        if self.search is None:
            return self.values.index(value) if value in self.values else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.search.low <= value <= self.search.high else None

    def end_of(self, value: Any) -> str:
        """Return "low" or "high" if a value lies at that end of the range, else ""."""
        if self.search is None or not isinstance(value, int | float):
            return ""
        scale = math.log if self.search.scale == "log" else float
        low, high, at = scale(self.search.low), scale(self.search.high), scale(value)
        room = NEAR * (high - low)
        return "low" if at <= low + room else "high" if at >= high - room else ""

    @property
    def words(self) -> str:
        if self.search is None:
            return f"one of {', '.join(map(str, self.values))}"
        kind = "whole numbers " if self.whole else ""
        return f"{kind}{self.search.low:g} to {self.search.high:g}, {self.search.scale}"


def space_of(method: Entry[Any], fixed: Iterable[str], file: Path | None = None) -> list[Range]:
    """Return the ranges of the hyperparameters that are not fixed.

    The ranges are those of the annotations, widened to the default; `file`, a YAML file, replaces some and
    adds others. Raises ValueError or FileNotFoundError for a mistake in the file.
    """
    ranges = {
        name: Range(parameter, _with_default(parameter, parameter.search))
        for name, parameter in method.hyperparameters.items()
        if parameter.search is not None
    }
    for name, found in ranges_of_file(method, file).items():
        ranges[name] = found
    held = set(fixed)
    return [found for name, found in ranges.items() if name not in held]


def _with_default(parameter: Hyperparameter, search: Search) -> Search:
    """Widen a range to the default: the annotation of many flags does not know it. A log scale has no 0."""
    default = parameter.default
    number = isinstance(default, int | float) and not isinstance(default, bool)
    if not number or (search.scale == "log" and default <= 0):
        return search
    return replace(search, low=min(search.low, default), high=max(search.high, default))


def ranges_of_file(method: Entry[Any], file: Path | None) -> dict[str, Range]:
    if file is None:
        return {}
    source = read_yaml(file, "ranges")
    if not isinstance(source.content, Mapping) or not source.content:
        raise source.error((), f"expected flags and their ranges. {EXAMPLE}")
    return {str(name).replace("-", "_"): _range(method, source, str(name)) for name in source.content}


def _range(method: Entry[Any], source: Located, key: str) -> Range:
    name = key.replace("-", "_")
    if name not in method.hyperparameters:
        known = [f"--{one}" for one in method.hyperparameters]
        unknown = did_you_mean(f"flag of {method.name}", f"--{name}", known, f"flags of {method.name}")
        raise source.error((key,), unknown)
    parameter, given = method.hyperparameters[name], source.content[key]
    try:
        if isinstance(given, list) and given:
            return Range(parameter, values=tuple(parameter.check(value) for value in given))
        if isinstance(given, Mapping):
            return Range(parameter, _searched(parameter, given))
    except ValueError as error:
        raise source.error((key,), error) from error
    raise source.error((key,), f"expected a range or a list, got {given!r:.60}. {EXAMPLE}")


def _searched(parameter: Hyperparameter, given: Mapping[Any, Any]) -> Search:
    """Return the range with the given ends and scale; what is not given is that of the annotation."""
    unknown = [str(key) for key in given if key not in RANGE_KEYS]
    if unknown:
        raise ValueError(f"expected {', '.join(RANGE_KEYS)}, got {unknown[0]}. {EXAMPLE}")
    own = parameter.search or Search("linear", math.nan, math.nan)
    search = replace(own, **given)
    for end in (search.low, search.high):
        if not isinstance(end, int | float) or isinstance(end, bool) or not math.isfinite(end):
            raise ValueError(f"expected numbers as low and high, got {end!r}. {EXAMPLE}")
        parameter.check(end)
    if search.scale not in ("linear", "log"):
        raise ValueError(f"expected the scale linear or log, got {search.scale!r}. {EXAMPLE}")
    if search.low >= search.high:
        raise ValueError(f"expected low < high, got {search.low:g} and {search.high:g}. {EXAMPLE}")
    if search.scale == "log" and search.low <= 0:
        raise ValueError(f"expected low > 0 on a log scale, got {search.low:g}. Write scale: linear")
    return search


def settings_of(ranges: Iterable[Range], trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial. Raises FlagError if Optuna's value is not one that the flag takes."""
    found = {}
    for one in ranges:
        value = one.suggested(trial)
        try:
            found[one.name] = one.parameter.check(value)
        except ValueError as error:
            raise FlagError(one.name, f"the range goes beyond the values of the flag ({error})") from error
    return found
