"""The metrics that compare the predictions of two models, against hand-made values, scipy, and what they must
obey.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from lethe.evaluation import METRICS, ModelOutputs, Outputs, evaluate
from lethe.evaluation.prediction_distance import class_means, jensen_shannon

LN2 = math.log(2)
rows = (
    st.lists(st.floats(0, 1), min_size=3, max_size=3)
    .filter(lambda row: sum(row) > 1e-3)
    .map(lambda row: np.divide(row, sum(row)))
)
distributions = st.integers(1, 6).flatmap(
    lambda n: st.tuples(*[st.lists(rows, min_size=n, max_size=n).map(np.array)] * 2)
)


def outputs(probabilities, labels):
    return Outputs(torch.tensor(probabilities, dtype=torch.float64).log(), torch.tensor(labels))


def model_outputs(forget, test=None):
    test = outputs([[0.6, 0.4]], [0]) if test is None else test
    return ModelOutputs(forget=forget, retain=test, test=test, validation=None, forget_classes=(), seed=1)


def measured(name, ours, theirs, labels=(0, 1)):
    return METRICS[name](model_outputs(outputs(ours, labels)), model_outputs(outputs(theirs, labels)))


# The divergence


@given(st.integers(0, 10**6), st.sampled_from([0.05, 1.0, 20.0]))
def test_it_is_the_square_of_scipys_distance(seed, concentration):
    p, q = np.random.default_rng(seed).dirichlet([concentration] * 5, (2, 8))
    got = jensen_shannon(torch.tensor(p), torch.tensor(q)).numpy()
    assert got == pytest.approx(jensenshannon(p, q, axis=1) ** 2, abs=1e-12)


@given(distributions)
def test_it_is_symmetric_between_0_and_ln_2_and_0_for_the_same(pair):
    p, q = map(torch.tensor, pair)
    there = jensen_shannon(p, q)
    torch.testing.assert_close(there, jensen_shannon(q, p), atol=1e-15, rtol=0)
    assert bool((there >= 0).all() and (there <= LN2).all())
    assert jensen_shannon(p, p).tolist() == [0.0] * len(p)


def test_the_divergence_by_hand():
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4); and two that share nothing.
    p, q = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    half = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert jensen_shannon(p, q).tolist() == pytest.approx([half, LN2], abs=1e-15)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (
            torch.ones(2, 1),
            torch.ones(1, 1),
            r"expected two tensors of probabilities \(N, C\), got shapes \(2, 1\) and \(1, 1\)",
        ),
        (torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), r"got shapes \(2,\) and \(2,\)"),
        (
            torch.tensor([[0.5, 0.5], [3.0, 1.0]]),
            torch.full((2, 2), 0.5),
            r"got 1 of 2 that are not \(the first sums to 4\)",
        ),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([[1.5, -0.5]]), "not negative and sum to 1, got 1 of 1"),
        (torch.tensor([[math.nan, 0.5]]), torch.tensor([[0.5, 0.5]]), "got 1 of 1 that are not"),
    ],
)
def test_what_is_no_probabilities_is_refused(p, q, message):
    with pytest.raises(ValueError, match=message):
        jensen_shannon(p, q)


# Against the ideal, and against an incompetent teacher


def test_fidelity_by_hand():
    assert measured("fidelity", [[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.8, 0.2]]) == 50.0


def test_fidelity_asks_what_is_predicted_not_what_is_right():
    assert measured("fidelity", [[0.1, 0.9], [0.9, 0.1]], [[0.1, 0.9], [0.9, 0.1]], labels=(0, 1)) == 100.0


def test_js_divergence_is_the_mean_over_forget():
    expected = (LN2 + 0) / 2
    assert measured("js_divergence", [[1.0, 0.0], [0.3, 0.7]], [[0.0, 1.0], [0.3, 0.7]]) == pytest.approx(
        expected, abs=1e-15
    )


def test_activation_distance_by_hand():
    # |(.6, .4) - (.3, .8 - .1)| = .3 sqrt 2 and |(1, 0) - (0, 1)| = sqrt 2
    expected = (0.3 + 1) * math.sqrt(2) / 2
    assert measured(
        "activation_distance", [[0.6, 0.4], [1.0, 0.0]], [[0.3, 0.7], [0.0, 1.0]]
    ) == pytest.approx(expected, abs=1e-12)


def test_zrf_by_hand():
    assert measured("zrf", [[1.0, 0.0], [0.3, 0.7]], [[0.0, 1.0], [0.3, 0.7]]) == pytest.approx(
        1 - LN2 / 2, abs=1e-15
    )


@given(distributions, st.sampled_from(["fidelity", "js_divergence", "activation_distance", "zrf"]))
def test_they_are_symmetric_and_in_their_range(pair, name):
    p, q = (np.maximum(r, 1e-12) for r in pair)
    labels = [0] * len(p)
    sets = [Outputs(torch.tensor(r).log(), torch.tensor(labels)) for r in (p, q)]
    ours, theirs = (model_outputs(forget, outputs([[0.2, 0.3, 0.5]], [0])) for forget in sets)
    value = METRICS[name](ours, theirs)
    assert value == pytest.approx(METRICS[name](theirs, ours), abs=1e-12)
    lowest, highest = {
        "fidelity": (0, 100),
        "js_divergence": (0, LN2),
        "activation_distance": (0, math.sqrt(2)),
        "zrf": (1 - LN2, 1),
    }[name]
    assert lowest - 1e-12 <= value <= highest + 1e-12


@pytest.mark.parametrize("name", ["fidelity", "js_divergence", "activation_distance", "zrf"])
def test_a_model_that_saw_no_forget_image_is_refused(name):
    some = outputs([[0.9, 0.1], [0.4, 0.6]], [0, 1])
    none = some.subset(torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected the same forget images for both models, got 2 and 0"):
        METRICS[name](model_outputs(some), model_outputs(none))


# Without an ideal model

FORGET = outputs([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [0, 0, 1])
TEST = outputs([[0.1, 0.9], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0, 0])


def test_class_means_by_hand():
    assert class_means(FORGET, torch.tensor([0, 1])).flatten().tolist() == pytest.approx([0.7, 0.3, 0.2, 0.8])


def test_rf_js_divergence_by_hand():
    # class 0: (.7, .3) on forget against (.8/3, 2.2/3) on test; class 1: (.2, .8) against (.6, .4)
    pairs = (((0.7, 0.3), (0.8 / 3, 2.2 / 3)), ((0.2, 0.8), (0.6, 0.4)))
    expected = sum(jensenshannon(p, q) ** 2 for p, q in pairs) / 2
    assert METRICS["rf_js_divergence"](model_outputs(FORGET), model_outputs(FORGET, TEST)) == pytest.approx(
        expected, abs=1e-12
    )


def test_only_the_classes_in_forget_count():
    forget = FORGET.subset(FORGET.labels == 1)
    expected = jensenshannon((0.2, 0.8), (0.6, 0.4)) ** 2
    assert METRICS["rf_js_divergence"](model_outputs(forget), model_outputs(forget, TEST)) == pytest.approx(
        expected, abs=1e-12
    )


def test_predictions_as_on_test_are_the_best():
    assert METRICS["rf_js_divergence"](model_outputs(TEST), model_outputs(FORGET, TEST)) == 0.0


def test_where_a_whole_class_was_forgotten_a_low_value_means_that_it_still_is_there():
    test = outputs([[0.99, 0.01], [0.01, 0.99]], [0, 1])
    remembers, forgot = outputs([[0.99, 0.01]], [0]), outputs([[0.0, 1.0]], [0])
    values = [
        METRICS["rf_js_divergence"](model_outputs(forget), model_outputs(forget, test))
        for forget in (remembers, forgot)
    ]
    assert values[0] == 0.0
    assert 0.9 * LN2 < values[1] <= LN2


def test_a_class_without_a_test_image_is_a_reason():
    test = TEST.subset(TEST.labels == 0)
    _, reasons = evaluate(
        model=model_outputs(FORGET, test), initial=model_outputs(FORGET, test), names=["rf_js_divergence"]
    )
    assert reasons["rf_js_divergence"].reason.startswith(
        "expected test images of every class in forget, got none of [1]"
    )


def test_what_is_not_given_is_a_reason():
    _, reasons = evaluate(model=model_outputs(FORGET), names=["rf_js_divergence", "zrf"])
    assert reasons["rf_js_divergence"].reason == "needs the initial model"
    assert (
        reasons["zrf"].reason == "needs an incompetent teacher (an untrained model of the same architecture)"
    )


def test_an_incompetent_teacher_may_have_seen_forget_alone():
    none = TEST.subset(torch.zeros(4, dtype=torch.bool))
    values, _ = evaluate(
        model=model_outputs(FORGET, TEST), incompetent=model_outputs(FORGET, none), names=["zrf"]
    )
    assert values == {"zrf": 1.0}
