"""Progress bars: one moving line on a terminal, a line every ten seconds in a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

IN_A_FILE = 10.0  # seconds between two lines


class LinePerUpdate:
    """A stream for a bar that ends each update's line: in a file, a return to the line's start is kept."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        shown = text.strip()
        if shown:  # not what clears the bar
            self.stream.write(f"{shown}\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def bar_settings(on_a_terminal: float = 0.1) -> dict[str, Any]:
    """Return tqdm's settings for standard error. on_a_terminal: seconds between two updates there."""
    if sys.stderr.isatty():
        return {"file": sys.stderr, "mininterval": on_a_terminal, "dynamic_ncols": True}
    return {"file": LinePerUpdate(sys.stderr), "mininterval": IN_A_FILE}


def progress_bar(steps: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Show a progress bar on stderr from the third second on."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(steps, desc=label, total=total, delay=2, leave=False, **bar_settings())
    return bar


def silent(steps: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Show no progress: `ForgetData.of_dataset(..., progress=lethe.silent)`."""
    return steps
