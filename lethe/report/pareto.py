"""The Pareto front of two costs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """Return the ascending indexes of the points that no other point dominates.

        a dominates b    if    a_1 <= b_1 and a_2 <= b_2, and one of the two is smaller

    costs: two numbers of each point; less is better. Equal points are all on the front, or none is.
    Raises ValueError for NaN.
    """
    if any(math.isnan(cost) for point in costs for cost in point):
        raise ValueError("expected costs that can be compared, got NaN. Leave such points out")
    front: list[int] = []
    least, at = math.inf, (math.inf, math.inf)  # the smallest second cost so far, and whose
    for number in sorted(range(len(costs)), key=costs.__getitem__):
        if costs[number][1] < least or costs[number] == at or not front:
            front.append(number)
            least, at = costs[number][1], costs[number]
    return sorted(front)
