"""SFRon: its weights and mask by hand, a step, and the cases in which it is something simpler."""

import math

import pytest
import torch
from torch.nn import functional as F

from lethe.unlearn import copy_of, unlearn
from lethe.unlearn.importance import over_batches
from lethe.unlearn.sfron import masked_step, salient, weighted_ascent
from tests.by_hand import adam, sgd, slope
from tests.three_classes import data_of, flat, perceptron, whole


def test_without_a_power_it_is_minus_the_mean_and_with_one_the_small_losses_weigh_most():
    losses = torch.tensor([1.0, 4.0])
    assert weighted_ascent(losses, 0.0).item() == -2.5
    assert weighted_ascent(losses, 0.5).item() == pytest.approx(-(2 / 3 * 1 + 1 / 3 * 4))


def test_the_weights_have_no_gradient_and_a_loss_of_0_takes_a_finite_one():
    losses = torch.tensor([0.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(weighted_ascent(losses, 0.5), losses)
    assert slope.tolist() == pytest.approx([-1000 / 1001, -1 / 1001])  # of 1e-6 and 1


def test_the_mask_is_where_forget_matters_as_much_as_retain():
    model, data = perceptron(), data_of()
    forget, retain = (
        over_batches(model, images, 3, data, "SFRon", f"importance for {name}")
        for name, images in (("forget", data.forget), ("retain", data.retain))
    )
    expected = [(forget[name] + 1e-15) / (retain[name] + 1e-15) >= 2 for name in forget]
    found = salient(model, data, 3, 2.0)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_weight_that_matters_to_neither_is_in_the_mask():
    model = perceptron()
    with torch.no_grad():
        model[1].bias[0] = -100.0  # a dead unit
    found = dict(zip(dict(model.named_parameters()), salient(model, data_of(), 3, 1.0), strict=True))
    assert found["1.weight"][0].all() and found["1.bias"][0]


def test_what_is_clipped_is_the_gradient_of_the_mask():
    weights = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weights], lr=0.1)
    loss = (torch.tensor([3.0, 4.0, 100.0]) * weights).sum()
    masked_step(loss, [weights], [torch.tensor([True, True, False])], 1.0, optimizer)
    assert weights.tolist() == pytest.approx([-0.06, -0.08, 0.0], rel=1e-5)


def test_a_step_of_ascent_leaves_the_other_weights_whatever_the_optimiser_remembers():
    model = perceptron()
    parameters = list(model.parameters())
    mask = [torch.arange(p.numel()).view_as(p) % 2 == 0 for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    x, y = whole(data_of().retain)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()  # momentum for all
    before = [p.detach().clone() for p in parameters]

    masked_step(-F.cross_entropy(model(x), y), parameters, mask, 7.0, optimizer)

    for p, start, marked in zip(parameters, before, mask, strict=True):
        assert torch.equal(p[~marked], start[~marked])
        assert not torch.equal(p[marked], start[marked])


def test_none_of_the_way_is_the_initial_model():
    model = perceptron()
    assert torch.equal(flat(unlearn("SFRon", model, data_of(), slow_share=0.0).model), flat(model))


def rates(lr, steps):
    return [lr * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps)]


def test_without_ascent_it_is_fine_tuning_by_a_cosine():
    model, data = perceptron(), data_of()
    x, y = whole(data.retain)
    expected = copy_of(model)
    descents = [lambda m: torch.autograd.grad(F.cross_entropy(m(x), y), list(m.parameters()))] * 3
    sgd(expected, descents, rates(0.1, 3), momentum=0.9, decay=5e-4)
    found = unlearn("SFRon", model, data, forget_alpha=0.0, unlearn_epochs=3, unlearn_lr=0.1).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


def test_half_of_the_way_by_hand():
    """Three steps of one batch each, two with ascent; every weight is in the mask, no gradient is clipped."""
    model, data = perceptron(), data_of()
    (x_f, y_f), (x_r, y_r) = whole(data.forget), whole(data.retain)
    by_hand = copy_of(model)
    parameters = list(by_hand.parameters())
    buffers = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(gradients, lr):
        for p, b, g in zip(parameters, buffers, gradients, strict=True):
            b.mul_(0.9).add_(g)
            p.sub_(lr * b)

    for t, fade in enumerate(rates(1.0, 3)):
        start = [p.detach().clone() for p in parameters]
        if t != 1:
            ascent = 2.0 * fade * weighted_ascent(F.cross_entropy(by_hand(x_f), y_f, reduction="none"), 0.5)
            step(torch.autograd.grad(ascent, parameters), 0.05 * fade)
        step(torch.autograd.grad(F.cross_entropy(by_hand(x_r), y_r), parameters), 0.05 * fade)
        with torch.no_grad():
            for p, before in zip(parameters, start, strict=True):
                p.copy_((before + p) / 2)

    found = unlearn(
        "SFRon",
        model,
        data,
        unlearn_epochs=3,
        unlearn_lr=0.05,
        weight_decay=0.0,
        forget_every=2,
        forget_alpha=2.0,
        mask_gamma=0.0,
        clip_norm=1e9,
        slow_share=0.5,
    )
    torch.testing.assert_close(flat(found.model), flat(by_hand), rtol=1e-4, atol=1e-6)
    assert found.facts["salient_percent"] == 100


def test_a_dual_optimizers_rate_falls_by_the_cosine_too():
    """A rate on retain so small that no weight sees it."""
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    ascents = [slope(lambda m, fade=fade: -2.0 * fade * F.cross_entropy(m(x), y)) for fade in rates(1.0, 3)]
    expected = copy_of(model)
    adam(expected, ascents, rates(0.01, 3), decoupled=0.05)
    flags = {"forget_every": 1, "forget_alpha": 2.0, "loss_power": 0.0, "mask_gamma": 0.0, "clip_norm": 1e9}
    found = unlearn("SFRon", model, data, unlearn_epochs=3, unlearn_lr=1e-30, dual_optimizer=0.01, **flags)
    torch.testing.assert_close(flat(found.model), flat(expected), rtol=1e-4, atol=1e-6)
