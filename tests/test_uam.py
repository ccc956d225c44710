"""UAM: a step by hand, and the methods that it is at the ends of its settings."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import unlearn
from tests.by_hand import slope
from tests.three_classes import convolutional, data_of, flat, perceptron, whole


@pytest.mark.parametrize("model", [perceptron(), convolutional()], ids=["linear", "batch norm, dropout"])
def test_without_a_radius_it_is_fine_tuning_bit_for_bit(model):
    settings = {"unlearn_epochs": 2, "batch_size": 5}
    found = unlearn("UAM", model, data_of(), uam_radius=0.0, **settings).model
    assert torch.equal(flat(found), flat(unlearn("FT", model, data_of(), **settings).model))


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_a_step_by_hand(gamma):
    model, data = perceptron(), data_of()
    (x_f, y_f), (x_r, y_r) = whole(data.forget), whole(data.retain)
    g_f = torch.cat([g.flatten() for g in slope(lambda m: F.cross_entropy(m(x_f), y_f))(model)])
    nearby = copy.deepcopy(model)
    nn.utils.vector_to_parameters(flat(model) + 0.3 * g_f / g_f.norm(), nearby.parameters())
    g_r = torch.cat([g.flatten() for g in slope(lambda m: F.cross_entropy(m(x_r), y_r))(nearby)])
    expected = flat(model) - 0.1 * (g_r - gamma * g_f * (g_f @ g_r) / (g_f @ g_f))
    settings = {"momentum": 0.0, "weight_decay": 0.0, "uam_radius": 0.3, "uam_gamma": gamma}
    found = unlearn("UAM", model, data, unlearn_epochs=1, unlearn_lr=0.1, batch_size=100, **settings).model
    torch.testing.assert_close(flat(found), expected, rtol=0, atol=1e-6)
    if gamma == 1:
        step = flat(found) - flat(model)
        assert abs(step @ g_f) < 1e-6
