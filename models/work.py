"""How much a model computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.models.masked_layer import evaluating

PASSES = 3  # of a training step: forward, and backward for the inputs and for the weights


def multiplications(model: nn.Module, image: Tensor) -> int:
    """Return the multiplications and additions of a forward pass by the weights of matrices and filters.

        sum over layers of 2 |weight| positions

    image (1, channels, height, width). positions: where a filter or a matrix is applied. What has no weights,
    such as the products of attention, is not counted.
    """
    counts: list[int] = []

    def counted(layer: nn.Module, _: Any, out: Any) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(out, Tensor):
            counts.append(2 * weight.numel() * out.numel() // len(weight))

    handles = [layer.register_forward_hook(counted) for layer in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


def step_work(model: nn.Module, image: Tensor, batch_size: int) -> int:
    """Return the multiplications and additions of a training step on so many images."""
    return PASSES * batch_size * multiplications(model, image)
