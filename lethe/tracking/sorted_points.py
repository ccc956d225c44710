"""Sort the values of metrics, in memory or, if there are too many, in a temporary file."""

from __future__ import annotations

import itertools
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from lethe.tracking.stored_run import BrokenRun, Point

AT_ONCE = 100_000  # values in memory: some 30 MB of them

# value: for the order, in which NaN is NULL. exact: its eight bytes, as sqlite has no NaN and no negative
# zero.
TABLE = "CREATE TABLE points (run INTEGER, metric TEXT, step INTEGER, time INTEGER, value REAL, exact BLOB)"
INSERT = "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?)"
ORDERED = "SELECT run, metric, step, time, exact FROM points ORDER BY run, metric, step, time, value"
DOUBLE = struct.Struct("<d")


class SortedPoints:
    """Points sorted by run (as given), metric, step, time and value, while the context is open.

    `broken`: runs whose points are left out, with the reason, complete once all points were iterated over.
    Holds at most AT_ONCE values in memory; sqlite sorts more in an unnamed temporary file (in SQLITE_TMPDIR,
    else /var/tmp). Raises OSError if there is no room.
    """

    def __init__(self, runs: Sequence[str]) -> None:
        self._runs = runs
        self._place = {run_id: place for place, run_id in enumerate(runs)}
        self.broken: dict[str, str] = {}
        self._held: list[Point] = []
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, points: Iterable[Point]) -> None:
        """Add points, in any order. Raises what `points` raises."""
        unread = iter(points)
        while some := list(itertools.islice(unread, AT_ONCE - len(self._held))):
            self._held += some
            if len(self._held) >= AT_ONCE:
                self._write()

    def __iter__(self) -> Iterator[Point]:
        """Yield the points of all runs but the broken ones."""
        return (point for point in self._sorted() if point.run_id not in self.broken)

    def _sorted(self) -> Iterator[Point]:
        if self._file is None:
            self._held.sort()
            self._held.sort(key=lambda point: self._place[point.run_id])  # stable: keeps each run's order
            yield from self._held
            return
        self._write()
        with _explained_errors():
            for place, metric, step, time, exact in self._file.execute(ORDERED):
                yield Point(self._runs[place], metric, step, time, *DOUBLE.unpack(exact))

    def _write(self) -> None:
        with _explained_errors():
            if self._file is None:
                self._file = sqlite3.connect("", isolation_level=None)
                self._file.execute("PRAGMA journal_mode = OFF")  # the file is never recovered
                self._file.execute(TABLE)
                self._file.execute("BEGIN")
            self._held.sort(key=lambda point: point.run_id)
            for run_id, points in itertools.groupby(self._held, key=lambda point: point.run_id):
                self._insert(self._file, run_id, points)
        self._held = []

    def _insert(self, file: sqlite3.Connection, run_id: str, points: Iterable[Point]) -> None:
        place = self._place[run_id]
        rows = ((place, *point[1:], DOUBLE.pack(point.value)) for point in points)
        try:
            file.executemany(INSERT, rows)
        except (OverflowError, UnicodeEncodeError) as error:
            self.broken[run_id] = (
                "expected steps of 64 bits and names in Unicode, as the history is too long for memory, got "
                f"others ({error})"
            )


def sorted_histories(
    runs: Sequence[str], parts: Iterable[tuple[str, Iterable[Point]]], where: str = ""
) -> Iterator[Point | BrokenRun]:
    """Yield the sorted points of runs; for points that raise ValueError or TypeError a BrokenRun.

    parts: a run's id and some of its points, in any order. where: the place of the runs, for messages.
    """
    with SortedPoints(runs) as found:
        for run_id, points in parts:
            try:
                found.add(points)
            except (ValueError, TypeError) as error:
                found.broken[run_id] = str(error)
        yield from found
        for run_id, reason in found.broken.items():
            yield BrokenRun(f"{where}history of run {run_id}", reason)


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(
            f"histories that are too long for memory can't be sorted on disk ({error}). Make room, or set "
            "SQLITE_TMPDIR"
        ) from error
