"""Amounts: a count, a fraction or a percentage of the weights of a layer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.unlearn import count_of


@pytest.mark.parametrize(
    ("amount", "total", "count"),
    [
        (1, 8192, 1),
        (50, 8192, 50),
        (8192, 8192, 8192),
        (0.1, 8192, 819),
        (0.5, 10, 5),
        (0.999999, 10, 10),
        ("50%", 10, 5),
        ("0.5%", 1000, 5),
        ("100%", 8192, 8192),
        (" 10% ", 50, 5),
        ("1e1%", 50, 5),
    ],
)
def test_an_amount_is_a_count_a_fraction_or_a_percentage(amount, total, count):
    assert count_of(amount, total, "kappa") == count


@pytest.mark.parametrize(
    "amount",
    [
        *(0, -1, 101, 10**30, 0.0, -0.1, 1.5, 2.0, 1e-9, math.nan, math.inf, -math.inf, True, False),
        *("", "%", "0%", "-5%", "100.1%", "nan%", "inf%", "0.001%", "abc", "50", "0.5", "50%%"),
    ],
)
def test_another_amount_is_refused(amount):
    reason = r"--kappa: expected a count from 1 to 100 .*, got .*\. Correct the amount"
    with pytest.raises(ValueError, match=reason):
        count_of(amount, 100, "kappa")


def test_one_point_zero_is_refused_as_ambiguous():
    with pytest.raises(ValueError, match=r"--topk: 1\.0 could mean one weight or all 100\. Write 1 or 100%"):
        count_of(1.0, 100, "topk")


def amounts(total):
    shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
    percentages = st.floats(0, 100, exclude_min=True).map(lambda p: f"{p!r}%")
    return st.one_of(st.integers(1, total), shares, percentages)


def share(amount, total):
    if isinstance(amount, str):
        return float(amount[:-1]) / 100
    return amount / total if isinstance(amount, int) else amount


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.just(total), amounts(total))))
def test_an_amount_is_at_least_one_weight_and_at_most_all(case):
    total, amount = case
    if share(amount, total) * total < 0.5:
        with pytest.raises(ValueError, match="at least one weight"):
            count_of(amount, total, "kappa")
    elif share(amount, total) * total > 0.51:
        count = count_of(amount, total, "kappa")
        assert 1 <= count <= total
        assert abs(count - share(amount, total) * total) <= 0.5 + 1e-6


@given(st.lists(st.floats(0.01, 1, exclude_max=True), min_size=2, max_size=8), st.integers(100, 10**6))
def test_a_larger_amount_is_never_fewer_weights(fractions, total):
    for written in (lambda f: f, lambda f: f"{100 * f!r}%"):
        counts = [count_of(written(f), total, "kappa") for f in sorted(fractions)]
        assert counts == sorted(counts)
