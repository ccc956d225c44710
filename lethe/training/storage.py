"""safetensors files with a JSON header and digests, written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lethe.system.temporary_files import remove_left_over, replaced, temporary_name
from lethe.training.what_arrived import AGAIN, not_weights

HEADER, HEADER_DIGEST = "lethe", "lethe_sha256"
LONGEST = 255  # bytes of a name in most file systems
LONGEST_NAME = 220  # the same without endings: .safetensors, .state, and .PID.partial while it is written
REMEDY = "Make that path writable, or choose another with --save_dir"


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in the order of the names."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return content.hexdigest()


def shortened(name: str, longest: int) -> str:
    """Return a name of at most `longest` bytes: a longer one is cut and gets a digest."""
    whole = name.encode(errors="surrogateescape")
    if len(whole) <= longest:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:16]
    return f"{whole[: longest - len(digest) - 1].decode(errors='ignore')}_{digest}"


def write_bytes(path: Path, content: bytes, remedy: str = REMEDY) -> None:
    """Write a file atomically, by renaming a temporary one. Raises ValueError if it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_over(path.parent)
        with replaced(path) as partial, partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(f"{path} can't be written ({error.strerror}). {remedy}") from error


def check_writable(folder: Path, remedy: str = REMEDY) -> None:
    """Raise ValueError if files can't be made in `folder`, or in its nearest existing parent.

    Removes its own probe and the temporary files of killed processes. Makes no folder: another process could
    start to use it just before it is removed.
    """
    long = next((part for part in folder.parts if len(os.fsencode(part)) > LONGEST), None)
    if long is not None:
        raise ValueError(
            f"{folder} can't be made: {long[:40]}... has more than {LONGEST} bytes, more than a file system "
            f"holds. {remedy}"
        )
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    probe = temporary_name(there / ".writable")
    try:
        with probe.open("wb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error.strerror}). {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    remove_left_over(folder)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Save tensors with a JSON header that holds their digest, and with a digest of that header."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({**header, "digest": digest_of(contiguous)}, sort_keys=True)
    write_bytes(path, save(contiguous, {HEADER: text, HEADER_DIGEST: text_digest(text)}))


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Read the JSON header.

    Raises FileNotFoundError without a file, ValueError for a file that Lethe did not write, a truncated file
    and an edited header.
    """
    notes = _notes(path)
    if HEADER not in notes:
        raise ValueError(
            f"{path}: expected a safetensors file written by Lethe (it has no Lethe header). Delete it and "
            "make it again"
        )
    try:
        header = json.loads(notes[HEADER])
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, an integer of thousands of digits, deeply nested lists
        raise damaged_header(path, f"it is no JSON that can be read, {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise damaged_header(path, f"expected an object, got {type(header).__name__}")
    if notes.get(HEADER_DIGEST, header_digest(path)) != header_digest(path):
        raise edited(path)
    return header


def header_digest(path: Path) -> str:
    """Return the SHA-256 of the header, which covers the tensors by their digest. Raises as `has_header`."""
    return text_digest(_notes(path).get(HEADER, ""))


def is_sealed(path: Path) -> bool:
    """Return whether a file has a digest of its header; files from before 0.2 have none."""
    return HEADER_DIGEST in _notes(path)


def edited(path: Path) -> ValueError:
    """Return the error for an edited header."""
    return ValueError(f"{path}: its header is not the one that was saved (its digest differs). Make it again")


def damaged_header(path: Path, reason: str) -> ValueError:
    """Return the error for a header that Lethe did not write so."""
    return ValueError(
        f"{path}: its header is damaged, or of another version of Lethe ({reason}). Delete it and make it "
        "again"
    )


def has_header(path: Path) -> bool:
    """Return whether a safetensors file has Lethe's header. Raises ValueError for a damaged file."""
    return HEADER in _notes(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header. Raises as `read_header`, and ValueError if the tensors were changed."""
    header = read_header(path)
    tensors = bare_tensors(path)
    if digest_of(tensors) != header.get("digest"):
        raise ValueError(
            f"{path}: the tensors are not those that were saved (digest differs). Delete it and make it again"
        )
    return tensors, header


def tensors_beside(module: str, name: str) -> dict[str, Tensor]:
    """Read the tensors of a file that comes with Lethe, beside the module with this `__file__`."""
    return read_tensors(Path(module).with_name(name))[0]


def bare_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of any safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def _notes(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file."""
    check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        instead = not_weights(path)
        if instead is not None:
            raise ValueError(f"{path}: expected a safetensors file, got {instead}") from error
        raise ValueError(
            f"{path}: expected a complete safetensors file, and this one is damaged or cut off ({error}). "
            f"{AGAIN}"
        ) from error


def check_there(path: Path) -> None:
    """Raise FileNotFoundError for a missing file, ValueError for a folder, a device and a pipe."""
    if path.is_dir():
        raise ValueError(f"expected a file, got the folder {path}. Name the file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"expected a file, got {path}, a device or a pipe. Name a regular file")
    if not path.is_file():
        raise FileNotFoundError(f"expected a file {path}, and there is none. Check the path")
