"""Attacks: pixels and their bounds, balls, the nearest flip of a linear model."""

import pytest
import torch
from torch import nn

from lethe.data import Normalisation
from lethe.unlearn.attacks import Ball, Box, nearest_flips, norms, predicted, targeted

HALF = Normalisation((0.5,), (0.25,))
GREY = torch.zeros(6, 1, 4, 4)  # of pixels .5


@pytest.mark.parametrize("white", [255, 16])
def test_a_pixel_moves_by_the_bound_in_its_own_range_and_stays_in_it(white):
    normalisation = Normalisation((0.5, 0.2), (0.25, 0.1), white)
    pixels = torch.tensor([[0.0, 0.5, 0.95], [0.05, 0.5, 1.0]]).view(1, 2, 1, 3)
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (normalisation.mean, normalisation.std))
    direction = torch.tensor([[-1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]]).view(1, 2, 1, 3)
    start = (pixels - mean) / std
    x = Box(normalisation, start).moved(start, 0.1 * direction)
    expected = torch.tensor([[0.0, 0.6, 1.0], [0.0, 0.4, 1.0]]).view(1, 2, 1, 3)
    torch.testing.assert_close(x * std + mean, expected, rtol=0, atol=1e-6)


def test_without_a_normalisation_pixels_move_as_they_are():
    x = torch.tensor([[-3.0, 0.0, 9.0]])
    assert torch.equal(
        Box(Normalisation((), ()), x).moved(x, 0.5 * x.sign()), torch.tensor([[-3.5, 0.0, 9.5]])
    )


def linear(bias=0.0):
    """Two classes; the difference of the logits is w x + bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
        model[1].bias.copy_(torch.tensor([bias, 0.0]))
    return model.eval()


def walked(needed, steps):
    """How far a walk along a line goes that ends past `needed`: in tenths of a radius, which is doubled."""
    way, radius = 0.0, 0.04
    while way < needed:
        for _ in range(steps):
            if way < needed:
                way = min(way + radius / 10, radius)
        radius *= 2
    return way


@pytest.mark.parametrize(("bias", "steps"), [(1.0, 50), (3.0, 50), (3.0, 3), (6.0, 4)])
def test_a_linear_model_is_flipped_just_across_its_boundary_and_straight(bias, steps):
    """The pixels move along w, by |margin| / |w| or up to a step more."""
    model, box = linear(bias), Box(HALF, GREY)
    labels = predicted(model, GREY)
    w = (model[1].weight[0] - model[1].weight[1]) / 0.25  # by the pixels

    found, classes = nearest_flips(model, GREY, labels, box, steps=steps)

    change = box.distance(GREY, found).flatten(1)
    expected = -walked(bias / w.norm().item(), steps) * w / w.norm()
    assert (classes != labels).all()
    torch.testing.assert_close(change, expected.expand(6, 16))


def test_the_way_is_straight_in_pixels_whatever_the_channels_deviations():
    grey = torch.zeros(1, 2, 2, 4)  # of pixels .5
    model, box = linear(bias=1.0), Box(Normalisation((0.5, 0.5), (0.25, 0.05)), grey)
    w = (model[1].weight[0] - model[1].weight[1]) / box.std.expand(1, 2, 2, 4).flatten()
    change = box.distance(grey, nearest_flips(model, grey, predicted(model, grey), box)[0]).flatten()
    torch.testing.assert_close(change / change.norm(), -w / w.norm())


def test_an_image_that_no_pixel_can_flip_is_counted_and_a_wrong_one_stays():
    model, box = linear(bias=1e4), Box(HALF, GREY)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])  # of the last the model is wrong

    found, classes = nearest_flips(model, GREY, labels, box)

    assert (classes != labels).tolist() == [False] * 5 + [True]
    assert torch.equal(found[5], GREY[5])
    pixels = found * 0.25 + 0.5
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_images_without_bounds_are_flipped_too():
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    model = linear()
    labels = predicted(model, x)

    found, classes = nearest_flips(model, x, labels, Box(Normalisation((), ()), x))

    assert torch.equal(predicted(model, found), classes)
    assert (classes != labels).all()


@pytest.mark.parametrize("ball", [Ball(0.3), Ball(0.3, "linf")], ids=lambda ball: ball.norm)
def test_a_target_is_reached_within_the_ball_and_the_seed_decides_the_start(ball):
    model, box = linear(), Box(HALF, GREY)
    targets = torch.tensor([0, 1, 0, 1, 0, 1])

    def attacked(seed, steps=5):
        draws = torch.Generator().manual_seed(seed)
        return targeted(model, GREY, targets, box, ball, size=0.2, steps=steps, generator=draws)

    found = attacked(1)
    change = box.distance(GREY, found)
    size = change.abs().amax() if ball.norm == "linf" else norms(change).amax()
    assert torch.equal(predicted(model, found), targets)
    assert size <= 0.3 + 1e-6
    assert torch.equal(found, attacked(1))
    assert not torch.equal(attacked(1, steps=0), attacked(2, steps=0))
