"""Detect runs whose process has died: each run holds a file lock, which the kernel releases with the process.

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

from temporary_files import is_running

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

    def give_up(self, *, ended: bool) -> None:
        """Release the lock. If the run has not ended, the next process that finds it unlocked ends it."""
        if ended:
            with contextlib.suppress(OSError):  # somebody cleaned the folder
                _lock_file(self.token).unlink()
        self._lock.release()


def is_gone(owner: str) -> bool:
    """Return whether a run's owner was a process of this machine that has died. False if unknown."""
    host, _, rest = owner.partition(" ")
    process, _, token = rest.partition(" ")
    if host != socket.gethostname() or not process.isdecimal() or not TOKEN.fullmatch(token):
        return False
    file = _lock_file(token)
    if not file.exists():  # given up, or the folder is new: the machine has started again
        return int(process) == os.getpid() or not is_running(
            int(process)
        )  # those of this process have their locks
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError, NotImplementedError):  # held; another user's; no flock here
        return False
    file.unlink(missing_ok=True)
    lock.release()
    return True


def _lock_file(token: str) -> Path:
    """In a folder of the machine's and the user's own, which all stores share."""
    folder = Path(tempfile.gettempdir()) / f"lethe-runs-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{token}.lock"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
