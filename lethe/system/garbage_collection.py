"""Python's garbage collector while a command runs: it looks for cycles rarely, and not when the process ends.

Modules are hundreds of thousands of objects that stay. At Python's own threshold the collector walks through
them again and again while they are imported, and once more at the end: half of the time that torch and MLflow
take to be imported and left.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

NEW_OBJECTS = 10_000  # between two collections; Python's own threshold is 700


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect rarely until the context exits, and nothing when the process ends."""
    before = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    _none_at_the_end()
    try:
        yield
    finally:
        gc.set_threshold(*before)


@cache
def _none_at_the_end() -> None:
    atexit.register(gc.freeze)  # a frozen object is not walked through
