"""Signals that wait for what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

WAITING = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)  # the last one: what command_line raises again a moment later


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM do what they do when this is left, and a second one at once: what hangs can be broken off.

    Only where they have handlers in Python, and in the main thread, which is the one that runs them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {number: handler for number in WAITING if callable(handler := signal.getsignal(number))}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if len(came) == 1:  # also where an error leaves this: what goes on after errors does not go on after a signal
            handlers[came[0]](came[0], None)
