"""Sort the values of metrics, in memory or, if there are too many, in a temporary file."""

from __future__ import annotations

import itertools
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from tracking.stored_run import BrokenRun, Point

AT_ONCE = 100_000  # values in memory: some 30 MB of them

# value: for the order, in which NaN is NULL. exact: its eight bytes, as sqlite has no NaN and no negative
# zero.
TABLE = "CREATE TABLE points (run INTEGER, metric TEXT, step INTEGER, time INTEGER, value REAL, exact BLOB)"
INSERT = "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?)"
ORDERED = "SELECT run, metric, step, time, exact FROM points ORDER BY run, metric, step, time, value"
DOUBLE = struct.Struct("<d")


class SortedPoints:
    """Points sorted by run (as given), metric, step, time and value, while the context is open.

    Holds at most AT_ONCE values in memory; sqlite sorts more in an unnamed temporary file (in SQLITE_TMPDIR,
    else /var/tmp). Raises OSError if there is no room.
    """

    def __init__(self, runs: Sequence[str]) -> None:
        self._runs = runs
        self._place = {run_id: place for place, run_id in enumerate(runs)}
        self._held: list[Point] = []
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, points: Iterable[Point]) -> None:
        """Add points, in any order.

        Raises what `points` raises, and ValueError if there are too many for memory and a step has more than
        64 bits.
        """
        unread = iter(points)
        while some := list(itertools.islice(unread, AT_ONCE - len(self._held))):
            self._held += some
            if len(self._held) >= AT_ONCE:
                self._write()

    def __iter__(self) -> Iterator[Point]:
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
            rows = (
                (self._place[run], metric, step, time, value, DOUBLE.pack(value))
                for run, metric, step, time, value in self._held
            )
            self._file.executemany(INSERT, rows)
        self._held = []


def sorted_histories(
    runs: Sequence[str], parts: Iterable[tuple[str, Iterable[Point]]], where: str = ""
) -> Iterator[Point | BrokenRun]:
    """Yield the sorted points of runs; for points that raise ValueError or TypeError a BrokenRun.

    parts: a run's id and some of its points, in any order. where: the place of the runs, for messages.
    """
    broken: dict[str, str] = {}
    with SortedPoints(runs) as found:
        for run_id, points in parts:
            try:
                found.add(points)
            except (ValueError, TypeError) as error:
                broken[run_id] = str(error)
        for run_id, reason in broken.items():
            yield BrokenRun(f"{where}history of run {run_id}", reason)
        yield from (point for point in found if point.run_id not in broken)


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(
            f"histories that are too long for memory can't be sorted on disk ({error}). Make room, or set "
            "SQLITE_TMPDIR"
        ) from error
    except OverflowError as error:
        raise ValueError("expected steps of 64 bits in a history that is too long for memory") from error
