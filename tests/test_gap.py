"""How far a model is from the ideal one, by hand: avg_gap, tow, and the values of a model compared with
itself.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.evaluation import METRICS, evaluate
from lethe.evaluation.gap import mean_gap, ua_ra_ta_mia
from tests.drawn_outputs import by_class, drawn, model_outputs


def known(monkeypatch_values, **changes):
    """ModelOutputs whose metrics have been computed already, with these values."""
    model = model_outputs(**changes)
    model._values.update({METRICS[name].function: value for name, value in monkeypatch_values.items()})
    return model


def test_avg_gap_by_hand():
    model = known({"forget_score": 10.0, "retain_score": 98.0, "test_score": 90.0, "mia": 80.0})
    ideal = known({"forget_score": 4.0, "retain_score": 99.0, "test_score": 93.0, "mia": 82.0})
    assert ua_ra_ta_mia(model) == (90.0, 98.0, 90.0, 80.0)
    assert METRICS["avg_gap"](model, ideal) == pytest.approx((6 + 1 + 3 + 2) / 4)
    assert METRICS["rUA"](model, ideal) == 6.0


def test_avg_gap_takes_the_test_score_of_the_other_classes_where_a_whole_class_went():
    model = by_class()
    assert ua_ra_ta_mia(model)[2] == model.metric("test_retain_score") != model.metric("test_score")


BEST = {
    "avg_gap": 0.0,
    "rUA": 0.0,
    "tow": 1.0,
    "fidelity": 100.0,
    "js_divergence": 0.0,
    "activation_distance": 0.0,
    "zrf": 1.0,
}


@pytest.mark.parametrize("make", [model_outputs, by_class])
def test_a_model_compared_with_itself_has_the_best_values(make):
    values, _ = evaluate(model=make(), ideal=make(), incompetent=make(), names=list(BEST))
    assert values == BEST


def test_tow_by_hand():
    model = known({"forget_score": 10.0, "retain_score": 98.0, "test_score": 90.0})
    ideal = known({"forget_score": 30.0, "retain_score": 99.0, "test_score": 80.0})
    assert METRICS["tow"](model, ideal) == pytest.approx(0.8 * 0.99 * 0.9)


def test_tow_takes_the_test_score_of_the_other_classes_where_a_whole_class_went():
    model, ideal = (
        by_class(),
        replace(by_class(), test=drawn(120, sharpness=4.0, labels=[0, 1, 2] * 40, seed=9)),
    )
    ours, ideals = model.metric("test_retain_score"), ideal.metric("test_retain_score")
    assert METRICS["tow"](model, ideal) == pytest.approx(1 - abs(ours - ideals) / 100) != 1


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1))
def test_the_mean_gap_is_symmetric_and_no_larger_than_the_largest(pairs):
    ours, ideals = zip(*pairs, strict=True)
    assert mean_gap(ours, ideals) == pytest.approx(np.abs(np.subtract(ours, ideals)).mean())
    assert mean_gap(ours, ideals) == mean_gap(ideals, ours)


def test_the_mean_gap_needs_as_many_ideals():
    with pytest.raises(ValueError, match="expected as many ideal values as values, at least 1, got 1 and 2"):
        mean_gap([1.0, 2.0], [1.0])


def test_the_ideal_of_another_request_is_refused():
    _, reasons = evaluate(
        model=by_class(), ideal=replace(by_class(), forget_classes=()), names=["avg_gap", "tow"]
    )
    assert all(
        "Train the ideal model for the same forget request" in reasons[name].reason
        for name in ("avg_gap", "tow")
    )
