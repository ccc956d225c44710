"""The memory that a dataset may use."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import psutil

SHARE = 0.5
PROC, CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_budget() -> int:
    """Return half of the bytes that this process can still allocate."""
    return int(SHARE * free_memory())


def free_memory() -> int:
    """Return the bytes that this process can still allocate under all limits.

    The processes that torchrun has started on this machine share the memory of the machine and of the control
    groups equally.
    """
    shared = min([psutil.virtual_memory().available, *_of_the_groups()]) // _processes_here()
    return max(0, min([shared, *_of_the_process()]))


def _processes_here() -> int:
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(processes)) if processes.isdecimal() else 1


def _of_the_groups() -> list[int]:
    """Return the free bytes of this process's Linux control groups, which psutil does not read.

    Version 2 only. Groups that /proc names but a container doesn't show are skipped.
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
    # Linux drops the inactive page cache before it runs out of memory.
    used -= int(about["inactive_file"])
    return [int(limit) - max(0, used)] if limit.isdecimal() else []


def _of_the_process() -> list[int]:
    """Return the free bytes under `ulimit -v` and `ulimit -d`, if they are set (Linux only)."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return []
    memory = process.memory_info()
    used = {psutil.RLIMIT_AS: memory.vms, psutil.RLIMIT_DATA: memory.data}
    limits = {kind: process.rlimit(kind)[0] for kind in used}
    return [limits[kind] - used[kind] for kind in used if limits[kind] != psutil.RLIM_INFINITY]
