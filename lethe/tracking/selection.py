"""The selection of runs of a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean
from lethe.tracking.run_filter import Clause
from lethe.tracking.stored_run import PARENT_TAG, RUN_NAME_TAG, WARNING_TAG, StoredRun


@dataclass(frozen=True)
class Selection:
    """Runs of these experiments (default: all) that meet all clauses and began not before `since`.

    since: ms since 1970. tags: names of tags to read, besides those of the clauses and the columns.
    """

    experiments: tuple[str, ...] = ()
    since: int | None = None
    clauses: tuple[Clause, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def tag_names(self) -> tuple[str, ...]:
        of_clauses = (clause.key for clause in self.clauses if clause.kind == "tag")
        return tuple(dict.fromkeys((RUN_NAME_TAG, PARENT_TAG, WARNING_TAG, *self.tags, *of_clauses)))

    def takes_experiment(self, name: str) -> bool:
        return not self.experiments or name in self.experiments

    def takes_time(self, start_time: object) -> bool:
        """Return whether the start time is selected. Accepts a malformed time, which the reader reports."""
        if self.since is None:
            return True
        return start_time >= self.since if isinstance(start_time, int) else start_time is not None

    def takes(self, run: StoredRun) -> bool:
        return (
            self.takes_experiment(run.experiment)
            and self.takes_time(run.start_time)
            and all(clause.holds(run) for clause in self.clauses)
        )

    def check(self, experiments: Iterable[str]) -> None:
        """Raise ValueError for a selected experiment that the store does not have."""
        known = set(experiments)
        for name in self.experiments:
            if name not in known:
                raise ValueError(did_you_mean("experiment", name, known))


EVERY_RUN = Selection()


def since_time(text: str) -> int:
    """Parse `2026-05-01`, `2026-05-01T12:30` or `2026-05-01T12:30+02:00` (default: UTC) to ms since 1970.

    Raises ValueError for anything else.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        reason = (
            f"expected a date, or a date and a time, got {text!r}. Write e.g. 2026-05-01 or 2026-05-01T12:30Z"
        )
        raise FlagError("since", reason) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
