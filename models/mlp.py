"""The multilayer perceptron without biases."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from lethe.models.impl import ImageShape, Width, register


@register(
    "mlp",
    "HookedMLPClassifier",
    mask_layer="-2",
    optimizer="adamw",
    lr=3e-3,
    batch_size=128,
    weight_decay=1e-2,
)
def mlp(image_shape: ImageShape, classes: int, *, hidden: tuple[Width, ...] = (128, 64)) -> nn.Sequential:
    """flatten -> linear -> relu -> ... -> linear, every linear map without a bias.

    Flags:
        hidden: widths of the hidden layers, separated by commas

    With the default and digits the layers are 64 -> 128 -> 64 -> 10, and the masked one is 64 x 128.
    """
    channels, height, width = image_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(pairwise((channels * height * width, *hidden, classes)), 1):
        layers[f"linear{number}"] = nn.Linear(inputs, outputs, bias=False)
        layers[f"relu{number}"] = nn.ReLU()
    layers.popitem()
    return nn.Sequential(layers)
