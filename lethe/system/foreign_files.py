"""Open untrusted files: only regular ones of a bounded size, inside the folder that they belong to."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

MB = 1_000_000
TEXT = 16 * MB  # settings, notes, tables of a few thousand rows
LIST = 1000 * MB  # files with a line per image or per run
IMAGE = 256 * MB  # one encoded image

DEEPEST = 100  # nested folders
FOLLOW_LINKS = "LETHE_FOLLOW_LINKS"  # environment variable; 1 follows links out of folders
PART = 2**20  # bytes of a read

# O_NONBLOCK: opening a named pipe would wait for a writer. Windows has neither.
CAREFULLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_foreign(path: Path, *, most: int = TEXT, inside: Path | None = None) -> BinaryIO:
    """Open a file for reading bytes; follow links, but not out of the folder `inside`.

    Raises FileNotFoundError for a missing file, and ValueError for one that is not regular, has more than
    `most` bytes, lies outside of `inside`, or can't be read.
    """
    if inside is not None:
        check_inside(path, inside)
    try:
        number = os.open(path, CAREFULLY)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"expected a file, and there is no file {path}. Check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise ValueError(
            f"{path}: expected a file that can be read, got one that can't ({reason_of(error)}). Check the "
            "path"
        ) from error
    try:
        check_regular(number, path, most)
    except BaseException:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def read_foreign(path: Path, *, most: int = TEXT, inside: Path | None = None) -> bytes:
    """Read a file. Raises as `open_foreign`."""
    with open_foreign(path, most=most, inside=inside) as file:
        try:
            content = _read_up_to(file, most + 1)
        except OSError as error:
            raise ValueError(
                f"{path}: expected a file that can be read, got one that can't ({reason_of(error)})"
            ) from error
    if len(content) > most:
        raise _too_large(path, f"more than {size_text(most)}", most)
    return content


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal. Raises as `open_foreign`."""
    content = hashlib.sha256()
    with open_foreign(path, most=sys.maxsize) as file:
        while part := file.read(PART):
            content.update(part)
    return content.hexdigest()


def _read_up_to(file: BinaryIO, most: int) -> bytes:
    """Read at most `most` bytes in parts, as some files are longer than their size says.

    `file.read(most)` would allocate all of them at once.
    """
    parts: list[bytes] = []
    left = most
    while left and (part := file.read(min(left, PART))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def foreign_text(path: Path, *, most: int = TEXT, inside: Path | None = None, errors: str = "strict") -> str:
    """Read a text in UTF-8, whatever the locale. Raises as `open_foreign`, and ValueError for other bytes."""
    try:
        return read_foreign(path, most=most, inside=inside).decode("utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, got {error.reason} at byte {error.start}. Save it in UTF-8"
        ) from error


def check_regular(number: int, path: Path | str, most: int) -> None:
    """Raise ValueError for an open file that is not regular, or has more than `most` bytes."""
    about = os.fstat(number)
    if not stat.S_ISREG(about.st_mode):
        kind = next((words for is_kind, words in KINDS if is_kind(about.st_mode)), "something else")
        raise ValueError(
            f"{path}: expected a regular file, got {kind}. Put the file itself there, or remove this"
        )
    check_size(path, about.st_size, most)


def check_size(path: Path | str, size: int, most: int) -> None:
    """Raise ValueError for a file, or an archive's member, whose stated size exceeds `most` bytes."""
    if size > most:
        raise _too_large(path, size_text(size), most)


def check_inside(path: Path, folder: Path) -> None:
    """Raise ValueError for a path out of a folder, by links or "..", unless LETHE_FOLLOW_LINKS is 1."""
    if leads_out(path, folder) and os.environ.get(FOLLOW_LINKS) != "1":
        raise ValueError(
            f"{path}: expected a path inside {folder}, got one that leads to {os.path.realpath(path)}. Copy "
            f"it there; or, if you trust the links, set {FOLLOW_LINKS}=1"
        )


def leads_out(path: Path, folder: Path) -> bool:
    """Return whether a path leads out of a folder, by links or ".."."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_depth(path: Path | str, depth: int) -> None:
    """Raise ValueError for a folder that is nested too deeply."""
    if depth > DEEPEST:
        raise ValueError(
            f"{str(path)[:200]}...: expected at most {DEEPEST} nested folders, got more. Remove them"
        )


def warn_if_others_write(path: Path) -> None:
    """Warn of code to run that another user owns and anybody on this machine can change."""
    about = path.stat()
    own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    if about.st_mode & stat.S_IWOTH and not own:
        warnings.warn(
            f"{path} is run as your own code, but it is another user's, and anybody can change it. Copy it, "
            "read it, and name the copy",
            stacklevel=2,
        )


def _too_large(path: Path | str, found: str, most: int) -> ValueError:
    return ValueError(
        f"{path}: expected at most {size_text(most)}, got {found}. Check that it is the file you mean"
    )


def size_text(size: int) -> str:
    """Format a number of bytes: 1500000 -> 1.5 MB."""
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.4g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


def reason_of(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
