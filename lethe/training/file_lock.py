"""Locks on files among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from lethe.training.process_group import ProcessGroup

REPORT_EVERY = 30.0  # seconds between two calls of `waiting`


@contextmanager
def locked(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[Path]:
    """Lock `path` against other processes; call `waiting` every 30 seconds while another holds the lock.

    Yields the resolved path of the lock file. The lock is flock on an empty file in the folder `locks` beside
    the path, which stays there. The kernel releases it when the process ends, however it ends. Raises
    ValueError if the lock file can't be made.
    """
    file = path.parent / "locks" / f"{path.name}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(file)
        while not _acquired(lock, REPORT_EVERY if waiting else -1):
            if waiting:
                waiting()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without flock
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{file} can't be made ({reason}). Make that path writable, or choose another with --save_dir"
        ) from error
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
    """Hold `locked` in the first process of a group. While it waits, it keeps the others from timing out."""
    if not group.first:
        while not group.broadcast(None):
            continue
        yield
        return
    with locked(path, waiting=lambda: group.broadcast(False)):
        group.broadcast(True)
        yield


@contextmanager
def all_locked(paths: Iterable[Path]) -> Iterator[None]:
    """Hold `locked` on several paths, in sorted order against deadlocks. Raises as `locked`."""
    with ExitStack() as locks:
        for path in sorted({path.absolute() for path in paths}):
            locks.enter_context(locked(path))
        yield
