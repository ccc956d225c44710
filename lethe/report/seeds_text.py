"""Metrics over seeds as text: one as a cell, those of several seeds as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lethe.evaluation import METRICS
from lethe.evaluation.over_seeds import OverSeeds, gaps, over_seeds
from lethe.report.text_table import text_table

BySeed = Mapping[int, Mapping[str, float]]


def spread(over: OverSeeds | None, digits: int = 2) -> str:
    """Return mean and standard deviation, or a single seed's value.

    "all 100", or "1 x 0, 2 x 100", if each value is at an end of its scale; all values if one is not finite.
    """
    if over is None:
        return ""
    if over.mean is None:
        return ", ".join(f"{value:.{digits}f}" for value in over.values)
    if over.n == 1:
        return f"{over.mean:.{digits}f}"
    if over.saturated:
        if len(over.counts) == 1:
            return f"all {over.values[0]:g}"
        return ", ".join(f"{count} x {value:g}" for value, count in over.counts.items())
    return f"{over.mean:.{digits}f} ± {over.sd:.{digits}f}"


def interval(over: OverSeeds | None, digits: int = 2) -> str:
    """Return the 95 % interval of the mean, or why there is none; empty for saturated values."""
    if over is None or (over.saturated and over.n > 1):
        return ""
    if over.interval is None:
        return "none: one seed" if over.mean is not None else "none: not finite"
    low, high = over.interval
    return f"{low:.{digits}f} to {high:.{digits}f}"


def seeds_of(
    name: str, metrics: BySeed, ideals: BySeed
) -> tuple[OverSeeds | None, OverSeeds | None, OverSeeds | None]:
    """Return a metric of the unlearned models, of the ideal models, and the gaps of the seeds that have both.

    None without any seed. metrics, ideals: by seed, then by name.
    """
    unit = METRICS[name].facts.unit if name in METRICS else ""
    own, ideal = _of_seeds(name, metrics), _of_seeds(name, ideals)
    both = own.keys() & ideal.keys()
    ours, theirs = ({seed: each[seed] for seed in sorted(both)} for each in (own, ideal))
    return _over(own, unit), _over(ideal, unit), _gap(ours, theirs, unit)


def _of_seeds(name: str, metrics: BySeed) -> dict[int, float]:
    return {seed: values[name] for seed, values in metrics.items() if name in values}


def _over(values: Mapping[int, float], unit: str) -> OverSeeds | None:
    return over_seeds(list(values.values()), unit) if values else None


def _gap(own: Mapping[int, float], ideal: Mapping[int, float], unit: str) -> OverSeeds | None:
    """Return the gaps of these seeds. They are saturated if the values of both models are."""
    ours, theirs = _over(own, unit), _over(ideal, unit)
    if ours is None or theirs is None:
        return None
    return replace(over_seeds(gaps(own, ideal)), saturated=ours.saturated and theirs.saturated)


def seeds_table(names: Sequence[str], metrics: BySeed, ideals: BySeed) -> str:
    """Return a line for each metric: the unlearned, the ideal, and the gap between the two, seed by seed."""
    header = ["metric", "seeds", "unlearned", "95 % interval", "ideal", "gap to the ideal", "95 % interval"]
    rows = []
    for name in names:
        own, ideal, gap = seeds_of(name, metrics, ideals)
        of_fewer = f" ({gap.n} of {own.n} seeds)" if own and gap and gap.n < own.n else ""
        of_unlearned = [str(own.n if own else 0), spread(own, 3), interval(own, 3)]
        rows.append([name, *of_unlearned, spread(ideal, 3), spread(gap, 3) + of_fewer, interval(gap, 3)])
    return text_table(header, rows)
