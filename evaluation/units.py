"""The units of metrics, and how a number of each is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Unit = Literal["", "percent", "points", "nats", "fraction", "distance", "seconds", "steps", "ratio"]


@dataclass(frozen=True)
class UnitFacts:
    """in_words and sign: as docs and tables write the unit. digits: after the point. ends: of its scale,
    where it has some.
    """

    in_words: str
    sign: str
    digits: int = 3
    ends: tuple[float, ...] = ()


UNITS: Mapping[str, UnitFacts] = MappingProxyType(
    {
        "percent": UnitFacts("percent, in [0, 100]", "%", digits=2, ends=(0.0, 100.0)),
        "points": UnitFacts("points: a difference of percentages", "points", digits=2),
        "nats": UnitFacts("nats", "nats"),
        "fraction": UnitFacts("a fraction, in [0, 1]", "fraction", ends=(0.0, 1.0)),
        "distance": UnitFacts("a distance, without a unit", "distance"),
        "seconds": UnitFacts("seconds", "s"),
        "steps": UnitFacts("steps of the optimiser", "steps", digits=0),
        "ratio": UnitFacts("a ratio, 0 or more", "ratio"),
    }
)


def unit_facts(unit: str) -> UnitFacts:
    """Those of a unit; one that a user's own metric names is written as it is."""
    return UNITS.get(unit, UnitFacts(unit, unit))
