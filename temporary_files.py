"""Names of files while they are written, and the end of those that killed processes left behind."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

# NAME.PROCESS@MACHINE.partial; older versions named no machine.
WRITTEN_BY = re.compile(r"\.(?P<process>\d{1,10})(?:@(?P<machine>[^@/]+))?\.partial$")
ABANDONED_SECONDS = 24 * 3600  # on another machine, where nobody can tell from here whether the process goes on


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary name beside a file: what is written there becomes the file when all went well, and is gone when not.

    Readers see the old file or the new one, never a part. What dead processes left of the file is removed.
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
    """The name, beside a file, under which this process writes it."""
    return path.with_name(f"{path.name}.{os.getpid()}@{socket.gethostname()}.partial")


def remove_left_over(folder: Path, name: str = "*") -> None:
    """Remove what dead processes left of files of that name (default: of all) which they were writing in a folder."""
    for path in folder.glob(f"{name if name == '*' else glob.escape(name)}.*.partial"):
        if is_left_over(path):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                path.unlink()


def is_left_over(path: Path) -> bool:
    """Whether the process that a temporary name names writes no more. False for any other name."""
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
    """Whether this machine has a process of that number; True where that can't be told."""
    if os.name == "nt":  # where the call below would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
