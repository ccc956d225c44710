"""A number over seeds as a table's cell, and the numbers of several runs as a table."""

from __future__ import annotations

from evaluation.over_seeds import OverSeeds


def spread(over: OverSeeds, digits: int = 2) -> str:
    """Mean and standard deviation; what has no such thing as it is.

    A single seed's value alone; "all 100", or "1 x 0, 2 x 100", where every value is at an end of its scale; and every
    value where one is not finite.
    """
    if over.mean is None:
        return ", ".join(f"{value:.{digits}f}" for value in over.values)
    if over.n == 1:
        return f"{over.mean:.{digits}f}"
    if over.saturated:
        counts = [(f"{value:g}", count) for value, count in over.counts.items()]
        return f"all {counts[0][0]}" if len(counts) == 1 else ", ".join(f"{count} x {value}" for value, count in counts)
    return f"{over.mean:.{digits}f} ± {over.sd:.{digits}f}"


def interval(over: OverSeeds, digits: int = 2) -> str:
    """The 95 % interval of the mean, or why there is none."""
    if over.interval is None:
        return "none: one seed" if over.mean is not None else "none: not finite"
    low, high = over.interval
    return f"{low:.{digits}f} to {high:.{digits}f}"
