"""The variants of SSD: their importances by hand, their thresholds, what they do not depend on."""

import math

import pytest
import torch
from torch import nn

from lethe.unlearn import ForgetData, resolved, unlearn
from lethe.unlearn.dampening import dampen, ratio_above
from lethe.unlearn.importance import over_batches, over_images
from lethe.unlearn.ssd_variants import (
    leave_out_unranked,
    selected_share,
    squared_length,
    summed_squared_length,
)
from tests.three_classes import convolutional, data_of, flat, perceptron, whole


def test_of_a_linear_layer_and_one_image_the_importance_is_twice_the_outputs_times_the_inputs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    data = data_of(forget=[4])
    h = whole(data.forget)[0].flatten(1)
    expected = (2 * model(whole(data.forget)[0]).T @ h).abs()

    by_batch = over_batches(model, data.forget, 1, data, "test", loss=squared_length, of=torch.abs)
    by_image = over_images(model, data.forget, data.device, loss=summed_squared_length, of=torch.abs)

    torch.testing.assert_close(by_batch["1.weight"], expected)
    torch.testing.assert_close(by_image["1.weight"], expected)


def by_hand(model, images, loss, of):
    """The mean over single images, each by a backward pass of its own."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in images.batches(1):
        gradients = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += of(gradient) / len(images)
    return total


LOSSES = {
    "SSD_det": (nn.functional.cross_entropy, torch.square),
    "LFSSD_det": (lambda logits, _: logits.square().sum(), torch.abs),
}


@pytest.mark.parametrize("make", [perceptron, convolutional])
@pytest.mark.parametrize("name", LOSSES)
def test_by_image_it_dampens_by_the_formula(name, make):
    model, data = make(), data_of()
    loss, of = LOSSES[name]
    forget, train = (by_hand(model, images, loss, of) for images in (data.forget, data.train))
    expected = {}
    for key, weight in model.named_parameters():
        factor = (0.5 * train[key] / forget[key]).clamp(max=1)
        expected[key] = torch.where(forget[key] > 1.1 * train[key], weight * factor, weight)

    result = unlearn(name, model, data, selection_alpha=1.1, dampening=0.5)

    for key, weight in result.model.named_parameters():
        torch.testing.assert_close(weight, expected[key], rtol=1e-4, atol=1e-6)
    assert result.facts["dampened"] > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_by_image_neither_order_nor_batch_size_matters(name, at_once, monkeypatch):
    model, data = convolutional(), data_of()
    expected = unlearn(name, model, data, selection_alpha=1.1).model
    order = torch.randperm(len(data.retain), generator=torch.Generator().manual_seed(1))
    mixed = ForgetData(data.forget, data.retain.subset(order), data.validation, 3)

    monkeypatch.setattr("lethe.unlearn.importance.IN_CACHE", at_once)
    found = unlearn(name, model, mixed, selection_alpha=1.1).model

    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


def test_no_weight_grows_whatever_the_dampening():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.tolist()[0]
    forget, train = {"weight": torch.tensor([[8.0, 2.0]])}, {"weight": torch.ones(1, 2)}
    assert dampen(model, forget, train, alpha=1.0, dampening=4.0) == 1
    assert model.weight.tolist()[0] == [before[0] / 2, before[1]]


def test_ssd_by_batches_of_one_image_is_ssd_det():
    model, data = perceptron(), data_of()
    by_batch = unlearn("SSD", model, data, selection_alpha=1.5, batch_size=1).model
    by_image = unlearn("SSD_det", model, data, selection_alpha=1.5).model
    torch.testing.assert_close(flat(by_image), flat(by_batch), rtol=1e-4, atol=1e-6)


def test_lfssd_takes_the_size_of_the_gradient_of_batch_means():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    expected = torch.autograd.grad(model(x).square().sum(1).mean(), model[1].weight)[0].abs()
    found = over_batches(model, data.forget, len(y), data, "test", loss=squared_length, of=torch.abs)
    torch.testing.assert_close(found["1.weight"], expected)


def test_the_least_ratio_of_lfssd_is_that_of_classes_or_of_images():
    assert resolved("LFSSD", perceptron(), data_of(), {}) == {"selection_alpha": 10}
    assert resolved("LFSSD", perceptron(), data_of(forget=[0, 4]), {}) == {"selection_alpha": 3.5}


# ASSD


@pytest.mark.parametrize(("forgotten", "percent"), [(0.01, 0.69), (0.1, 2.4), (0.5, 3.93)])
def test_the_share_that_assd_selects(forgotten, percent):
    assert 100 * selected_share(forgotten) == pytest.approx(percent, abs=0.01)


def test_assd_selects_its_share_to_within_one_entry():
    model = perceptron()
    draws = torch.Generator().manual_seed(0)
    forget, train = (
        {name: torch.rand(p.shape, generator=draws) + 0.1 for name, p in model.named_parameters()}
        for _ in range(2)
    )
    count, share = sum(p.numel() for p in model.parameters()), selected_share(0.5)

    alpha = ratio_above(forget, train, share)

    selected = sum(int((forget[name] > alpha * train[name]).sum()) for name in forget)
    assert abs(selected - share * count) <= 1
    assert dampen(model, forget, train, alpha=alpha) == selected  # alpha is above 1: each of them shrinks


def test_assd_by_hand():
    """By batches of one image: the mean of single images' squares. 9 of 18 images are forgotten."""
    model, data = convolutional(), data_of(forget=list(range(9)))
    forget, train = (by_hand(model, images, *LOSSES["SSD_det"]) for images in (data.forget, data.train))
    ratios = torch.cat([(forget[name] / train[name]).flatten() for name in train])
    ratios = ratios[train_is_positive(train)]
    count = round(math.log(1 + 100 * 9 / 18) / 100 * len(ratios))
    least = ratios.sort(descending=True).values[count]

    result = unlearn("ASSD", model, data, batch_size=1)

    for key, weight in model.named_parameters():
        ratio = forget[key] / train[key]
        expected = torch.where(ratio > least, weight / ratio.clamp(min=1), weight)
        torch.testing.assert_close(result.model.get_parameter(key), expected, rtol=1e-4, atol=1e-6)
    assert result.facts["dampened"] == count


def train_is_positive(importances):
    return torch.cat([t.flatten() for t in importances.values()]) > 0


def test_where_both_importances_are_equal_assd_changes_nothing_and_says_so(monkeypatch):
    model = perceptron()
    monkeypatch.setattr(
        "lethe.unlearn.ssd_variants.over_batches",
        lambda *_, **__: {name: p.abs().detach() for name, p in model.named_parameters()},
    )
    result = unlearn("ASSD", model, data_of())
    assert result.facts["dampened"] == 0
    assert result.facts["selection_alpha_found"] == 1
    assert "Use SSD with a low --selection_alpha" in result.facts["unchanged"]
    assert torch.equal(flat(result.model), flat(model))


def test_a_weight_without_a_finite_ratio_is_neither_ranked_nor_dampened():
    forget = {"0.weight": torch.tensor([[1.0, 2.0, 3.0, 0.0]])}
    train = {"0.weight": torch.tensor([[1.0, 0.0, 1.0, 0.0]])}
    assert leave_out_unranked(forget, train) == 1
    assert forget["0.weight"].tolist() == [[1, 0, 3, 0]]
    assert ratio_above(forget, train, 0.5) == 1
    assert ratio_above(forget, train, 0.0) == math.inf
