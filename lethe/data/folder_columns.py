"""Attributes of images in folders: the second level of folders, and the table attributes.csv."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lethe.data.image_columns import SUBCLASS, ReadColumns
from lethe.system.foreign_files import LIST, foreign_text

ATTRIBUTES = "attributes.csv"
SHOWN = 80  # characters of a path in a message


@dataclass(frozen=True)
class FolderColumns:
    """The attributes of the training images below `part`, a folder of classes; `root` is the dataset's.

    An image in CLASS/SUBCLASS/... has that subclass, one in CLASS itself has "". The first column of
    attributes.csv, in `part` or else in `root`, has paths relative to `part`; those of other images of the
    dataset may be relative to `root`.
    """

    part: Path
    root: Path
    files: tuple[Path, ...]

    def columns(self) -> ReadColumns:
        return ReadColumns(self._names, self._column)

    def _names(self) -> Sequence[str]:
        return list(self._all)

    def _column(self, name: str) -> Sequence[str]:
        return self._all[name]

    @functools.cached_property
    def _all(self) -> dict[str, list[str]]:
        subclasses = self._subclasses()
        own = {SUBCLASS: subclasses} if any(subclasses) else {}
        table = next(
            (path for path in (self.part / ATTRIBUTES, self.root / ATTRIBUTES) if path.exists()), None
        )
        if table is None:
            return own
        listed = self._listed(table)
        if own and SUBCLASS in listed:
            raise ValueError(
                f"{table}: expected other columns than {SUBCLASS!r}, which the folders in the classes are. "
                "Rename the column"
            )
        return own | listed

    def _subclasses(self) -> list[str]:
        steps = [file.relative_to(self.part).parts for file in self.files]
        return [parts[1] if len(parts) > 2 else "" for parts in steps]

    def _listed(self, table: Path) -> dict[str, list[str]]:
        """Return the columns of the table. Raises ValueError for one that does not fit the images."""
        header, rows = _rows_of(table, self.root)
        places = {file.relative_to(self.part).as_posix(): row for row, file in enumerate(self.files)}
        found: dict[int, list[str]] = {}
        for line, cells in rows:
            row = self._row_of(cells[0], places, f"line {line} of {table}")
            if row is None:
                continue
            if row in found:
                raise ValueError(
                    f"{table}: expected each image once, got {_short(cells[0])} again on line {line}. Remove "
                    "one of the lines"
                )
            found[row] = cells[1:]
        missing = [place for place, row in places.items() if row not in found]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise ValueError(
                f"{table}: expected a line for each training image, got none for {missing[0]}{more}. "
                "Add the lines"
            )
        return {
            name: [found[row][number] for row in range(len(self.files))]
            for number, name in enumerate(header[1:])
        }

    def _row_of(self, text: str, places: dict[str, int], where: str) -> int | None:
        """Return the position of a training image; None for another image of the dataset."""
        place = PurePosixPath(text)
        row = places.get(place.as_posix())
        if row is None and self.root != self.part:
            within = self.part.relative_to(self.root).as_posix()
            row = places.get(place.relative_to(within).as_posix()) if place.is_relative_to(within) else None
        if row is not None:
            return row
        if not place.is_absolute() and ".." not in place.parts and _is_file(self.root / place):
            return None
        raise ValueError(
            f"{where}: expected the path of an image, relative to {self.part}, got {_short(text)}. Correct "
            "or remove the line"
        )


def _rows_of(table: Path, root: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and each line's number with its cells."""
    lines = csv.reader(foreign_text(table, most=LIST, inside=root).splitlines(), strict=True)
    try:
        rows = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if cells]
    except csv.Error as error:
        raise ValueError(
            f"line {lines.line_num} of {table}: expected cells between commas, got others ({error}). "
            "Correct it"
        ) from error
    header = rows[0][1] if rows else []
    if len(header) < 2 or not all(header[1:]) or len(set(header)) < len(header):
        raise ValueError(
            f"{table}: expected names of columns on the first line, each another, such as path,source, got "
            f"{_short(','.join(header)) if header else 'nothing'}. Correct the line"
        )
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise ValueError(
                f"line {line} of {table}: expected {len(header)} cells as on the first line, got "
                f"{len(cells)}. Correct it"
            )
    return header, rows[1:]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a path of any text
        return False


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
