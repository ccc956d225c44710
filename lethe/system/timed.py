"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds inside to `seconds[stage]`, without those of the stages timed inside it."""
    started, others = time.perf_counter(), sum(seconds.values())
    yield
    inside = sum(seconds.values()) - others
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started - inside
