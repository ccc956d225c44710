"""VGG-16 with batch norm, for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from lethe.models.impl import ImageShape, Width, register
from lethe.system.torchvision_import import torchvision_module

WIDTH = 64


@register("vgg16_bn", mask_layer="-2", lr=0.05, source="Simonyan, Zisserman 2015, arXiv:1409.1556")
def vgg16_bn(image_shape: ImageShape, classes: int, *, width: Width = WIDTH) -> nn.Sequential:
    """torchvision's VGG-16 with batch norm and the classifier 512 -> 512 -> relu -> dropout -> classes.

    Flags:
        width: channels of the first stage, at most eight times as many in the last; 64 is VGG-16, fewer make
            a narrow one

    The features are averaged over the image. For images smaller than 32 x 32, those of the five max-poolings
    that would leave no pixel are left out. The masked layer is 512 x 512.
    """
    vgg = torchvision_module("models").vgg
    features = vgg.make_layers(_stages(vgg.cfgs["D"], width, min(image_shape[1:])), batch_norm=True)
    features[0] = nn.Conv2d(image_shape[0], width, kernel_size=3, padding=1)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    tail = (nn.Linear(8 * width, 8 * width), nn.ReLU(), nn.Dropout(), nn.Linear(8 * width, classes))
    parts = OrderedDict(
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(*tail),
    )
    return nn.Sequential(parts)


def _stages(published: list[int | str], width: int, side: int) -> list[int | str]:
    """Scale torchvision's widths to `width`; drop the max-poolings ("M") that leave no pixel of `side`."""
    stages: list[int | str] = []
    for stage in published:
        if isinstance(stage, int):
            stages.append(stage * width // WIDTH)
        elif side >= 2:
            stages.append(stage)
            side //= 2
    return stages
