"""The runs that a reader of a tracking store yields, and reasons for unreadable ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

RUN_NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"
WARNING_TAG = "warning"  # what makes the numbers of a run doubtful, as mlflow_forget.py puts it
STATUSES = (
    "RUNNING",
    "SCHEDULED",
    "FINISHED",
    "FAILED",
    "KILLED",
)  # MLflow's order: file stores number them from 1

EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
LARGEST = 1.7976931348623157e308  # MLflow's databases hold this in place of infinity


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One active run, values as they were logged; times in ms since 1970 (UTC), metrics at their latest
    value, tags where asked for.

    Raises ValueError for a status or a time that can't be, and for text that is no Unicode: such a run is
    broken.
    """

    run_id: str
    run_name: str
    experiment: str
    status: str
    start_time: int | None
    end_time: int | None
    parent_run_id: str
    warning: str
    params: dict[str, str]
    metrics: dict[str, float]
    artifact_uri: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"expected a status of {', '.join(STATUSES)}, got {self.status!r}")
        for time in (self.start_time, self.end_time):
            if time is not None:
                checked_time(time)
        own = (
            self.run_id,
            self.run_name,
            self.experiment,
            self.parent_run_id,
            self.warning,
            self.artifact_uri,
            *self.tags.values(),
        )
        "".join(
            (*own, *self.params, *self.params.values(), *self.metrics)
        ).encode()  # a lone surrogate (a file name of odd bytes) would fail only later, in the middle of the CSV


class Point(NamedTuple):
    """One value that a metric had; time in ms since 1970."""

    run_id: str
    metric: str
    step: int
    time: int
    value: float


@dataclass(frozen=True, slots=True)
class BrokenRun:
    """A run that could not be read: where it is and why."""

    where: str
    reason: str


def checked_time(milliseconds: object) -> int:
    """A time as it is. Raises ValueError if it is none."""
    if type(milliseconds) is not int:
        raise ValueError(f"expected a time as whole milliseconds since 1970, got {milliseconds!r}")
    if not EARLIEST <= milliseconds <= LATEST:
        raise ValueError(f"expected a time between the years 1 and 9999, got {milliseconds} ms since 1970")
    return milliseconds


def infinity_restored(value: float) -> float:
    """The infinity that a database of MLflow stores as the largest float; any other value unchanged."""
    return value if -LARGEST < value < LARGEST or value != value else value * 2
