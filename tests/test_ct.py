"""CT: what it transposes, and how it fine-tunes that."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import resolved, unlearn
from lethe.unlearn.ct import transpose
from tests.by_hand import adam, slope
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole


def test_ct_transposes_height_and_width_of_the_square_kernels():
    model, transposed = convolutional(), convolutional()
    transpose(transposed)
    for o in range(4):
        for h in range(3):
            for w in range(3):
                assert transposed[0].weight[o, 0, h, w] == model[0].weight[o, 0, w, h]
    assert all(
        torch.equal(a, b)
        for a, b in zip(list(transposed.parameters())[1:], list(model.parameters())[1:], strict=True)
    )


def test_a_transposed_convolution_sees_the_transposed_image():
    model, images = (
        seeded(lambda: nn.Conv2d(2, 4, 3, groups=2), nn.ReLU, lambda: nn.Conv2d(4, 3, 2)),
        torch.randn(5, 2, 6, 6),
    )
    expected = model(images).mT
    transpose(model)
    torch.testing.assert_close(model(images.mT), expected)


def test_ct_fine_tunes_what_it_transposed_by_adam():
    convolution = functools.partial(
        nn.Conv2d, 1, 4, 3, bias=False
    )  # behind batch norm a bias has no gradient
    model = seeded(
        convolution, lambda: nn.BatchNorm2d(4), nn.Tanh, nn.Flatten, lambda: nn.Linear(16, CLASSES)
    )
    data, expected = data_of(), copy.deepcopy(model)
    transpose(expected)
    x, y = whole(data.retain)
    adam(expected.train(), [slope(lambda m: F.cross_entropy(m(x), y))] * 3, 1e-2)
    result = unlearn("CT", model, data, unlearn_epochs=3, unlearn_lr=1e-2, batch_size=100).model
    torch.testing.assert_close(flat(result), flat(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(result[1].running_mean, expected[1].running_mean)


@pytest.mark.parametrize("kernel", [1, (1, 3)], ids=["1 x 1", "1 x 3"])
def test_ct_refuses_a_model_that_transposing_leaves_as_it_is(kernel):
    model = seeded(lambda: nn.Conv2d(1, 2, kernel), nn.Flatten, lambda: nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 1, 4, 4))
    for one in (model, perceptron()):
        reason = "CT: expected a model with a square convolution kernel larger than 1 x 1, got one without"
        with pytest.raises(ValueError, match=reason):
            resolved("CT", one, data_of(), {"unlearn_epochs": 1, "unlearn_lr": 1e-3, "batch_size": 8})
