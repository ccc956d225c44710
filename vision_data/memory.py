"""How much memory a dataset may take."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import psutil

SHARE = 0.5
PROC, CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_budget() -> int:
    """Half of the bytes that this process can still get: of the machine's, its control groups' and its own limits', the least.

    Of what the machine and the control groups leave, each process that torchrun has started on the machine has its part.
    """
    shared = min([psutil.virtual_memory().available, *_of_the_groups()]) // _processes_here()
    return int(SHARE * max(0, min([shared, *_of_the_process()])))


def _processes_here() -> int:
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(processes)) if processes.isdecimal() else 1


def _of_the_groups() -> list[int]:
    """What the limits of Linux's control groups leave, which psutil does not read: of the process's own group and of those above it.

    Version 2 only. A container may show less than /proc names: groups that are not there are passed over.
    """
    try:
        own = PurePosixPath(PROC.read_text().partition("0::/")[2].strip())
    except OSError:
        return []
    return [left for group in (own, *own.parents) for left in _left(CGROUP / group)]


def _left(group: Path) -> list[int]:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        about = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return []
    # Linux gives up first what a file holds that was read and that nobody has asked for again.
    used -= int(about["inactive_file"])
    return [int(limit) - max(0, used)] if limit.isdecimal() else []


def _of_the_process() -> list[int]:
    """What `ulimit -v` and `ulimit -d` leave, where they are set and kept to (on Linux)."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return []
    memory = process.memory_info()
    used = {psutil.RLIMIT_AS: memory.vms, psutil.RLIMIT_DATA: memory.data}
    limits = {kind: process.rlimit(kind)[0] for kind in used}
    return [limits[kind] - used[kind] for kind in used if limits[kind] != psutil.RLIM_INFINITY]
