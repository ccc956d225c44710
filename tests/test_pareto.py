"""The Pareto front against its definition, pair by pair."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.report.pareto import pareto_front

COST = st.one_of(st.integers(0, 4).map(float), st.floats(allow_nan=False))  # few values: many are equal


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and (a[0] < b[0] or a[1] < b[1])


@given(st.lists(st.tuples(COST, COST), max_size=12))
def test_the_front_is_what_nothing_dominates(costs):
    assert pareto_front(costs) == [
        i for i, own in enumerate(costs) if not any(dominates(other, own) for other in costs)
    ]


def test_by_hand():
    assert pareto_front([(0, 5), (1, 5), (1, 4), (3, 3), (3, 3), (4, 3)]) == [0, 2, 3, 4]


def test_nan_is_no_cost():
    with pytest.raises(ValueError, match="expected costs that can be compared, got NaN"):
        pareto_front([(0.0, 1.0), (math.nan, 1.0)])
