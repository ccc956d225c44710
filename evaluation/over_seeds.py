"""A metric over seeds: mean, standard deviation and a 95 % interval of the mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean as exact_mean
from statistics import stdev

from lethe.evaluation.units import unit_facts

CONFIDENCE = 0.95


@dataclass(frozen=True)
class OverSeeds:
    """The values of n seeds and their statistics, in the unit of the values.

        mean = sum_i v_i / n    sd^2 = sum_i (v_i - mean)^2 / (n - 1)
        interval = mean -+ t(0.975, n - 1) sd / sqrt(n)

    `sd` and `interval` (low, high) are None for a single seed. If a value is infinite or NaN, all three are
    None. The interval is Student's: it assumes approximately normal values, may exceed the bounds of the
    unit, and has width 0 for equal values.
    `saturated`: every value is at a bound of its unit (0 or 100 percent); show `counts` rather than the mean.
    """

    values: tuple[float, ...]
    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    saturated: bool

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def counts(self) -> dict[float, int]:
        """The number of seeds by value, in ascending order."""
        return dict(sorted(Counter(self.values).items()))


def over_seeds(values: Sequence[float], unit: str = "") -> OverSeeds:
    """Return the statistics of one metric over seeds.

    unit: of the metric; "percent" and "fraction" are bounded. Raises ValueError for no value.
    """
    if not values:
        raise ValueError("expected a value of at least 1 seed, got none. Measure one")
    own = tuple(map(float, values))
    ends = unit_facts(unit).ends
    saturated = all(value in ends for value in own)
    if not all(map(math.isfinite, own)):
        return OverSeeds(own, None, None, None, saturated)
    mean = exact_mean(own)
    sd = stdev(own) if len(own) > 1 else None
    half = None if sd is None else _t_quantile(len(own) - 1) * sd / math.sqrt(len(own))
    return OverSeeds(own, mean, sd, None if half is None else (mean - half, mean + half), saturated)


def gaps(values: Mapping[int, float], ideals: Mapping[int, float]) -> list[float]:
    """Return the signed gap to the ideal of each seed, in the order of the seeds.

        g_s = v_s - i_s    for each seed s

    Compares each model with the ideal model of its seed; average afterwards (`over_seeds`).
    Raises ValueError for a seed without both.
    """
    alone = sorted(values.keys() ^ ideals.keys())
    if alone:
        raise ValueError(
            "expected the same seeds of the models and of the ideal models, got "
            f"{', '.join(map(str, alone))} for one of them alone. Measure both for every seed"
        )
    return [values[seed] - ideals[seed] for seed in sorted(values)]


def _t_quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
