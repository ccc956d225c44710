"""Plain text tables for the console and for README."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 140


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Pad columns to their widest cell: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        ).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def number(value: float | None, digits: int = 2) -> str:
    """Write a number for a table; an empty cell for none."""
    return "" if value is None else f"{value:.{digits}f}"


def wrapped_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Pad columns, and wrap the last one to lines of at most WIDTH characters."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header) - 1)]
    left = sum(widths) + 2 * len(widths)

    def lines(row: Sequence[str]) -> str:
        start = "".join(f"{cell:<{width + 2}}" for cell, width in zip(row[:-1], widths, strict=True))
        return textwrap.fill(
            row[-1], WIDTH, initial_indent=start, subsequent_indent=" " * left, break_on_hyphens=False
        ).rstrip()

    ruler = ["-" * width for width in (*widths, max(len(row[-1]) for row in (header, *rows)))]
    ruler[-1] = ruler[-1][: WIDTH - left]
    return "\n".join(map(lines, (header, ruler, *rows)))
