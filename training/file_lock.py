"""Alone with a file, among all processes that see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from training.process_group import ProcessGroup

TOLD = 30.0  # seconds between two words to those who wait for the one that waits


@contextmanager
def locked(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[Path]:
    """Wait until no other process is in here with the same path, and keep others out. `waiting` is called now and then until it is so.

    Gives the lock's file, its path absolute and without links.

    The lock is the kernel's (flock on an empty file in the folder `locks` beside it, which stays there): it goes with the process that
    holds it, however that ends. Raises ValueError where the file can't be made.
    """
    file = path.parent / "locks" / f"{path.name}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(file)
        while not _acquired(lock, TOLD if waiting else -1):
            if waiting:
                waiting()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without flock
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} can't be made ({reason}). Free the place, or choose another with --save_dir") from error
    try:
        yield file.resolve()
    finally:
        lock.release()


def _acquired(lock: filelock.BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        return False
    return True


@contextmanager
def locked_together(path: Path, group: ProcessGroup) -> Iterator[None]:
    """`locked` for processes that train together: the first one waits, and tells the others, who would take it for dead, that it does."""
    if not group.first:
        while not group.agreed(None):
            continue
        yield
        return
    with locked(path, waiting=lambda: group.agreed(False)):
        group.agreed(True)
        yield


@contextmanager
def all_locked(paths: Iterable[Path]) -> Iterator[None]:
    """`locked` with several files, in an order that is the same for all, so that no two wait for each other. Raises as `locked`."""
    with ExitStack() as locks:
        for path in sorted({path.absolute() for path in paths}):
            locks.enter_context(locked(path))
        yield
