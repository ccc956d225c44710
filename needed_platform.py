"""Linux and macOS. Elsewhere, what imports this says so in one line, and ends; see docs/platforms.md."""

from __future__ import annotations

import os
import signal
import sys

NEEDED = ((os, "O_DIRECTORY"), (os, "O_NONBLOCK"), (os, "getuid"), (signal, "SIGALRM"), (signal, "pthread_sigmask"), (signal, "setitimer"))


def check_platform() -> None:
    """Exit code 2 where this system's Python lacks what the tracking of runs is built on."""
    lacking = [f"{module.__name__}.{name}" for module, name in NEEDED if not hasattr(module, name)]
    if lacking:
        print(
            f"error: expected Linux or macOS, got {sys.platform}, whose Python has no {', '.join(lacking)}. "
            "On Windows, run Lethe in WSL, which is a Linux (docs/platforms.md)",
            file=sys.stderr,
        )
        raise SystemExit(2)


check_platform()
