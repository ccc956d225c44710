"""One-line messages for limits of the machine: memory, disk space, file size, open files."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

# Failed allocations in C++ and failed loads of libraries raise no MemoryError.
OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|out of memory"
    r"|failed to map segment"
    # The interpreter had no memory for the exception itself.
    r"|error return without exception set|without setting an exception",
    re.IGNORECASE,
)
OF_THREADS = re.compile(r"can't start new thread|resource temporarily unavailable", re.I)

MEMORY = (
    "not enough memory. Raise the limit (ulimit -v, the batch system's), end other programs, or choose a "
    "smaller model or dataset"
)
THREADS = (
    "no thread can be started. Raise the limits of memory and processes (ulimit -v, -u), or set "
    "OMP_NUM_THREADS=1"
)
ON_DISK = {
    errno.ENOSPC: "no room is left on the disk",
    errno.EDQUOT: "the quota on the disk is used up",
    errno.EFBIG: "a file would be larger than is allowed (ulimit -f)",
}
OTHERS = {
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine. End other programs",
    errno.ENOMEM: MEMORY,
}


def limit_met(error: BaseException) -> str | None:
    """Return the message on a machine's limit that caused an error; None for other errors."""
    for one in chain_of(error):
        limit = _limit_of(one)
        if limit is not None:
            return limit
    return None


def _limit_of(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno in OTHERS:
        return OTHERS[error.errno]
    if isinstance(error, OSError) and error.errno in ON_DISK:
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"{where}{ON_DISK[error.errno]}. Make room, or work in another folder; what is complete is kept"
        )
    if isinstance(error, RuntimeError | ImportError | SystemError) and OF_MEMORY.search(text):
        return MEMORY
    if isinstance(error, RuntimeError) and OF_THREADS.search(text):
        return THREADS
    return None


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause's cause, and so on."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
