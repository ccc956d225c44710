"""Importing this exits with one line on other systems than Linux and macOS (docs/platforms.md)."""

from __future__ import annotations

import os
import signal
import sys

NEEDED = (
    (os, "O_DIRECTORY"),
    (os, "O_NONBLOCK"),
    (os, "getuid"),
    (signal, "SIGALRM"),
    (signal, "pthread_sigmask"),
    (signal, "setitimer"),
)


def check_platform() -> None:
    """Exit with code 2 if Python lacks the functions that the tracking of runs needs."""
    lacking = [f"{module.__name__}.{name}" for module, name in NEEDED if not hasattr(module, name)]
    if lacking:
        print(
            f"error: expected Linux or macOS, got {sys.platform}, whose Python has no {', '.join(lacking)}. "
            "On Windows, run Lethe in WSL, which is a Linux (docs/platforms.md)",
            file=sys.stderr,
        )
        raise SystemExit(2)


check_platform()
