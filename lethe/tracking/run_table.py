"""Runs as rows of a table, with a column for every param and metric of any run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lethe.tracking.stored_run import StoredRun

FIXED = ("run_id", "run_name", "experiment", "status", "start_time", "end_time", "duration_s")
PARENT, WARNING = "parent_run_id", "warning"
KINDS = {"start_time": "time", "end_time": "time", "duration_s": "number"}  # other fixed columns are text

Names = dict[str, str]  # a param's or a metric's name -> its column


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


def columns_of(params: Names, metrics: Names) -> dict[str, str]:
    """Return every column in order, with its kind: text, number or time."""
    fixed = {name: KINDS.get(name, "text") for name in FIXED}
    texts = dict.fromkeys((PARENT, WARNING, *params.values()), "text")
    numbers = dict.fromkeys(metrics.values(), "number")
    return fixed | dict(sorted((texts | numbers).items()))


def rows_of(runs: Iterable[StoredRun], params: Names, metrics: Names) -> Iterator[list[Any]]:
    """Yield a row per run, with None for missing values. Times: ms since 1970."""
    places = {name: place for place, name in enumerate(columns_of(params, metrics))}
    of_params = {name: places[column] for name, column in params.items()}
    of_metrics = {name: places[column] for name, column in metrics.items()}
    for run in runs:
        row: list[Any] = [None] * len(places)
        start, end = run.start_time, run.end_time
        duration = None if start is None or end is None else (end - start) / 1000
        row[: len(FIXED)] = run.run_id, run.run_name, run.experiment, run.status, start, end, duration
        row[places[PARENT]], row[places[WARNING]] = run.parent_run_id, run.warning
        for name, value in run.params.items():
            row[of_params[name]] = value
        for name, number in run.metrics.items():
            if name in of_metrics:  # some are left out
                row[of_metrics[name]] = number
        yield row
