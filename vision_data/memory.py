"""How much memory a dataset may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

SHARE = 0.5
PROC, CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def memory_budget() -> int:
    """Half of the bytes that this process can still get: of the machine's, its control groups' and its own limits', the least.

    Of what the machine and the control groups leave, each process that torchrun has started on the machine has its part.
    """
    shared = min([psutil.virtual_memory().available, *_of_the_groups()]) // _processes_here()
    return int(SHARE * max(0, min([shared, *_of_the_process()])))


def _processes_here() -> int:
    said = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(said)) if said.isdecimal() else 1


def _of_the_groups() -> list[int]:
    """What Linux's control groups leave, the process's own and those that it is in, where they have a limit."""
    return [left for folder, files in _groups() for left in _left(folder, *files)]


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of a process's control groups, from its own up to the root of what is mounted, and what limit and use are called there.

    What is mounted in a container may begin below what /proc names: folders that are not there are passed over.
    """
    try:
        lines = PROC.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines or ["0::/"]:
        _, controllers, place = line.split(":", 2)
        own = PurePosixPath(*(step for step in PurePosixPath(place).parts if step not in ("/", "..")))
        if not controllers:
            root = CGROUP / "unified" if (CGROUP / "unified").is_dir() else CGROUP  # where both versions are mounted
            yield from ((root / above, V2) for above in (own, *own.parents))
        elif "memory" in controllers.split(","):
            yield from ((CGROUP / "memory" / above, V1) for above in (own, *own.parents))


def _left(folder: Path, limited: str, used: str, unneeded: str) -> list[int]:
    """What a group leaves; of files that it has read, what nobody has asked for again counts as free: Linux gives it up first."""
    try:
        limit, use = ((folder / name).read_text().strip() for name in (limited, used))
        about = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return []
    return [int(limit) - max(0, int(use) - int(about.get(unneeded, 0)))] if limit.isdecimal() else []


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
