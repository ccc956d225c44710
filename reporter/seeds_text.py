"""A number over seeds as a table's cell, and the metrics of the same run under several seeds as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluation import METRICS
from evaluation.over_seeds import OverSeeds, gaps, over_seeds
from reporter.text_table import text_table

BySeed = Mapping[int, Mapping[str, float]]


def spread(over: OverSeeds | None, digits: int = 2) -> str:
    """Mean and standard deviation; what has no such thing as it is.

    A single seed's value alone; "all 100", or "1 x 0, 2 x 100", where every value is at an end of its scale;
    every value where one is not finite; nothing for none.
    """
    if over is None:
        return ""
    if over.mean is None:
        return ", ".join(f"{value:.{digits}f}" for value in over.values)
    if over.n == 1:
        return f"{over.mean:.{digits}f}"
    if over.saturated:
        counts = [(f"{value:g}", count) for value, count in over.counts.items()]
        return (
            f"all {counts[0][0]}"
            if len(counts) == 1
            else ", ".join(f"{count} x {value}" for value, count in counts)
        )
    return f"{over.mean:.{digits}f} ± {over.sd:.{digits}f}"


def interval(over: OverSeeds | None, digits: int = 2) -> str:
    """The 95 % interval of the mean, or why there is none; nothing for no value, or values that no mean
    stands for.
    """
    if over is None or (over.saturated and over.n > 1):
        return ""
    if over.interval is None:
        return "none: one seed" if over.mean is not None else "none: not finite"
    low, high = over.interval
    return f"{low:.{digits}f} to {high:.{digits}f}"


def seeds_of(
    name: str, metrics: BySeed, ideals: BySeed
) -> tuple[OverSeeds | None, OverSeeds | None, OverSeeds | None]:
    """One metric of the unlearned models, of the ideal models, and the gaps of those seeds that have both;
    None where no seed has any.

    metrics, ideals: by seed, then by name.
    """
    unit = METRICS[name].facts.unit if name in METRICS else ""
    own, ideal = (
        {seed: values[name] for seed, values in each.items() if name in values} for each in (metrics, ideals)
    )
    ours, theirs = (
        {seed: each[seed] for seed in each if seed in own.keys() & ideal.keys()} for each in (own, ideal)
    )
    return _over(own, unit), _over(ideal, unit), _gap(ours, theirs, unit)


def _over(values: Mapping[int, float], unit: str) -> OverSeeds | None:
    return over_seeds(list(values.values()), unit) if values else None


def _gap(own: Mapping[int, float], ideal: Mapping[int, float], unit: str) -> OverSeeds | None:
    """The gaps of these seeds: saturated where both models are, for the difference of two ends is no more
    graded than they are.
    """
    if not own:
        return None
    saturated = all(over_seeds(list(values.values()), unit).saturated for values in (own, ideal))
    return replace(over_seeds(gaps(own, ideal)), saturated=saturated)


def seeds_table(names: Sequence[str], metrics: BySeed, ideals: BySeed) -> str:
    """A line for each metric: of how many seeds, unlearned, ideal, and the gap between the two, taken seed by
    seed.
    """
    rows = []
    for name in names:
        own, ideal, gap = seeds_of(name, metrics, ideals)
        seeds = str(own.n if own else 0)
        of_fewer = f" ({gap.n} of {own.n} seeds)" if own and gap and gap.n < own.n else ""
        rows.append(
            [
                name,
                seeds,
                spread(own, 3),
                interval(own, 3),
                spread(ideal, 3),
                spread(gap, 3) + of_fewer,
                interval(gap, 3),
            ]
        )
    return text_table(
        ["metric", "seeds", "unlearned", "95 % interval", "ideal", "gap to the ideal", "95 % interval"], rows
    )
