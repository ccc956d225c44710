"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Count the seconds inside as those of `name`, but for those of the stages inside; a stage that is entered again goes on."""
    started, others = time.perf_counter(), sum(seconds.values())
    yield
    inside = sum(seconds.values()) - others
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started - inside
