"""Forbid downloading and decoding for a while, so that only datasets that load at once are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALONE = ContextVar("alone", default=False)


@contextmanager
def only_at_hand() -> Iterator[None]:
    """Inside, a dataset that has to be downloaded or decoded first raises FileNotFoundError."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def check_may_fetch(name: str) -> None:
    """Raise FileNotFoundError inside `only_at_hand`. Call it before downloading or decoding a dataset."""
    if _ALONE.get():
        raise FileNotFoundError(f"{name}: its images would have to be downloaded or decoded first")
