"""weight_distortion and kin: what they do to the weights before they tune, and the reward's gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import copy_of, unlearn
from lethe.unlearn.passes import Pass, fine_tune
from lethe.unlearn.weight_distortion import distance
from tests.by_hand import adam
from tests.three_classes import data_of, flat, perceptron, seeded, whole


def wide():
    """Of 1.6e5 weights, all ones."""
    model = seeded(nn.Flatten, lambda: nn.Linear(16, 10000))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    return model


def untuned(name, seed=1, **settings):
    """The weights before tuning: the rate moves none of them by more than 1e-29."""
    return flat(
        unlearn(name, wide(), data_of(seed=seed), unlearn_lr=1e-30, unlearn_epochs=1, **settings).model
    )


def test_distortion_adds_noise_of_its_size_that_the_seed_decides():
    change = untuned("weight_distortion", distortion_std=0.1) - 1
    assert change.mean().item() == pytest.approx(0, abs=1e-3)
    assert change.std().item() == pytest.approx(0.1, rel=0.01)
    assert not torch.equal(change, untuned("weight_distortion", seed=2, distortion_std=0.1) - 1)


def test_dropout_sets_its_share_to_0_and_leaves_the_rest():
    weights = untuned("weight_dropout", dropped_share=0.3)
    gone = weights.abs() < 1e-20
    assert (weights[~gone] == 1).all()
    assert gone.double().mean().item() == pytest.approx(0.3, abs=0.01)


def test_attenuation_multiplies():
    assert set(untuned("weight_attenuation", attenuation=0.7).tolist()) == {torch.tensor(0.7).item()}


def test_attenuation_by_1_is_fine_tuning_by_adam():
    data, model = data_of(), perceptron()
    found = unlearn("weight_attenuation", model, data, attenuation=1.0, unlearn_epochs=1, batch_size=5).model
    student = copy_of(model)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    fine_tune(student, data, "weight_attenuation", lambda _: [Pass("retain", data.retain)], optimizer, 1, 5)
    assert torch.equal(flat(found), flat(student))


def test_the_rewards_gradient_is_along_the_distance():
    model = perceptron()
    initial = [p.detach() - 0.1 * torch.ones_like(p) for p in model.parameters()]
    found = torch.autograd.grad(distance(model, initial), list(model.parameters()))
    count = flat(model).numel()
    rms = (0.01 + 1e-8) ** 0.5
    for gradient in found:
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1 / (count * rms)))


def test_at_the_initial_weights_the_reward_has_no_gradient():
    model = perceptron()
    found = torch.autograd.grad(
        distance(model, [p.detach().clone() for p in model.parameters()]), list(model.parameters())
    )
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in found)


def test_two_steps_of_dist_reg_by_hand():
    data, model = data_of(), perceptron()
    x, y = whole(data.retain)
    initial = [p.detach().clone() for p in model.parameters()]

    def slope(student):
        loss = F.cross_entropy(student(x), y) - 3.0 * distance(student, initial)
        return torch.autograd.grad(loss, list(student.parameters()))

    expected = copy_of(model)
    adam(expected, [slope, slope], lr=0.01)
    found = unlearn("weight_dist_reg", model, data, dist_alpha=3.0, unlearn_epochs=2, unlearn_lr=0.01).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-5)
