"""ResNet-9: a small, fast network for images of at least 11 x 11 pixels."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from lethe.models.impl import ImageShape, register

LEAST = 11  # pixels a side that leave the unpadded convolution an input
TEMPERATURE = 0.2


@register(
    "resnet9",
    mask_layer="-1",
    lr=0.5,
    batch_size=512,
    source="Leclerc et al. 2023, arXiv:2306.12517, FFCV: its CIFAR-10 example",
)
def resnet9(image_shape: ImageShape, classes: int) -> nn.Sequential:
    """A ResNet of nine layers that trains fast.

        conv 3-64, conv 5-128 of stride 2, residual 128, conv 3-256, max-pool, residual 256, unpadded conv
        3-128, max-pool, linear, x 0.2

    Every convolution is followed by batch norm and relu; a residual block is x + conv 3(conv 3(x)). No biases
    but batch norm's: 2,274,880 parameters for colour images of ten classes. The masked layer is classes x
    128. Raises ValueError for images below 11 x 11 pixels.
    """
    channels, height, width = image_shape
    if min(height, width) < LEAST:
        raise ValueError(
            f"--arch resnet9: expected images of at least {LEAST} x {LEAST} pixels, got {height} x {width}. "
            "Choose cnn"
        )
    return nn.Sequential(
        OrderedDict(
            conv1=_convolution(channels, 64),
            conv2=_convolution(64, 128, kernel=5, stride=2),
            residual1=Residual(nn.Sequential(_convolution(128, 128), _convolution(128, 128))),
            conv3=_convolution(128, 256),
            pool=nn.MaxPool2d(2),
            residual2=Residual(nn.Sequential(_convolution(256, 256), _convolution(256, 256))),
            conv4=_convolution(256, 128, padding=0),
            highest=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(128, classes, bias=False),
            scale=Scale(TEMPERATURE),
        )
    )


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


class Scale(nn.Module):
    """factor x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return str(self.factor)


def _convolution(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Return convolution, batch norm and relu; by default padded so that only the stride changes the size."""
    around = kernel // 2 if padding is None else padding
    convolution = nn.Conv2d(inputs, outputs, kernel_size=kernel, stride=stride, padding=around, bias=False)
    return nn.Sequential(
        OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=True))
    )
