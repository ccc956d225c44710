"""A small convolutional network, for images of at least 8 x 8 pixels."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from lethe.flag_error import FlagError
from lethe.models.impl import ImageShape, Width, register

POOLED = 2  # height and width of the classifier's input


@register("cnn", mask_layer="-2", optimizer="adamw", lr=3e-3, batch_size=128, weight_decay=1e-2)
def cnn(
    image_shape: ImageShape, classes: int, *, channels: tuple[Width, ...] = (32, 64), hidden: Width = 128
) -> nn.Sequential:
    """(convolution 3 x 3, stride 2 -> batch norm -> relu) per stage, mean over each quarter, linear -> relu
    -> linear.

    Flags:
        channels: channels of the stages, separated by commas; each halves height and width
        hidden: outputs of the masked layer

    With the defaults the masked layer is 128 x 256. Raises ValueError for no stage, and for images too small
    for the stages.
    """
    if not channels:
        raise FlagError("channels", "expected at least one width, got none. Give e.g. 32,64")
    least = 2 ** len(channels)
    if min(image_shape[1:]) < least:
        raise FlagError(
            "channels",
            f"expected images of at least {least} x {least} pixels for {len(channels)} stages, got "
            f"{image_shape[1]} x {image_shape[2]}. Give fewer",
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(pairwise((image_shape[0], *channels)), 1):
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{number}"] = nn.ReLU()
    layers["quarters"] = nn.AdaptiveAvgPool2d(POOLED)
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(channels[-1] * POOLED**2, hidden)
    layers["relu"] = nn.ReLU()
    layers["linear2"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)
