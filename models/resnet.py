"""ResNet-18, -34 and -50 with a stem that fits the images; ResNet-18 with a bias-free tail."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from lethe.models.impl import ImageShape, Width, register
from lethe.system.torchvision_import import torchvision_module

WIDTH = 64
SMALL = 64  # pixels a side, at most, for the stem that keeps the size of an image
SOURCE = "He et al. 2016, arXiv:1512.03385"


@register("resnet18", mask_layer="-1", source=SOURCE)
def resnet18(image_shape: ImageShape, classes: int, *, width: Width = WIDTH) -> nn.Module:
    """torchvision's ResNet-18 with the CIFAR stem: a 3 x 3 convolution of stride 1, no max-pooling.

    Flags:
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-18, fewer make a
            narrow one

    Images of more than 64 pixels a side get the ImageNet stem: a 7 x 7 convolution of stride 2, then
    max-pooling.
    """
    return _resnet("BasicBlock", [2, 2, 2, 2], image_shape, classes, width)


@register("resnet34", mask_layer="-1", source=SOURCE)
def resnet34(image_shape: ImageShape, classes: int, *, width: Width = WIDTH) -> nn.Module:
    """torchvision's ResNet-34, with the stem of resnet18.

    Flags:
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-34, fewer make a
            narrow one
    """
    return _resnet("BasicBlock", [3, 4, 6, 3], image_shape, classes, width)


@register("resnet50", mask_layer="-1", source=SOURCE)
def resnet50(image_shape: ImageShape, classes: int, *, width: Width = WIDTH) -> nn.Module:
    """torchvision's ResNet-50, with the stem of resnet18; a stage has four times its width in channels.

    Flags:
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-50, fewer make a
            narrow one
    """
    return _resnet("Bottleneck", [3, 4, 6, 3], image_shape, classes, width)


@register("HookedResnet", mask_layer="-2", source=SOURCE)
def hooked_resnet(
    image_shape: ImageShape, classes: int, *, hooked_width: Width = 128, width: Width = WIDTH
) -> nn.Module:
    """resnet18 with the classifier 8 width -> hooked_width -> relu -> classes without biases.

    Flags:
        hooked_width: outputs of the masked layer
        width: channels of the first stage, doubled by each of the next three; 64 is ResNet-18, fewer make a
            narrow one

    The masked layer is the first of the classifier.
    """
    model = resnet18(image_shape, classes, width=width)
    model.fc = nn.Sequential(
        OrderedDict(
            hooked=nn.Linear(8 * width, hooked_width, bias=False),
            relu=nn.ReLU(),
            classifier=nn.Linear(hooked_width, classes, bias=False),
        )
    )
    return model


def _resnet(block: str, depths: list[int], image_shape: ImageShape, classes: int, width: int) -> nn.Module:
    """Build torchvision's ResNet with `depths` blocks per stage and `width` channels in the first stage."""
    resnet = torchvision_module("models").resnet

    class ResNet(resnet.ResNet):  # type: ignore[name-defined]  # known only once torchvision is imported
        def _make_layer(
            self, block: type[nn.Module], planes: int, *arguments: Any, **options: Any
        ) -> nn.Sequential:
            if planes == WIDTH:
                self.inplanes = width
            stage: nn.Sequential = super()._make_layer(block, planes * width // WIDTH, *arguments, **options)
            return stage

    model: nn.Module = ResNet(getattr(resnet, block), depths)
    small = min(image_shape[1:]) <= SMALL
    kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
    model.conv1 = nn.Conv2d(
        image_shape[0], width, kernel_size=kernel, stride=stride, padding=padding, bias=False
    )
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.bn1 = nn.BatchNorm2d(width)
    if small:
        model.maxpool = nn.Identity()
    model.fc = nn.Linear(8 * width * getattr(resnet, block).expansion, classes)
    return model
