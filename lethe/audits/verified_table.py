"""Recompute the table of images and compare it cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification

if TYPE_CHECKING:
    import pyarrow as pa

PER_IMAGE = "per_image.parquet"
LATER_COLUMNS = ("member_score_lr",)  # that tables of version 0.1.0 may lack
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # float32 logits, of another machine
MUCH = 8  # times the size of the table that is expected


def check_table(run: RecordedRun, done: Verification, expected: pa.Table) -> None:
    """Add one check of the whole table, which names the columns that differ.

    An earlier version's table lacks the columns that came later; these are named as unchecked.
    """
    rows = f"{expected.num_rows} rows"
    if not run.has(PER_IMAGE):
        done.check(PER_IMAGE, rows, None)
        return
    path = run.artifact(PER_IMAGE)
    later = _later_columns_not_there(path)
    if later:
        done.unchecked.append(f"{PER_IMAGE}: {', '.join(later)} (earlier versions have no such column)")
    done.check(PER_IMAGE, rows, _found(path, expected.drop_columns(later), rows))


def _later_columns_not_there(path: Path) -> list[str]:
    """Return the later columns that the file lacks; none if it can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError):
        return []
    return [name for name in LATER_COLUMNS if name not in found]


def _found(path: Path, expected: pa.Table, rows: str) -> str:
    """Return a description of the table, equal to `rows` if it is as expected."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            if about.num_rows != expected.num_rows:
                return f"{about.num_rows} rows"
            if size > MUCH * expected.nbytes:
                return f"{size} bytes of cells"
            wrong = differences(file.read(), expected)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"a file that can't be read ({' '.join(str(error).split())[:200]})"
    return f"{rows}, others in {', '.join(wrong)}" if wrong else rows


def differences(found: pa.Table, expected: pa.Table) -> list[str]:
    """Return the columns that differ, and "what it is of" if the metadata differ."""
    if found.column_names != expected.column_names:
        wrong = sorted(set(found.column_names) ^ set(expected.column_names))
        return [f"the columns {', '.join(wrong)}" if wrong else "the order of the columns"]
    about = [(table.schema.metadata or {}).get(b"lethe") for table in (found, expected)]
    wrong = [name for name in expected.column_names if not _same(found[name], expected[name])]
    return wrong if about[0] == about[1] else [*wrong, "what it is of"]


def _same(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    ours, theirs = _plain(expected), _plain(found)
    if ours.type != theirs.type or len(ours) != len(theirs) or not ours.is_null().equals(theirs.is_null()):
        return False
    if not pa.types.is_floating(ours.type):
        return bool(ours.equals(theirs))
    there, here = (array.drop_null().to_numpy(zero_copy_only=False) for array in (theirs, ours))
    return bool(np.allclose(there, here, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array of values, without a dictionary, and without the lists that logits are in."""
    import pyarrow as pa

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return (
        array.flatten() if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) else array
    )
