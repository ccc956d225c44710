"""PGU: retain outputs that no step can move, and the loss and the directions by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.projected_gradient import away_from, main_directions
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole


def test_what_the_retain_images_get_stays_and_the_forget_images_move():
    labels = torch.arange(18) % CLASSES
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(18, 1, 2, 4, generator=generator)
    images[labels > 0, :, 1] = 0  # retain images use half of the inputs
    data = ForgetData.of_tensors(images, labels, labels == 0)
    model = seeded(nn.Flatten, lambda: nn.Linear(8, CLASSES))
    settings = {"retained_var": 1 - 1e-9, "unlearn_epochs": 30, "unlearn_lr": 0.5, "last_lr": 0.5}
    result = unlearn("PGU", model, data, **settings).model
    (retain, _), (forget, _) = whole(data.retain), whole(data.forget)
    torch.testing.assert_close(result(retain), model(retain), rtol=0, atol=1e-5)
    assert (result(forget) - model(forget)).abs().max() > 0.1


def test_the_first_directions_are_taken_by_their_share_of_the_roots():
    moment = torch.diag(torch.tensor([16.0, 1.0, 4.0, 0.0], dtype=torch.float64))  # roots 4, 1, 2
    for share, count in ((0.5, 1), (0.6, 2), (0.9, 3)):
        m = main_directions(moment, share)
        assert m.shape == (4, count)
        expected = torch.eye(4, dtype=torch.float64)[[0, 2, 1]][:count]
        torch.testing.assert_close(m.T.abs(), expected)


@pytest.mark.parametrize(("p", "expected"), [(1.0, -math.log(0.05)), (0.5, -math.log(0.55))])
def test_the_loss_by_hand(p, expected):
    logits = torch.tensor([[math.log(p), math.log(1 - p) if p < 1 else -100.0]])
    assert away_from(logits, torch.tensor([0]), 0.05).item() == pytest.approx(expected)


def test_biases_and_batch_norm_stay():
    model = convolutional()
    result = unlearn("PGU", model, data_of(), unlearn_epochs=3, retained_var=0.3).model
    moved = {
        name
        for name, value in result.state_dict().items()
        if not torch.equal(value, model.state_dict()[name])
    }
    assert moved == {"0.weight", "3.weight", "4.weight", "7.weight"}


def test_it_ends_where_the_retain_score_has_fallen():
    settings = {"unlearn_lr": 5.0, "last_lr": 5.0, "retained_var": 0.1}
    history = unlearn("PGU", convolutional(), data_of((1,)), **settings).history
    assert len(history) < 100
    assert all(epoch["watched_score"] > history[-1]["watched_score"] for epoch in history[:-1])


def directions_of(h, retained):
    """The first directions of rows h, whose singular values have this share of the sum, and one more."""
    u, s, _ = torch.linalg.svd(h.T)
    shares = s.cumsum(0) / s.sum()
    return u[:, : int((shares <= retained).sum()) + 1]


def test_two_epochs_by_hand():
    model, data = perceptron(), data_of()
    (x_f, y_f), (x_r, _) = whole(data.forget), whole(data.retain)
    spans = [directions_of(h.detach(), 0.5) for h in (x_r.flatten(1), model[:3](x_r))]
    expected = copy.deepcopy(model)
    for rate in (0.1, 0.01):
        p = expected(x_f).softmax(1)
        away = -(1.05 - p.gather(1, y_f[:, None])).log().mean()
        entropy = -(p * p.log()).sum(1).mean()
        weights = [expected[1].weight, expected[3].weight]
        slopes = torch.autograd.grad(away - 0.2 * entropy, weights)
        with torch.no_grad():
            for weight, g, m in zip(weights, slopes, spans, strict=True):
                weight -= rate * (g - g @ m @ m.T)
    settings = {"unlearn_epochs": 2, "unlearn_lr": 0.1, "last_lr": 0.01, "retained_var": 0.5}
    result = unlearn("PGU", model, data, **settings)
    assert len(result.history) == 2
    torch.testing.assert_close(flat(result.model), flat(expected), rtol=0, atol=1e-6)
