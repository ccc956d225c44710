"""Delay signals during operations that must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def _known(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of these names that the platform has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# Sent by a closed terminal, Ctrl-\\, a batch system before the time limit, the limit of processor time.
ENDING = _known("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
BY_A_PERSON = (signal.SIGINT, signal.SIGTERM)
WAITING = (signal.SIGINT, *ENDING, *_known("SIGALRM"))  # SIGALRM: command_line repeats a signal with it


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delay signals that end a process until the context exits.

    A second SIGINT or SIGTERM takes effect at once, to break off a hanging call; other signals repeat by
    themselves (SIGXCPU each second, SIGHUP from kernel and shell). Affects only signals with Python handlers,
    in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {
        number: handler for number in WAITING if callable(handler := signal.getsignal(number))
    }
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1 and number in BY_A_PERSON:
            came.clear()
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:  # after an error too
            handlers[came[0]](came[0], None)
