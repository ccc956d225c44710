"""Tables of any length as CSV, Parquet or JSON lines, written row by row and renamed when complete."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from lethe.system.temporary_files import replaced

Columns = Mapping[str, str]  # name -> kind: text, number (a float), integer, time (ms since 1970, UTC)
Row = Sequence[Any]  # None for no value
Item = TypeVar("Item")
Write = Callable[[Path, Columns, Iterable[Row]], None]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CELLS_AT_ONCE = 500_000  # of Parquet, which is written by columns
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)
EXECUTED = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # four, and their full-width forms
BLANK_STARTS = ("\t", "\r", "\n")


def write_csv(output: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write RFC 4180: floats round trip, `nan`, `inf`, `-inf`, times ISO 8601 in UTC, empty for no value."""
    # The csv module's own line end, CRLF: with "\n" it would leave a lone "\r" in a value unquoted.
    with replaced(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(with_iso_times(columns, rows))


def write_spreadsheet_csv(output: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write CSV with every text in quotes, so that a spreadsheet executes none; see `defused`."""
    with replaced(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow([defused(name) for name in columns])
        for row in with_iso_times(columns, rows):
            cells = ["" if value is None else value for value in row]
            writer.writerow([defused(cell) if isinstance(cell, str) else cell for cell in cells])


def defused(text: str) -> str:
    """Put an apostrophe before text that begins like a formula, so that a spreadsheet shows it."""
    formula = text.lstrip().startswith(EXECUTED) or text.startswith(BLANK_STARTS)
    return f"'{text}" if formula and not NUMBER.fullmatch(text) else text


def write_json_lines(output: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write an object a row, without empty columns. "NaN", "Infinity" and "-Infinity" are texts."""
    with replaced(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in with_iso_times(columns, rows):
            cells = zip(columns, row, strict=True)
            found = {name: json_value(value) for name, value in cells if value is not None}
            file.write(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")


def json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def write_parquet(output: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write typed columns: string, double (NaN is not null), int64, timestamp[ms, UTC]; null for no value."""
    import pyarrow
    from pyarrow import parquet

    types = {
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "integer": pyarrow.int64(),
        "time": pyarrow.timestamp("ms", tz="UTC"),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    at_once = max(1, CELLS_AT_ONCE // len(columns))
    with replaced(output) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for some in batches(rows, at_once):
            by_column = zip(zip(*some, strict=True), schema.types, strict=True)
            arrays = [pyarrow.array(values, kind, from_pandas=False) for values, kind in by_column]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


WRITERS: dict[str, Write] = {"csv": write_csv, "parquet": write_parquet, "jsonl": write_json_lines}


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(itertools.islice(remaining, size)):
        yield some


def with_iso_times(columns: Columns, rows: Iterable[Row]) -> Iterator[list[Any]]:
    times = [place for place, kind in enumerate(columns.values()) if kind == "time"]
    for row in rows:
        changed = list(row)
        for place in times:
            if changed[place] is not None:
                changed[place] = iso_utc(changed[place])
        yield changed


def iso_utc(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds, `2024-05-01T12:00:00.123Z`."""
    return f"{whole_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@functools.lru_cache(maxsize=4096)
def whole_second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
