"""Read files of torch.save without running code: tensors, numbers, texts and mappings of them."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lethe.training.what_arrived import AGAIN, not_weights

ALONE = "expected a pickle of tensors alone, and it is damaged or holds more, which loading would run as code"
SMALL = 2**20  # bytes
# torch's message on a class that it refuses to load
FOREIGN_CLASS = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def read_pickle(path: Path) -> Any:
    """Read a pickle of tensors, numbers, texts and mappings of them. Raises ValueError for any other file."""
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle protocol before it refuses the content
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises IndexError, struct.error, ...
        raise ValueError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    instead = not_weights(path)
    if instead is not None:
        return f"expected weights that torch.save wrote, got {instead}"
    if "TorchScript" in str(error):
        return (
            "expected weights, got a TorchScript archive, which holds code. Save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip and not zipfile.is_zipfile(path):
        return f"expected weights that torch.save wrote, got a file whose end is missing. {AGAIN}"
    found = FOREIGN_CLASS.search(str(error))
    what = f"{type(error).__name__}: {found[1]}" if found else type(error).__name__
    return f"{ALONE} ({what}). Save the state_dict again where you trust the file"


def _check_zip(path: Path) -> None:
    """Raise ValueError for a zip that unpacks to over twice its size: torch compresses no tensors."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch.load reports it
    if unpacked > 2 * path.stat().st_size + SMALL:
        raise ValueError(
            f"{path}: expected weights that torch.save wrote, got a compressed zip archive of {unpacked:,} "
            "bytes. Unpack it, and name the file of weights in it"
        )
