"""Margins of many models as files: an array with a row per model, and a table of its columns' images."""

from __future__ import annotations

import csv
import io
import math
import os
import tokenize
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lethe.data import ImageSet
from lethe.evaluation.population import check_margins
from lethe.system.foreign_files import LIST, MB, foreign_text, open_foreign
from lethe.unlearn import ForgetData

ARCHIVE = b"PK"
LONGEST_REASON = 200
# Errors of NumPy for headers, which it reads as Python.
NO_ARRAY = (
    ValueError,
    TypeError,
    EOFError,
    OSError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)
LARGEST_ARRAY = 1_000_000 * MB
SETS = ("forget", "retain", "validation")
COLUMNS = "columns.csv"  # beside every file of margins that Lethe writes
KEPT_FILE = "sha256."  # begins the names of params with the digest of an artifact
REMEDY = "Restore it, or remove it if you know that the columns are in the order of the images"


def sets_of(data: ForgetData) -> dict[str, ImageSet]:
    """Return the non-empty image sets of KLoM by name, in the order of the columns."""
    return {name: images for name in SETS if len(images := getattr(data, name))}


def columns(sets: Mapping[str, ImageSet]) -> list[dict[str, Any]]:
    """Return for each column its set, the image's index in the original training set, and the label.

    Forget, retain and validation images, each in ascending order of the index."""
    rows: list[dict[str, Any]] = []
    for name, images in sets.items():
        for index, label in zip(images.indexes.tolist(), images.labels.tolist(), strict=True):
            rows.append({"column": len(rows), "set": name, "index": index, "label": label})
    return rows


def check_columns(path: Path, sets: Mapping[str, ImageSet], count: int) -> bool:
    """Check `count` columns against the columns.csv beside a file of margins; return whether it exists.

    Raises ValueError if it names other or too few images, or is no such table.
    """
    beside = path.parent / COLUMNS
    if not beside.exists():
        return False
    try:
        lines = foreign_text(beside, most=LIST).splitlines()
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{beside}: expected the table of the columns of {path.name} ({error}). {REMEDY}"
        ) from error
    head, *expected = table(columns(sets)).splitlines()
    if lines[:1] != [head] or len(lines) <= count:
        raise ValueError(
            f"{beside}: expected {head} and a row for each of {count} columns, got {len(lines)} lines. "
            f"{REMEDY}"
        )
    for place, row in enumerate(lines[1:]):
        if [row] != expected[place : place + 1]:
            here = expected[place] if place < len(expected) else "no such column"
            raise ValueError(
                f"{path}: expected margins of the images of this forget request and split, got others: "
                f"{beside.name} has {row} ({head}), expected {here}. Audit the request, --dataset and "
                "--split_seed that they were made with"
            )
    return True


def array_of(margins: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
    """Return float32 (models, columns)."""
    return torch.cat([margins[name] for name in SETS if name in margins], dim=1).float().numpy()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; numbers at full precision."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Read a .npy file. Raises FileNotFoundError, or ValueError for another kind of file or a pickle."""
    if not path.exists():
        raise FileNotFoundError(f"expected a .npy file, and there is no file {path}. Check --oracle_margins")
    with open_foreign(path, most=LARGEST_ARRAY) as file:
        try:
            _check_length(file)
            return np.lib.format.read_array(file, allow_pickle=False)
        except NO_ARRAY as error:
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            raise ValueError(
                f"{path}: expected a .npy file of numbers ({reason}). Write it by numpy.save"
            ) from error


def _check_length(file: BinaryIO) -> None:
    """Raise ValueError for a header that claims more bytes than the file has, before memory is allocated."""
    magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic.startswith(ARCHIVE):
        raise ValueError("got an archive of several arrays")
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    there, named = os.fstat(file.fileno()).st_size - file.tell(), math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and there < named:
        raise ValueError(f"its header names {named} bytes, and {there} are there")
    file.seek(0)


def read_margins(path: Path, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Read the margins (models, columns), float, of each set; see `columns` for the order.

    sizes: the number of images by set. The file may end after the forget or the retain set; missing sets are
    not evaluated. Raises ValueError for another number of columns, NaN, and fewer than 10 models.
    """
    array = read_array(path)
    ends = list(accumulate(sizes.values()))
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] not in ends:
        words = [f"{end} ({' + '.join(list(sizes)[: number + 1])})" for number, end in enumerate(ends)]
        raise ValueError(
            f"{path}: expected floats (models, images) with {', '.join(words[:-1])} or {words[-1]} images, "
            f"got {array.dtype} {array.shape}. Give margins of this forget request and split: a column per "
            "image, in ascending order of its index in the original training set"
        )
    margins = torch.from_numpy(array.astype(np.float32, copy=False))
    check_margins(margins, str(path))
    kept = list(sizes)[: ends.index(array.shape[1]) + 1]
    return dict(zip(kept, margins.split([sizes[name] for name in kept], dim=1), strict=True))
