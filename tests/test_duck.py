"""DUCK: the nearest centroids by hand, its steps, and where it stops."""

import copy

import torch
from torch.nn import functional as F

from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.duck import centroids_of, nearest_centroids
from lethe.unlearn.features import Features
from tests.by_hand import adam, slope
from tests.three_classes import CLASSES, data_of, flat, perceptron, whole


def test_the_centroids_are_those_of_the_retained_classes_by_number():
    model, data = perceptron(), data_of()
    found = centroids_of(model, data)
    x, y = whole(data.retain)
    h = Features(model, "3")(x)
    assert found[0].isnan().all()
    for label in (1, 2):
        torch.testing.assert_close(found[label], h[y == label].mean(0))


def test_the_nearest_centroid_with_class_0_removed():
    centroids = torch.tensor([[float("nan")] * 2, [1.0, 0.0], [0.0, 2.0]])
    h = torch.tensor([[3.0, 1.0], [1.0, 3.0], [5.0, 0.1]])
    expected = centroids[[1, 2, 2]]  # the last one's own class is the nearest
    assert torch.equal(nearest_centroids(h, torch.tensor([0, 0, 1]), centroids), expected)
    assert torch.equal(nearest_centroids(100 * h, torch.tensor([0, 0, 1]), centroids), expected)


def test_the_steps_of_an_epoch_by_hand():
    model, data = perceptron(), data_of()
    (x_f, _), (x_r, y_r) = whole(data.forget), whole(data.retain)
    body = Features(model, "3")
    c = nearest_centroids(body(x_f), data.forget.labels, centroids_of(model, data)).detach()

    def loss(model):
        h = Features(model, "3")(x_f)
        away = (1 - (h * c).sum(1) / h.norm(dim=1) / c.norm(dim=1)).mean()
        return 0.7 * away + 1.1 * F.cross_entropy(model(x_r) / 2, y_r)

    expected = copy.deepcopy(model)
    adam(expected, [slope(loss)] * 4, 0.01)
    settings = {"unlearn_epochs": 1, "retain_steps": 4, "unlearn_lr": 0.01, "batch_size": 100}
    result = unlearn("DUCK", model, data, distance_weight=0.7, retain_weight=1.1, **settings)
    torch.testing.assert_close(flat(result.model), flat(expected), rtol=0, atol=1e-5)


def test_it_ends_with_the_epoch_in_which_the_class_is_forgotten():
    result = unlearn("DUCK", perceptron(), data_of(), unlearn_epochs=30, unlearn_lr=0.05)
    assert len(result.history) == result.facts["epochs_run"] < 30
    scores = [epoch["forget_score"] for epoch in result.history]
    assert scores[-1] == 0
    assert all(score >= 1 for score in scores[:-1])


def test_where_the_classes_stay_it_ends_at_the_validation_score():
    model, data = perceptron(), data_of(forget=[*range(9)])
    x, y = whole(data.retain)
    known = data.retain.subset(model(x).argmax(1) == y)  # a validation score of 100
    judged = ForgetData(data.forget, data.retain, known, CLASSES)
    result = unlearn("DUCK", model, judged, unlearn_epochs=3, unlearn_lr=1e-9)
    assert result.facts["epochs_run"] == 1
    assert result.history[0]["forget_score"] >= 1
