"""Measure calls: the median of their milliseconds, and the memory that they allocate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

import torch
from torch.autograd.profiler import profile  # torch.profiler takes five seconds to import

from lethe.system.device import synchronize

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler prints every start and stop on stderr

Step = Callable[[], object]


@dataclass(frozen=True)
class Meter:
    """Time at most `repeats` calls on a device; none begins after `seconds`, but one is always timed."""

    device: torch.device
    repeats: int
    seconds: float

    def timed(self, step: Step) -> dict[str, float]:
        """Median milliseconds a call, and how many were counted. Nothing is warmed up: call `step` before."""
        milliseconds: list[float] = []
        while not milliseconds or (
            len(milliseconds) < self.repeats and sum(milliseconds) < 1000 * self.seconds
        ):
            milliseconds.append(self.once(step))
        return {"milliseconds": median(milliseconds), "passes": len(milliseconds)}

    def once(self, step: Step) -> float:
        """Milliseconds of one call, everything that it started on the device included."""
        synchronize(self.device)
        started = time.perf_counter()
        step()
        synchronize(self.device)
        return 1000 * (time.perf_counter() - started)

    def extra_bytes(self, step: Step) -> int:
        """Return the most bytes that a call allocates at a time, beyond those held before."""
        if self.device.type == "cpu":
            return _extra_bytes_on_cpu(step)
        synchronize(self.device)
        torch.accelerator.reset_peak_memory_stats(self.device)
        before = torch.accelerator.memory_allocated(self.device)
        step()
        synchronize(self.device)
        return torch.accelerator.max_memory_allocated(self.device) - before


def _extra_bytes_on_cpu(step: Step) -> int:
    """Return the peak of the running sum of the allocator's events (bytes; negative when freed).

    Exact if `step` frees nothing that was there before: the profiler does not know what that held.
    """
    with profile(profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    return max(
        accumulate(
            (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), initial=0
        )
    )
