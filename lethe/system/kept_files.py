"""Files in the user's cache, each with a digest of its content: a damaged one is found, and made anew."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from lethe.system.foreign_files import MB, read_foreign
from lethe.system.temporary_files import replaced

LARGEST = 64 * MB
DIGEST = hashlib.sha256().digest_size  # bytes before the content


def read_kept(file: Path) -> bytes | None:
    """Return the content of a file; None if there is none. A damaged one is removed."""
    try:
        stored = read_foreign(file, most=LARGEST)
    except FileNotFoundError:
        return None
    except ValueError:  # not a file of that size that can be read
        stored = b""
    content = stored[DIGEST:]
    if stored[:DIGEST] == hashlib.sha256(content).digest():
        return content
    throw_away(file)
    return None


def keep(file: Path, content: bytes) -> None:
    """Write a file with its digest, and the folders that it is in. Raises OSError if it can't be written."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replaced(file) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)


def throw_away(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
