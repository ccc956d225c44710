"""The layers at both ends of a model, and their weights drawn anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lethe.models import evaluating
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.fresh_weights import redrawn
from lethe.unlearn.impl import ForgetData


def first_layer_of(model: nn.Module, data: ForgetData) -> str:
    """Return the name of the convolution that runs first; without one, of the first linear layer.

    Raises ValueError for a model with neither.
    """
    kinds = (nn.Conv2d, nn.Linear)
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: order.append(name)))
    try:
        with evaluating(model), torch.no_grad():
            model(data.some_images)
    finally:
        for handle in handles:
            handle.remove()
    for kind in kinds:
        for name in order:
            if isinstance(model.get_submodule(name), kind):
                return name
    raise ValueError(
        "expected a model with a convolution or a linear layer, got one without. Choose another --arch"
    )


def check_first(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model without a first layer."""
    first_layer_of(model, data)


def check_ends(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model without a first layer, or whose logits come from no linear layer."""
    first_layer_of(model, data)
    classifier_of(model, data)


@torch.no_grad()
def redraw(model: nn.Module, layers: Iterable[str], data: ForgetData, *purpose: str) -> None:
    """Draw the weights of these layers anew as PyTorch does, seeded by the data's seed, in place."""
    fresh = redrawn(model, data.generator(*purpose))
    for name in layers:
        new = fresh.get_submodule(name).parameters()
        for parameter, drawn in zip(model.get_submodule(name).parameters(), new, strict=True):
            parameter.copy_(drawn)


@torch.no_grad()
def add_noise(parameters: Iterable[nn.Parameter], std: float, generator: torch.Generator) -> None:
    """Add e ~ N(0, std^2) to each entry."""
    for parameter in parameters:
        parameter.add_(std * _normal(parameter, generator))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
