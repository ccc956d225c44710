"""How much memory a dataset may take."""

from __future__ import annotations

from pathlib import Path

import psutil

SHARE = 0.5
CGROUP = Path("/sys/fs/cgroup")


def memory_budget() -> int:
    """Half of the bytes that this process can still get: of the machine's, its control group's and its own limits', the least."""
    return int(SHARE * max(0, min([psutil.virtual_memory().available, *_of_the_group(), *_of_the_process()])))


def _of_the_group() -> list[int]:
    """What Linux's control group leaves (containers have one), where it has a limit."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [int(limit) - int(used)] if limit.isdecimal() else []


def _of_the_process() -> list[int]:
    """What `ulimit -v` and `ulimit -d` leave, where they are set."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    memory = psutil.Process().memory_info()
    used = {resource.RLIMIT_AS: memory.vms, resource.RLIMIT_DATA: getattr(memory, "data", memory.rss)}
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    return [limits[kind] - used[kind] for kind in used if limits[kind] != resource.RLIM_INFINITY]
