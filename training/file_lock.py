"""Alone with a file, among all processes that see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same path, and keep others out.

    The lock is the kernel's (flock on an empty file in the folder `locks` beside it, which stays there): it goes with the process that
    holds it, however that ends. Raises ValueError where the file can't be made.
    """
    file = path.parent / "locks" / f"{path.name}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(file)
        lock.acquire()
    except OSError as error:
        raise ValueError(f"{file} can't be made ({error.strerror}). Free the place, or choose another with --save_dir") from error
    try:
        yield
    finally:
        lock.release()
