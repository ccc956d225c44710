"""Write files atomically under temporary names, and remove those that killed processes left behind."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

# NAME.PROCESS@MACHINE.partial. Older versions named no machine, and tables .NAME.PROCESS.tmp.
WRITTEN_BY = re.compile(r"\.(?P<process>\d{1,10})(?:@(?P<machine>[^@/]+))?\.(?:partial|tmp)$")
ABANDONED_SECONDS = 24 * 3600  # for another machine, whose processes can't be seen from here


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside a file; rename it to the file on success, else delete it.

    Readers see the old file or the new one, never a part. Removes what dead processes left of the file.
    """
    remove_left_over(path.parent, path.name)
    partial = temporary_name(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def temporary_name(path: Path) -> Path:
    """Return the name, beside a file, under which this process writes it."""
    return path.with_name(f"{path.name}.{os.getpid()}@{socket.gethostname()}.partial")


def remove_left_over(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of dead processes in a folder, for a file's name or for all."""
    escaped = name if name == "*" else glob.escape(name)
    for path in [*folder.glob(f"{escaped}.*.partial"), *folder.glob(f".{escaped}.*.tmp")]:
        if is_left_over(path):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                path.unlink()


def is_left_over(path: Path) -> bool:
    """Return whether a file's temporary name is that of a dead process."""
    found = WRITTEN_BY.search(path.name)
    if found is None:
        return False
    if found["machine"] in (None, socket.gethostname()):
        return not is_running(int(found["process"]))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def is_running(process: int) -> bool:
    """Return whether this machine has a process of that number; True if unknown."""
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
