"""A mask, and the two functions that apply it to a model and lift it again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@dataclass(frozen=True, eq=False)
class Mask:
    """Which weights of one linear layer stay: `keep` (m, n) bool, False = switched off."""

    layer: str
    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.ndim != 2:
            raise ValueError(f"mask: expected a bool tensor (m, n), got {self.keep.dtype} {tuple(self.keep.shape)}. Use keep = mask.bool()")

    @property
    def kappa_count(self) -> int:
        """How many weights it switches off."""
        return int((~self.keep).sum())


class _Masks(nn.Module):
    """The parametrization W -> W where every applied mask keeps it, else 0. W itself is never written."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[Tensor] = []

    def forward(self, weight: Tensor) -> Tensor:
        for keep in self.applied:
            weight = torch.where(keep, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))
        return weight


def apply_mask(model: nn.Module, mask: Mask) -> None:
    """Switch off, in place, the weights that `mask` does not keep. Several masks may be applied at once.

    W' = W * keep_1 * ... * keep_k. The weights themselves stay behind the parametrization, so that lifting the masks, in
    any order, gives back the model bit for bit; `state_dict` of a masked model therefore still holds them (use
    `switched_off` for a model without them). Raises ValueError for a layer that the model does not have or that has
    another shape.
    """
    layer = _layer_of(model, mask)
    if not parametrize.is_parametrized(layer, "weight"):
        parametrize.register_parametrization(layer, "weight", _Masks(), unsafe=True)
    _masks_on(layer).applied.append(mask.keep.to(layer.weight.device, copy=True))


def lift_mask(model: nn.Module, mask: Mask) -> None:
    """Undo one `apply_mask` of the same mask, in place; after the last one the layer is as it was, bit for bit.

    Raises ValueError if this mask is not applied.
    """
    layer = _layer_of(model, mask)
    applied = _masks_on(layer).applied if parametrize.is_parametrized(layer, "weight") else []
    found = [i for i, keep in enumerate(applied) if torch.equal(keep.cpu(), mask.keep.cpu())]
    if not found:
        raise ValueError(
            f"expected a mask that was put on layer {mask.layer!r} by apply_mask, got one that was not. A model that a method returned has "
            "its zeros for good: lift a mask from the model that you applied it to"
        )
    del applied[found[0]]
    if not applied:
        # A deep copy shares the parametrized class with the original, and removal deletes from the class.
        shared = type(layer)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(shared.__name__, shared.__bases__, own)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.register_parameter("bias", layer._parameters.pop("bias"))  # removal puts weight last; state_dict has it first


def switched_off(model: nn.Module, mask: Mask) -> None:
    """Write the zeros into the weights of `model`, in place and for good: what a method returns, and what is saved."""
    layer = _layer_of(model, mask)
    masked = parametrize.is_parametrized(layer, "weight")
    weight: Tensor = layer.parametrizations.weight.original if masked else layer.weight  # type: ignore[union-attr, assignment]
    with torch.no_grad():
        weight[~mask.keep.to(weight.device)] = 0.0


def _layer_of(model: nn.Module, mask: Mask) -> nn.Linear:
    layer = dict(model.named_modules()).get(mask.layer)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"expected a model with a linear layer {mask.layer!r}, got one without. Use the model that the mask was made for")
    if tuple(layer.weight.shape) != tuple(mask.keep.shape):
        expected, got = tuple(layer.weight.shape), tuple(mask.keep.shape)
        raise ValueError(
            f"expected a mask of shape {expected} for layer {mask.layer!r}, got {got}. Use the model that the mask was made for"
        )
    return layer


def _masks_on(layer: nn.Linear) -> _Masks:
    masks: _Masks = layer.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
    return masks
