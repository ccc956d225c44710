"""ESC and ESC_T: what is removed from the features, by hand, and what a probe sees."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.evaluation import penultimate_features
from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.esc import principal_directions, remembered_loss
from lethe.unlearn.features import Features
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole


def classifier_alone():
    """Its features are the images themselves, of four pixels."""
    return seeded(nn.Flatten, lambda: nn.Linear(4, CLASSES))


def along(direction, others):
    """Images of class 0 along a direction, and others of the other two classes."""
    labels = torch.arange(18) % CLASSES
    lengths = torch.linspace(1, 3, 18)
    images = torch.where(labels[:, None] == 0, lengths[:, None] * direction, others)
    return ForgetData.of_tensors(images.view(-1, 1, 2, 2), labels, labels == 0)


def test_esc_leaves_the_bias_of_the_forget_images_and_the_logits_of_what_is_orthogonal():
    direction, other = torch.tensor([0.6, 0.0, 0.8, 0.0]), torch.tensor([0.8, 2.0, -0.6, 1.0])
    data, model = along(direction, other), classifier_alone()
    result = unlearn("ESC", model, data)
    forget, retain = whole(data.forget)[0], whole(data.retain)[0]
    torch.testing.assert_close(result.model(forget), model[1].bias.expand(6, CLASSES))
    torch.testing.assert_close(result.model(retain), model(retain))
    torch.testing.assert_close(result.model.projection @ result.model.projection, result.model.projection)
    assert result.facts == {"removed_directions": 1}


def test_esc_removes_no_direction_that_no_forget_image_has():
    direction = torch.tensor([0.6, 0.0, 0.8, 0.0])
    data = along(direction, torch.ones(4))
    assert unlearn("ESC", classifier_alone(), data, removed_percent=75.0).facts == {"removed_directions": 1}


def test_a_probe_sees_the_features_without_these_directions():
    model, data = convolutional(), data_of()
    found = penultimate_features(unlearn("ESC", model, data).model, data.forget)
    h = penultimate_features(model, data.forget)
    first = torch.linalg.svd(h.T).U[:, :1]
    torch.testing.assert_close(found, h - h @ first @ first.T, rtol=0, atol=1e-5)


def test_principal_directions_are_those_of_a_singular_value_decomposition():
    h = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions, lengths = principal_directions(h)
    expected = torch.linalg.svd(h.T)
    torch.testing.assert_close(lengths, expected.S.square())
    torch.testing.assert_close((directions.T @ expected.U).abs(), torch.eye(5, dtype=torch.float64))


def test_esc_t_starts_at_the_initial_model():
    model, data = perceptron(), data_of()
    x, _ = whole(data.retain)
    result = unlearn("ESC_T", model, data, unlearn_epochs=1, unlearn_lr=1e-12)
    torch.testing.assert_close(result.model(x), model(x))
    assert "unchanged" in result.facts


def test_features_of_0_have_no_direction_to_remove():
    result = unlearn("ESC", classifier_alone(), along(torch.zeros(4), torch.ones(4)))
    assert result.facts["removed_directions"] == 0
    assert "unchanged" in result.facts


def test_an_epoch_of_esc_t_by_hand():
    model, data = perceptron(), data_of((2,))
    x, y = whole(data.forget)
    h = Features(model, "3")(x).detach()
    u = principal_directions(h)[0].float()
    mask = torch.ones_like(u, requires_grad=True)
    logits = F.linear(h @ (u * mask) @ (u * mask).T, model[3].weight, model[3].bias)
    right = logits.argmax(1) == y
    (slope,) = torch.autograd.grad(-F.cross_entropy(logits[right], y[right]), mask)
    kept = u * ((1 - 2 * slope).clamp(0, 1) > 0.8)
    result = unlearn("ESC_T", model, data, unlearn_epochs=1, unlearn_lr=2.0, threshold=0.8)
    assert 0 < result.facts["removed_entries"] < u.numel()
    torch.testing.assert_close(result.model.projection, kept @ kept.T)


def test_without_an_image_that_is_still_right_there_is_no_step():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = remembered_loss(logits, torch.tensor([0, 0]))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not slope.any()


@pytest.mark.parametrize("method", ["ESC", "ESC_T"])
def test_the_weights_stay(method):
    model, data = perceptron(), data_of()
    result = unlearn(method, model, data).model
    assert torch.equal(flat(result.model), flat(model))


def test_features_have_gradients_and_are_those_of_the_whole_model():
    model, data = convolutional(), data_of()
    x, _ = whole(data.retain)
    h = Features(model, "7")(x)
    torch.testing.assert_close(model[7](h), model(x))
    h.sum().backward()
    assert model[0].weight.grad is not None
    assert model[7].weight.grad is None
