"""Numbers over seeds, against scipy and by hand."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lethe.evaluation.over_seeds import gaps, over_seeds
from lethe.report.seeds_text import interval, seeds_table, spread
from lethe.sweeps.sweep import _as_json

NUMBERS = st.floats(-1e6, 1e6)


def test_three_seeds_by_hand():
    over = over_seeds([1.0, 2.0, 6.0])  # deviations -2, -1, 3: 14 / 2 = 7; t(0.975, 2) = 4.30265
    assert (over.n, over.mean) == (3, 3.0)
    assert over.sd == pytest.approx(math.sqrt(7))
    assert over.interval == pytest.approx(
        (3 - 4.302653 * math.sqrt(7 / 3), 3 + 4.302653 * math.sqrt(7 / 3)), rel=1e-6
    )


@given(st.lists(NUMBERS, min_size=2, max_size=12).filter(lambda values: statistics.stdev(values) > 1e-3))
def test_it_is_scipys(values):
    over = over_seeds(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert over.interval == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert over.sd == pytest.approx(stats.tstd(values), rel=1e-6)


def test_two_seeds_have_the_wide_interval_of_one_degree_of_freedom():
    assert over_seeds([0.0, 2.0]).interval == pytest.approx((1 - 12.706205, 1 + 12.706205), rel=1e-6)


@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_the_order_of_the_seeds_does_not_matter(values):
    one, other = over_seeds(values), over_seeds(values[::-1])
    assert one.mean == pytest.approx(other.mean) and one.sd == pytest.approx(other.sd, abs=1e-6)


def test_it_covers_the_mean_of_a_normal_as_often_as_it_says():
    draws = stats.norm.rvs(loc=5, size=(2000, 4), random_state=0)
    covered = [low <= 5 <= high for low, high in (over_seeds(list(row)).interval for row in draws)]
    assert 0.935 < statistics.fmean(covered) < 0.965


def test_a_single_seed_has_no_interval_and_says_so():
    over = over_seeds([3.5])
    assert (over.n, over.mean, over.sd, over.interval) == (1, 3.5, None, None)
    assert (spread(over), interval(over)) == ("3.50", "none: one seed")


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="expected a value of at least 1 seed, got none. Measure one"):
        over_seeds([])


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_shown_and_not_averaged_away(bad):
    over = over_seeds([1.0, bad, 3.0])
    assert (over.mean, over.sd, over.interval) == (None, None, None)
    assert (spread(over), interval(over)) == (f"1.00, {bad:.2f}, 3.00", "none: not finite")


@pytest.mark.parametrize(
    ("values", "unit", "shown"),
    [
        ([100.0, 100.0, 100.0], "percent", "all 100"),
        ([0.0, 0.0], "percent", "all 0"),
        ([100.0, 0.0, 100.0], "percent", "1 x 0, 2 x 100"),
        ([1.0, 1.0], "fraction", "all 1"),
        ([100.0, 99.0], "percent", "99.50 ± 0.71"),
        ([100.0, 100.0], "nats", "100.00 ± 0.00"),
        ([50.0, 50.0], "percent", "50.00 ± 0.00"),
        ([100.0], "percent", "100.00"),
    ],
)
def test_a_saturated_value_is_shown_as_it_is(values, unit, shown):
    assert spread(over_seeds(values, unit)) == shown


def test_equal_values_have_an_interval_without_width():
    over = over_seeds([0.1, 0.1, 0.1])
    assert over.sd == 0 and over.interval == (0.1, 0.1)
    assert interval(over) == "0.10 to 0.10"


def test_gaps_are_taken_seed_by_seed():
    assert gaps({2: 5.0, 1: 4.0}, {1: 1.0, 2: 7.0}) == [3.0, -2.0]


def test_a_mean_of_gaps_has_the_spread_of_the_gaps_and_not_of_the_values():
    values, ideals = {1: 10.0, 2: 50.0, 3: 90.0}, {1: 9.0, 2: 49.0, 3: 89.0}
    assert over_seeds(gaps(values, ideals)).sd == 0


def test_a_seed_without_its_ideal_is_named():
    reason = "expected the same seeds of the models and of the ideal models, got 2, 3 for one of them alone"
    with pytest.raises(ValueError, match=reason):
        gaps({1: 0.0, 2: 0.0}, {1: 0.0, 3: 0.0})


def test_the_gap_of_saturated_values_is_not_averaged_either():
    metrics, ideals = (
        {seed: {"mia": value} for seed, value in enumerate(values)}
        for values in ((0.0, 100.0, 100.0), (100.0, 100.0, 100.0))
    )

    assert seeds_table(["mia"], metrics, ideals).splitlines()[-1].split("  ")[-1].strip() == "1 x -100, 2 x 0"


def test_a_gap_over_fewer_seeds_says_so():
    metrics, ideals = {1: {"mia": 3.0}, 2: {"mia": 5.0}}, {2: {"mia": 4.0}}

    assert "1.000 (1 of 2 seeds)" in seeds_table(["mia"], metrics, ideals)


@pytest.mark.parametrize("values", [(0.0, 100.0), (1.0, math.inf), (1.0, 2.5, math.nan), (3.0,)])
def test_it_is_written_as_json_that_others_can_read(values):
    written = json.loads(json.dumps(_as_json(over_seeds(values, "percent")), allow_nan=False))

    assert written["seeds"] == len(values)
    assert [float(value) for value in written["values"]] == pytest.approx(list(values), nan_ok=True)
    assert ("mean" in written) == (values != (0.0, 100.0))
