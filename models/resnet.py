"""ResNet-18 with the stem for small images, and the same with a bias-free tail for masking."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.impl import ImageShape, register
from torchvision_import import torchvision_module

FEATURES = 512
SOURCE = "He et al. 2016, arXiv:1512.03385"


@register("resnet18", mask_layer="-1", source=SOURCE)
def resnet18(image_shape: ImageShape, classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the CIFAR stem: a 3 x 3 convolution of stride 1 first, and no max-pooling."""
    model: nn.Module = torchvision_module("models").resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


@register("HookedResnet", mask_layer="-2", source=SOURCE)
def hooked_resnet(image_shape: ImageShape, classes: int, *, hooked_width: int = 128) -> nn.Module:
    """resnet18 whose classifier is 512 -> hooked_width -> relu -> classes, without biases; the first of the two is masked.

    Flags:
        hooked_width: outputs of the masked layer

    Raises ValueError for a width below 1.
    """
    if hooked_width < 1:
        raise ValueError(f"--hooked_width: expected an integer >= 1, got {hooked_width}. Give a width")
    model = resnet18(image_shape, classes)
    model.fc = nn.Sequential(
        OrderedDict(
            hooked=nn.Linear(FEATURES, hooked_width, bias=False),
            relu=nn.ReLU(),
            classifier=nn.Linear(hooked_width, classes, bias=False),
        )
    )
    return model
