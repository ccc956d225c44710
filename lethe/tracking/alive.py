"""Detect runs of dead processes: a process locks a file for each run, and loses the lock with its end.

A run's tag `owner` is `HOST PROCESS TOKEN`. The token, drawn at random, is the name of the lock; no path is
taken from a store.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import tempfile
from pathlib import Path

import filelock

from lethe.system.temporary_files import is_running

OWNER = "owner"
TOKEN = re.compile(r"[0-9a-f]{32}")


class Claim:
    """This process's lock on one run, from before its creation until its end."""

    def __init__(self) -> None:
        """Raises OSError if the lock can't be created."""
        self.token = secrets.token_hex(16)
        self.owner = f"{socket.gethostname()} {os.getpid()} {self.token}"
        self._lock = filelock.FileLock(_lock_file(self.token))
        self._lock.acquire(timeout=0)

    def release(self, *, ended: bool) -> None:
        """Release the lock. If the run has not ended, the next process that finds it unlocked ends it."""
        if ended:
            with contextlib.suppress(OSError):  # another program has removed it
                _lock_file(self.token).unlink()
        self._lock.release()


def has_died(owner: str) -> bool:
    """Return whether a run's owner was a process of this machine that has died. False if it is unknown."""
    host, _, rest = owner.partition(" ")
    process, _, token = rest.partition(" ")
    if host != socket.gethostname() or not process.isdecimal() or not TOKEN.fullmatch(token):
        return False
    file = _lock_file(token)
    if not file.exists():  # given up, or the machine has started again
        number = int(process)
        return number == os.getpid() or not is_running(number)  # open runs of this process have a lock
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError, NotImplementedError):  # held; another user's; no locks here
        return False
    file.unlink(missing_ok=True)
    lock.release()
    return True


def _lock_file(token: str) -> Path:
    """Return the path in the user's folder on this machine, which all stores share."""
    folder = Path(tempfile.gettempdir()) / f"lethe-runs-{user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{token}.lock"


def user() -> str:
    """Return the user's number; on Windows, the name."""
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
