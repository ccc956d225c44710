"""Intervals of what was measured on a number of images. Truth: scipy's exact test, and the example of Hanley
and McNeil's paper.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lethe.evaluation.over_images import auc_interval, exact_interval


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_exact_interval_is_that_of_scipy(hits_of_images):
    hits, images = hits_of_images
    truth = binomtest(hits, images).proportion_ci(confidence_level=0.95, method="exact")

    assert exact_interval(100 * hits / images, images) == pytest.approx(
        (100 * truth.low, 100 * truth.high), abs=1e-9
    )


def test_no_image_right_is_not_known_to_be_none():
    assert exact_interval(0, 100) == pytest.approx((0, 3.62167), abs=1e-5)  # 1 - 0.025^(1/100)


@pytest.mark.parametrize(("share", "images"), [(50, 0), (-1, 10), (101, 10)])
def test_what_is_no_share_is_refused(share, images):
    with pytest.raises(ValueError, match="expected a percentage of at least 1 image, got"):
        exact_interval(share, images)


def test_the_interval_of_an_auc_is_that_of_the_paper():
    low, high = auc_interval(0.893, 51, 58)  # Hanley and McNeil 1982: standard error 0.032

    assert (high - low) / 2 / 1.96 == pytest.approx(0.032, abs=6e-4)
    assert (low + high) / 2 == pytest.approx(0.893)


@pytest.mark.parametrize("auc", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_the_interval_of_an_auc_stays_a_fraction(auc):
    low, high = auc_interval(auc, 3, 4)

    assert 0 <= low <= auc <= high <= 1


@pytest.mark.parametrize("auc", [0.0, 1.0, 1e-6])
def test_the_interval_of_a_perfect_auc_has_a_width(auc):
    low, high = auc_interval(auc, 100, 440)
    of_no_hit = binomtest(0, 100).proportion_ci(method="exact").high

    assert (high if auc < 0.5 else 1 - low) == pytest.approx(of_no_hit)


def test_an_auc_needs_images_on_both_sides():
    with pytest.raises(ValueError, match="expected at least 1 image on both sides, got 0 and 4"):
        auc_interval(0.5, 0, 4)
