"""Runs as rows of a table: every param and metric of any run, or a layout of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lethe.tracking.stored_run import StoredRun

FIXED = ("run_id", "run_name", "experiment", "status", "start_time", "end_time", "duration_s")
PARENT, WARNING = "parent_run_id", "warning"
KINDS = {"start_time": "time", "end_time": "time", "duration_s": "number"}  # other fixed columns are text
NONE = "None"  # a param that has no value, as MLflow stores it

Names = dict[str, str]  # a param's or a metric's name -> its column


@dataclass(frozen=True)
class Layout:
    """The columns of a table in order, each with its kind: text, number or time.

    params, metrics: the column of each name; a name without one is left out. empty_none: an empty cell for a
    param whose value is None.
    """

    columns: dict[str, str]
    params: Names
    metrics: Names
    empty_none: bool = False


def column_names(params: set[str], metrics: set[str]) -> tuple[Names, Names]:
    """Return the column of every param and of every metric: its name, with a prefix if two names clash."""
    fixed = {*FIXED, PARENT, WARNING}
    clashing = (params & metrics) | (params & fixed) | (metrics & fixed)
    taken = fixed | params | metrics
    return named(params, clashing, "param.", taken), named(metrics, clashing, "metric.", taken)


def named(names: set[str], clashing: set[str], prefix: str, taken: set[str]) -> Names:
    columns: Names = {}
    for name in sorted(names):
        column = name
        while name in clashing and column in taken:  # `param.x` may be a logged name too
            column = prefix + column
        taken.add(column)
        columns[name] = column
    return columns


def everything(params: set[str], metrics: set[str]) -> Layout:
    """Return the layout of every name: the fixed columns, then all others sorted."""
    of_params, of_metrics = column_names(params, metrics)
    fixed = {name: KINDS.get(name, "text") for name in FIXED}
    texts = dict.fromkeys((PARENT, WARNING, *of_params.values()), "text")
    numbers = dict.fromkeys(of_metrics.values(), "number")
    return Layout(fixed | dict(sorted((texts | numbers).items())), of_params, of_metrics)


def rows_of(runs: Iterable[StoredRun], layout: Layout) -> Iterator[list[Any]]:
    """Yield a row per run, with None for missing values. Times: ms since 1970."""
    places = {name: place for place, name in enumerate(layout.columns)}
    of_fixed = [(at, places[name]) for at, name in enumerate((*FIXED, PARENT, WARNING)) if name in places]
    of_params = {name: places[column] for name, column in layout.params.items()}
    of_metrics = {name: places[column] for name, column in layout.metrics.items()}
    for run in runs:
        row: list[Any] = [None] * len(places)
        fixed = _fixed(run)
        for at, place in of_fixed:
            row[place] = fixed[at]
        for name, value in run.params.items():
            if name in of_params and not (layout.empty_none and value == NONE):
                row[of_params[name]] = value
        for name, number in run.metrics.items():
            if name in of_metrics:
                row[of_metrics[name]] = number
        yield row


def _fixed(run: StoredRun) -> tuple[Any, ...]:
    """Return the values of FIXED, PARENT and WARNING."""
    start, end = run.start_time, run.end_time
    duration = None if start is None or end is None else (end - start) / 1000
    about = (run.run_id, run.run_name, run.experiment, run.status)
    return *about, start, end, duration, run.parent_run_id, run.warning
