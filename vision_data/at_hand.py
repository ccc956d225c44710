"""Images that can be read at once: their files are here, and decoded where that takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALONE = ContextVar("alone", default=False)


@contextmanager
def only_at_hand() -> Iterator[None]:
    """Inside, a dataset that would have to be downloaded or decoded is a FileNotFoundError."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def begin_to_fetch(name: str) -> None:
    """To be called before what takes its time. FileNotFoundError inside of `only_at_hand`."""
    if _ALONE.get():
        raise FileNotFoundError(f"{name}: its images are not at hand")
