"""The runs that a reader of a tracking store yields, and unreadable ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

RUN_NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"
WARNING_TAG = "warning"  # mlflow_forget.py's warnings of a run
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")  # file stores number them from 1

EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
LARGEST = 1.7976931348623157e308  # MLflow's databases hold this in place of infinity


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An active run, with the latest value of each metric and the selected tags.

    Times are ms since 1970 (UTC). Raises ValueError for an unknown status, an impossible time, and text that
    is no Unicode.
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
        # A lone surrogate, as from a file name of odd bytes, would fail in the middle of the CSV.
        texts = (
            self.run_id,
            self.run_name,
            self.experiment,
            self.parent_run_id,
            self.warning,
            self.artifact_uri,
        )
        names = (*self.params, *self.params.values(), *self.metrics, *self.tags.values())
        "".join(texts + names).encode()


class Point(NamedTuple):
    """One value of a metric. time: ms since 1970."""

    run_id: str
    metric: str
    step: int
    time: int
    value: float


@dataclass(frozen=True, slots=True)
class BrokenRun:
    """A run that could not be read: its place, and the reason."""

    where: str
    reason: str


def checked_time(milliseconds: object) -> int:
    """Return a time. Raises ValueError for anything but an integer from the year 1 to 9999."""
    if type(milliseconds) is not int:
        raise ValueError(f"expected a time as whole milliseconds since 1970, got {milliseconds!r}")
    if not EARLIEST <= milliseconds <= LATEST:
        raise ValueError(f"expected a time between the years 1 and 9999, got {milliseconds} ms since 1970")
    return milliseconds


def infinity_restored(value: float) -> float:
    """Return infinity for the largest float, as which MLflow's databases store it; other values unchanged."""
    return value if -LARGEST < value < LARGEST or value != value else value * 2
