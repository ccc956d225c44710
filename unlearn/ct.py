"""CT: transpose the convolution kernels, then fine-tune."""

from __future__ import annotations

import math

import torch
from torch import nn

from lethe.training.optimizers import Adam
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.retain_tuning import tune_on_retain
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate

SOURCE = (
    "Dine, Furon, Faure 2025, arXiv:2511.02435; Cadet et al. 2024, arXiv:2410.01276 (CT, seventh of the "
    "NeurIPS 2023 challenge)"
)


def square_kernels(model: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """Return the convolutions that transposing changes: those with a square kernel above 1 x 1."""
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return [m for m in convolutions if m.kernel_size[0] == m.kernel_size[1] > 1]


def check_kernels(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model without a square kernel larger than 1 x 1."""
    if not square_kernels(model):
        raise ValueError(
            "CT: expected a model with a square convolution kernel larger than 1 x 1, got one without, which "
            "transposing would not change. Choose another --arch, such as resnet18, or another method"
        )


@register(
    "CT",
    source=SOURCE,
    resolve=(check_kernels,),
    needs=("retain", "labels"),
    augments=("retain",),
    parallel=True,
)
def ct(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 30,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 256,
) -> Unlearned:
    """Transpose the kernels of all convolutions, height for width, then fine-tune on the retain set.

        W[o, i, h, w] <- W[o, i, w, h]        then theta <- Adam(theta, g_r)

    An epoch is as many steps as a pass over the forget set has; the retain set is cycled and reshuffled.
    Kernels that are not square stay as they are.

    Flags:
        unlearn_epochs: passes over the forget set, a retain batch for each of its batches
        unlearn_lr: learning rate of Adam

    Raises ValueError for a model without a square kernel larger than 1 x 1, FloatingPointError if it
    diverges.

    Departures: the challenge's fine-tuning was 3 epochs of SGD over the retain set; this is Dine et al.'s,
    but for their learning rate of 1e-4: with a forget set of one batch its 30 steps do not repair what
    transposing destroyed. They count transposing as the first of 30 epochs: 29 tune.
    """
    student = copy_of(model)
    transpose(student)
    optimizer = Adam(student.parameters(), lr=unlearn_lr)
    return tune_on_retain(
        student,
        data,
        "CT",
        optimizer=optimizer,
        unlearn_epochs=unlearn_epochs,
        batch_size=batch_size,
        steps=math.ceil(len(data.forget) / batch_size),
    )


@torch.no_grad()
def transpose(model: nn.Module) -> None:
    """Swap height and width of every square kernel, in place."""
    for layer in square_kernels(model):
        layer.weight.copy_(layer.weight.mT.clone())
