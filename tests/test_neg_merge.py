"""NegMerge: what candidates agree on, by hand, and the scale that validation allows."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.neg_merge import merged
from tests.by_hand import sgd, slope
from tests.three_classes import CLASSES, data_of, flat, perceptron, whole


def test_two_candidates_agree_where_their_signs_do():
    tau, agreeing = merged([[torch.tensor([1.0, 2.0, -3.0, 4.0])], [torch.tensor([3.0, -2.0, -1.0, 0.0])]])
    assert tau[0].tolist() == [2.0, 0.0, -2.0, 0.0]
    assert agreeing == 50


def test_opposed_candidates_agree_on_nothing():
    (tau,), agreeing = merged([[torch.ones(3)], [-torch.ones(3)]])
    assert not tau.any()
    assert agreeing == 0


def test_one_candidate_is_task_negation_by_hand():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    tuned = copy.deepcopy(model)
    sgd(tuned, [slope(lambda m: F.cross_entropy(m(x), y))] * 2, 0.2 * 0.05, momentum=0.9)
    settings = {"candidates": 1, "candidate_epochs": 2, "unlearn_lr": 0.05, "merge_scale": 1.5}
    result = unlearn("NegMerge", model, data, **settings)
    expected = flat(model) - 1.5 * (flat(tuned) - flat(model))
    torch.testing.assert_close(flat(result.model), expected, rtol=0, atol=1e-6)
    assert result.facts["change_length"] == pytest.approx((flat(tuned) - flat(model)).norm().item(), rel=1e-4)


def test_where_no_weight_is_agreed_on_it_says_that_nothing_changed(monkeypatch):
    monkeypatch.setattr(
        "lethe.unlearn.neg_merge.merged", lambda changes: ([torch.zeros_like(c) for c in changes[0]], 0.0)
    )
    model = perceptron()
    result = unlearn("NegMerge", model, data_of(), merge_scale=1.0)
    assert torch.equal(flat(result.model), flat(model))
    assert "unchanged" in result.facts


def test_the_scale_is_the_largest_that_keeps_the_validation_score():
    model, data = perceptron(), data_of(forget=[*range(9)])  # of each class
    judged = ForgetData(data.forget, data.retain, data.retain, CLASSES)
    x, y = whole(data.retain)

    def score(scale):
        found = unlearn("NegMerge", model, judged, unlearn_lr=0.5, merge_scale=scale).model
        return (found(x).argmax(1) == y).double().mean().item()

    initial = (model(x).argmax(1) == y).double().mean().item()
    scale = unlearn("NegMerge", model, judged, unlearn_lr=0.5).facts["scale"]
    assert 0 < scale < 2
    assert score(scale) >= 0.95 * initial > max(score(scale + more / 20) for more in range(1, 4))


def test_without_validation_images_the_scale_has_to_be_given():
    with pytest.raises(ValueError, match="--merge_scale: expected a number where there are no validation"):
        unlearn("NegMerge", perceptron(), data_of())


def test_the_candidates_have_the_learning_rates_in_turn():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    taus = []
    for rate in (0.2, 1.0):
        tuned = copy.deepcopy(model)
        sgd(tuned, [slope(lambda m: F.cross_entropy(m(x), y))] * 2, rate * 0.3, momentum=0.9)
        taus.append(flat(tuned) - flat(model))
    agree = taus[0].sign() == taus[1].sign()
    expected = flat(model) - 0.5 * (taus[0] + taus[1]) / 2 * agree * (taus[0] != 0)
    settings = {"candidates": 2, "candidate_epochs": 2, "unlearn_lr": 0.3, "merge_scale": 0.5}
    found = unlearn("NegMerge", model, data, **settings).model
    torch.testing.assert_close(flat(found), expected, rtol=0, atol=1e-6)
