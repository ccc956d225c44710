"""DEL: the scores of channels by hand, what is drawn anew, and what stays."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import unlearn
from lethe.unlearn.example_localisation import by_channel
from tests.by_hand import slope
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole

NOTHING = 1e-12  # a learning rate that moves no weight


def test_a_channel_has_the_mean_of_its_largest_tenth():
    rows = torch.arange(40.0).view(2, 20)
    expected = torch.tensor([18.5, 38.5]).view(2, 1).expand(2, 20)
    torch.testing.assert_close(by_channel(rows), expected)
    torch.testing.assert_close(by_channel(rows.view(2, 5, 2, 2)), expected.reshape(2, 5, 2, 2))
    short = torch.tensor([[1.0, 3.0, 2.0]])
    assert by_channel(short).tolist() == [[3.0, 3.0, 3.0]]
    assert torch.equal(by_channel(rows[0]), rows[0])


def test_the_top_channels_of_a_linear_layer_by_hand():
    model = seeded(nn.Flatten, lambda: nn.Linear(16, 9), lambda: nn.Linear(9, CLASSES))
    data = data_of()
    x, y = whole(data.forget)
    slopes = slope(lambda m: F.cross_entropy(m(x), y))(model)
    scores = [(g * p.detach()).abs() for g, p in zip(slopes, model.parameters(), strict=True)]
    flat_scores = torch.cat([by_channel(s).flatten() for s in scores])
    bar = flat_scores.sort(descending=True).values[round(0.3 * len(flat_scores)) - 1]
    result = unlearn("DEL", model, data, unlearn_epochs=1, unlearn_lr=NOTHING, density=0.3)
    moved = (result.model[1].weight - model[1].weight).abs().amax(1) > 1e-6
    assert torch.equal(moved, by_channel(scores[0])[:, 0] >= bar)
    assert result.facts["redrawn_weights"] == round(0.3 * len(flat_scores))
    assert result.model[1].weight.abs().max() <= 0.25


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_all_other_weights_keep_every_bit(make):
    model = make()
    marked = unlearn("DEL", model, data_of(), unlearn_epochs=1, unlearn_lr=NOTHING).model
    result = unlearn("DEL", model, data_of(), unlearn_epochs=3, unlearn_lr=0.05).model
    classifier = list(model.state_dict())[-1].rpartition(".")[0]
    kept = 0
    for name, before in model.named_parameters():
        if not name.startswith(classifier):
            still = (marked.get_parameter(name) - before).abs() < 1e-9
            assert torch.equal(result.get_parameter(name)[still], before[still])
            kept += int(still.sum())
    assert kept
    assert not torch.equal(
        result.get_parameter(f"{classifier}.weight"), model.get_parameter(f"{classifier}.weight")
    )


def test_the_steps_after_the_reset_by_hand():
    model, data = perceptron(), data_of()
    x, y = whole(data.retain)
    settings = {"density": 0.1, "momentum": 0.5}
    start = unlearn("DEL", model, data, unlearn_epochs=1, unlearn_lr=NOTHING, **settings).model
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    trained = [((p - q).abs() > 1e-9).float() for p, q in pairs]
    trained[2:] = [torch.ones_like(part) for part in trained[2:]]  # the classifier
    expected = copy.deepcopy(start)
    velocity = [torch.zeros_like(p) for p in expected.parameters()]
    for rate in (0.1, 0.0505):  # by a cosine to a hundredth
        slopes = slope(lambda m: F.cross_entropy(m(x), y))(expected)
        with torch.no_grad():
            for p, b, g, moves in zip(expected.parameters(), velocity, slopes, trained, strict=True):
                p -= moves * rate * b.mul_(0.5).add_(g)
    found = unlearn("DEL", model, data, unlearn_epochs=2, unlearn_lr=0.1, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-6)
