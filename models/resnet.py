"""ResNet-18 with the stem for small images, and the same with a bias-free tail for masking."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from models.impl import ImageShape, register
from torchvision_import import torchvision_module

WIDTH = 64
SOURCE = "He et al. 2016, arXiv:1512.03385"


@register("resnet18", mask_layer="-1", source=SOURCE)
def resnet18(image_shape: ImageShape, classes: int, *, width: int = WIDTH) -> nn.Module:
    """torchvision's ResNet-18 with the CIFAR stem: a 3 x 3 convolution of stride 1 first, and no max-pooling.

    Flags:
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-18, fewer make a narrow one

    Raises ValueError for a width below 1.
    """
    if width < 1:
        raise ValueError(f"--width: expected an integer >= 1, got {width}. Give the channels of the first stage, 64 for ResNet-18")
    resnet = torchvision_module("models").resnet

    class ResNet18(resnet.ResNet):  # type: ignore[name-defined]  # known only once torchvision is imported
        def _make_layer(self, block: type[nn.Module], planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
            if planes == WIDTH:
                self.inplanes = width
            stage: nn.Sequential = super()._make_layer(block, planes * width // WIDTH, *arguments, **options)
            return stage

    model: nn.Module = ResNet18(resnet.BasicBlock, [2, 2, 2, 2])
    model.conv1 = nn.Conv2d(image_shape[0], width, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.bn1 = nn.BatchNorm2d(width)
    model.maxpool = nn.Identity()
    model.fc = nn.Linear(8 * width, classes)
    return model


@register("HookedResnet", mask_layer="-2", source=SOURCE)
def hooked_resnet(image_shape: ImageShape, classes: int, *, hooked_width: int = 128, width: int = WIDTH) -> nn.Module:
    """resnet18 whose classifier is 8 width -> hooked_width -> relu -> classes, without biases; the first of the two is masked.

    Flags:
        hooked_width: outputs of the masked layer
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-18, fewer make a narrow one

    Raises ValueError for a width below 1.
    """
    if hooked_width < 1:
        raise ValueError(f"--hooked_width: expected an integer >= 1, got {hooked_width}. Give a width")
    model = resnet18(image_shape, classes, width=width)
    model.fc = nn.Sequential(
        OrderedDict(
            hooked=nn.Linear(8 * width, hooked_width, bias=False),
            relu=nn.ReLU(),
            classifier=nn.Linear(hooked_width, classes, bias=False),
        )
    )
    return model
