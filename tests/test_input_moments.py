"""Second moments of layers' inputs, against what the layers compute from them."""

import pytest
import torch
from torch import nn

from lethe.unlearn.input_moments import drawn_inputs, input_moments
from tests.three_classes import convolutional, data_of, perceptron, whole


def test_of_a_linear_layer_they_are_the_rows():
    model, data = perceptron(), data_of()
    x = whole(data.retain)[0].flatten(1).double()

    torch.testing.assert_close(input_moments(model, data.retain, data)["1"], x.T @ x)


def test_of_a_convolution_they_are_the_patches_that_its_flattened_weight_meets():
    model, data = convolutional(), data_of()
    layer, x = model[0], whole(data.retain)[0]
    without_bias = layer(x) - layer.bias.view(1, -1, 1, 1)

    found = input_moments(model, data.retain, data)
    kernels = layer.weight.flatten(1).double()

    # sum of (W h)(W h)' = W (sum of h h') W'
    outputs = without_bias.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(kernels @ found["0"] @ kernels.T, outputs @ outputs.T, rtol=1e-5, atol=1e-4)
    assert {name: len(moment) for name, moment in found.items()} == {"0": 9, "3": 12, "4": 2, "7": 16}


def test_drawn_places_are_as_many_of_each_image_and_the_seed_decides_which():
    model, ones = convolutional(), data_of()
    images = ones.retain
    model[0] = nn.Conv2d(1, 4, 1)
    count = len(images)

    def drawn(seed):
        return drawn_inputs(model, images, data_of(seed=seed), "test", places=3 * count + 1)["0"]

    x = whole(images)[0].flatten(1)
    of_image = drawn(1).view(count, 3)
    assert all(set(some.tolist()) < set(own.tolist()) for some, own in zip(of_image, x, strict=True))
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_convolution_in_groups_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(64, 3))
    data = data_of()
    with pytest.raises(ValueError, match="expected convolutions without groups.* got '1': Conv2d"):
        input_moments(model, data.retain, data)
