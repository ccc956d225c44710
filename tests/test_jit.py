"""JiT: a step by hand, and where its gradient flows."""

import pytest
import torch
from torch import nn

from lethe.unlearn import unlearn
from lethe.unlearn.jit import noisy, steepness
from tests.three_classes import data_of, flat, perceptron, seeded, whole


def linear():
    return seeded(nn.Flatten, lambda: nn.Linear(16, 3, bias=False))


def test_a_step_on_one_image_by_hand():
    """W + lr (W e) x' / (|W e| |e|), e the change of x: no gradient flows through the noisy copy."""
    model, data = linear(), data_of(forget=[4])
    x, _ = whole(data.forget)
    weight = model[1].weight.detach()
    e = (noisy(x, 0.5, data.generator("JiT", "noise")) - x).flatten()
    change = weight @ e
    expected = weight + 0.1 * torch.outer(change / change.norm(), x.flatten()) / e.norm()

    found = unlearn("JiT", model, data, unlearn_lr=0.1, noise_copies=1).model

    torch.testing.assert_close(found[1].weight.detach(), expected)


def test_it_averages_over_images_and_copies():
    model, data = perceptron(), data_of()
    x, _ = whole(data.forget)
    with torch.no_grad():
        copies, draws = [], torch.Generator().manual_seed(1)
        for _ in range(3):
            copies.append(noisy(x, 0.5, draws))
        ratios = [
            (model(one[None]) - model(other[None])).norm() / (one - other).norm()
            for copy in copies
            for one, other in zip(x, copy, strict=True)
        ]
    found = steepness(model, x, 0.5, 3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.detach(), torch.stack(ratios).mean())


def test_noisy_pixels_stay_within_those_of_the_batch():
    x, _ = whole(data_of().forget)
    found = noisy(x, 5.0, torch.Generator().manual_seed(1))
    assert (found.min(), found.max()) == (x.min(), x.max())


def test_an_image_whose_noise_is_clamped_away_gives_no_gradient():
    model, same = linear(), torch.ones(2, 1, 4, 4)  # lowest and highest pixel are one
    steepness(model, same, 0.5, 2, torch.Generator().manual_seed(1)).backward()
    assert torch.equal(model[1].weight.grad, torch.zeros(3, 16))


def test_no_step_keeps_a_gradient_of_the_step_before():
    """Two batches of one image: two steps of SGD, each on its own batch."""
    model, data = linear(), data_of(forget=[4, 5])
    once = unlearn("JiT", model, data, unlearn_lr=0.1, batch_size=1, noise_copies=1).model
    by_hand, draws = linear(), data.generator("JiT", "noise")
    for x, _ in data.forget.batches(1):
        (gradient,) = torch.autograd.grad(steepness(by_hand, x, 0.5, 1, draws), [by_hand[1].weight])
        with torch.no_grad():
            by_hand[1].weight -= 0.1 * gradient
    torch.testing.assert_close(flat(once), flat(by_hand))


def test_a_rate_that_diverges_is_an_error():
    with pytest.raises(FloatingPointError, match="JiT diverged in epoch 1: .*Choose a smaller --unlearn_lr"):
        unlearn("JiT", perceptron(), data_of(), unlearn_lr=3e37, batch_size=1, unlearn_epochs=3)
