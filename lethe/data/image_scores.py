"""A number for each image, such as its memorisation, from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from lethe.flag_error import FlagError
from lethe.system.foreign_files import LIST, foreign_text

LONGEST_INDEX = 18  # digits that fit into an int64
INDEX = "index"
SCORES = ("memorisation", "memorization")  # of `lethe audit memorisation`, and of other programs


def columns_in(name: str) -> list[str]:
    """Return the names on the first line of a CSV file; none for an empty one."""
    lines = foreign_text(Path(name), most=LIST, errors="backslashreplace").splitlines()
    return next(csv.reader(lines), [])


def read_scores(name: str | Path, flag: str, columns: Sequence[str] = SCORES) -> dict[int, float]:
    """Return the number of each image by its index in the original training set.

    The file has a first line with the columns `index` and `memorisation` (or `memorization`), or another one
    of the asked `columns`; others don't matter, so that memorisation.csv of `lethe audit memorisation` is
    such a file. Raises FlagError, of the flag that named the file, for one that is missing, lacks a column
    or has a line without both numbers, and for an index that comes twice.
    """
    path = Path(name)
    if not path.exists():
        raise FlagError(flag, f"expected a CSV file with a score of each image, and there is no file {path}")
    rows = _rows(path, flag)
    header = next(rows, [])
    column = next((name for name in columns if name in header), None)
    if INDEX not in header or column is None:
        shown = ", ".join(header)[:100] or "nothing"
        raise FlagError(
            flag, f"expected the columns index and {columns[0]} in {path}, got {shown}. Name the columns so"
        )
    scores: dict[int, float] = {}
    places = (header.index(INDEX), header.index(column))
    for number, (index, score) in enumerate(_pairs(rows, places), 2):
        if index is None or score is None:
            raise FlagError(
                flag,
                f"expected an index >= 0 and a finite number on line {number} of {path}. Correct the line",
            )
        if index in scores:
            raise FlagError(
                flag, f"expected each index once, and {path} repeats {index}. Remove the repetition"
            )
        scores[index] = score
    return scores


def _rows(path: Path, flag: str) -> Iterator[list[str]]:
    """Yield the cells of each line. Raises FlagError for a line that is no CSV."""
    rows = csv.reader(foreign_text(path, most=LIST, errors="backslashreplace").splitlines())
    try:
        yield from rows
    except csv.Error as error:
        raise FlagError(
            flag,
            f"expected a CSV file, and line {rows.line_num} of {path} is none ({error}). Correct the line",
        ) from error


def _pairs(rows: Iterator[list[str]], places: tuple[int, int]) -> Iterator[tuple[int | None, float | None]]:
    """Yield the index and the score of each line, from these places; None for what is no such number."""
    for row in rows:
        index, score = (row[place].strip() if place < len(row) else "" for place in places)
        yield _index(index), _finite(score)


def _index(word: str) -> int | None:
    return int(word) if word.isdecimal() and len(word) <= LONGEST_INDEX else None


def _finite(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
