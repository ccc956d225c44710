"""What a reader of a tracking store yields: a run, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

RUN_NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"
WARNING_TAG = "warning"  # what makes the numbers of a run doubtful, as mlflow_forget.py puts it
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")  # MLflow's order: file stores number them from 1

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST = 1.7976931348623157e308  # MLflow's databases hold this in place of infinity


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One active run, values as they were logged; times in ms since 1970 (UTC), metrics at their latest value.

    Raises ValueError for a status or a time that can't be, and for text that is no Unicode: such a run is broken.
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

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"expected a status of {', '.join(STATUSES)}, got {self.status!r}")
        iso_utc(self.start_time)
        iso_utc(self.end_time)
        own = (self.run_id, self.run_name, self.experiment, self.parent_run_id, self.warning)
        "".join(
            (*own, *self.params, *self.params.values(), *self.metrics)
        ).encode()  # a lone surrogate (a file name of odd bytes) would fail only later, in the middle of the CSV


@dataclass(frozen=True, slots=True)
class BrokenRun:
    """A run that could not be read: where it is and why."""

    where: str
    reason: str


def iso_utc(milliseconds: int | None) -> str:
    """ISO-8601 in UTC with milliseconds, `2024-05-01T12:00:00.123Z`; empty for None. Raises ValueError if it is no time."""
    if milliseconds is None:
        return ""
    if type(milliseconds) is not int:
        raise ValueError(f"expected a time as whole milliseconds since 1970, got {milliseconds!r}")
    try:
        moment = EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise ValueError(f"expected a time between the years 1 and 9999, got {milliseconds} ms since 1970") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def infinity_restored(value: float) -> float:
    """The infinity that a database of MLflow stores as the largest float; any other value unchanged."""
    return value if -LARGEST < value < LARGEST or value != value else value * 2
