"""How many threads torch computes with, and how many cores this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Multiplications and additions of a training step that are worth a thread. On two cores of an AMD EPYC
# perceptrons and small convolutions of up to 210 million are slower with two threads, of 750 million faster.
WORTH_A_THREAD = 150e6
VARIABLE = "OMP_NUM_THREADS"

_share: int | None = None


def processor_count() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take_share(cores: int) -> None:
    """Make this process one of several on the machine, which keeps at most so many cores busy.

    OMP_NUM_THREADS is then no wish of the user: whoever started the processes has set it.
    """
    global _share
    _share = cores


def threads_asked() -> int | None:
    """Return OMP_NUM_THREADS, of a list (4,2: nested threads) the first number; None if it is not set.

    Raises ValueError if it is no number.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    first = text.split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise ValueError(f"{VARIABLE}: expected an integer >= 1, got {text!r}. Correct or unset it")
    return int(first)


def usable_cores() -> int:
    """Return how many cores this process may keep busy, with models side by side or threads of one."""
    return _share or threads_asked() or processor_count()


def threads_for(step: float) -> int:
    """Return the threads for a training step of so many multiplications and additions.

        OMP_NUM_THREADS, else min(cores, max(1, step / WORTH_A_THREAD))

    The sums of a product, and so its last bits, depend on the number of threads: it is chosen by the work and
    the cores alone, never by a measurement.
    """
    if _share is None and (asked := threads_asked()) is not None:
        return asked
    return min(usable_cores(), max(1, int(step / WORTH_A_THREAD)))


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads, and afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
