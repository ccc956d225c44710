"""Masks of a linear layer: apply one to a model and lift it again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.flag_error import FlagError


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask of one linear layer's weights: `keep` (m, n) bool, False = switched off."""

    layer: str
    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.ndim != 2:
            raise ValueError(
                f"mask: expected a bool tensor (m, n), got {self.keep.dtype} {tuple(self.keep.shape)}. Use "
                "keep = mask.bool()"
            )

    @property
    def kappa_count(self) -> int:
        """The number of weights that are switched off."""
        return int((~self.keep).sum())


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's wrapper, where hooks work; other models as they are."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


class _Masks(nn.Module):
    """The parametrization W -> W if every applied mask keeps it, else 0. W itself is never written."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[Tensor] = []

    def forward(self, weight: Tensor) -> Tensor:
        for keep in self.applied:
            weight = torch.where(keep, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))
        return weight


def apply_mask(model: nn.Module, mask: Mask) -> None:
    """Switch off, in place, the weights that `mask` does not keep. Several masks may be applied at once.

    W' = W * keep_1 * ... * keep_k. The parametrization keeps the weights themselves: lifting the masks, in
    any order, restores the model bit for bit, and `state_dict` of a masked model still holds them
    (`switched_off` removes them). Raises ValueError for a missing layer, another shape, and a layer whose
    weight is computed (`check_maskable`).
    """
    layer = _layer_of(model, mask)
    if not parametrize.is_parametrized(layer, "weight"):
        parametrize.register_parametrization(layer, "weight", _Masks(), unsafe=True)
    _masks_on(layer).applied.append(mask.keep.to(layer.weight.device, copy=True))


def lift_mask(model: nn.Module, mask: Mask) -> None:
    """Undo one `apply_mask` of the same mask, in place; the last one restores the layer bit for bit.

    Raises ValueError if this mask is not applied.
    """
    layer = _layer_of(model, mask)
    applied = _masks_on(layer).applied if parametrize.is_parametrized(layer, "weight") else []
    found = [i for i, keep in enumerate(applied) if torch.equal(keep.cpu(), mask.keep.cpu())]
    if not found:
        raise ValueError(
            f"expected a mask that was put on layer {mask.layer!r} by apply_mask, got one that was not. A "
            "model that a method returned has "
            "its zeros for good: lift a mask from the model that you applied it to"
        )
    del applied[found[0]]
    if not applied:
        # A deep copy shares the parametrized class with the original, and removal deletes from the class.
        shared = type(layer)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(shared.__name__, shared.__bases__, own)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.register_parameter(
            "bias", layer._parameters.pop("bias")
        )  # removal puts weight last; state_dict has it first


def switched_off(model: nn.Module, mask: Mask) -> None:
    """Set the weights that `mask` does not keep to 0, in place and permanently."""
    weight = original_weight(_layer_of(model, mask))
    with torch.no_grad():
        weight[~mask.keep.to(weight.device)] = 0.0


def check_maskable(model: nn.Module, name: str) -> None:
    """Raise ValueError if the weight of layer `name` is computed or shared.

    A computed weight (weight_norm, spectral_norm, pruning) is overwritten at the next pass, and a shared one
    is masked in all layers.
    """
    layer = model.get_submodule(name)
    _check_own_weight(layer, name)
    weight = original_weight(layer)
    others = [
        other
        for other, module in model.named_modules()
        for own in module.parameters(recurse=False)
        if own is weight
    ]
    if len(others) > 1:
        raise FlagError(
            "mask_layer",
            f"expected a layer with weights of its own, got {name!r}, one of {', '.join(others)}, which "
            "share theirs. Choose another layer",
        )


def _check_own_weight(layer: nn.Module, name: str) -> None:
    masked = False
    if parametrize.is_parametrized(layer, "weight"):
        own = layer.parametrizations.weight  # type: ignore[union-attr]
        masked = all(isinstance(p, _Masks) for p in own)  # type: ignore[union-attr]
    if "weight" not in layer._parameters and not masked:
        raise FlagError(
            "mask_layer",
            f"expected a layer that holds its weight, got {name!r}, which computes it (weight_norm, "
            "spectral_norm or pruning). Remove that from the model first, or choose another layer",
        )


def original_weight(layer: nn.Module) -> Tensor:
    """Return the parameter itself, without the applied masks."""
    masked = parametrize.is_parametrized(layer, "weight")
    weight: Tensor = layer.parametrizations.weight.original if masked else layer.weight  # type: ignore[union-attr, assignment]
    return weight


def _layer_of(model: nn.Module, mask: Mask) -> nn.Linear:
    layer = dict(uncompiled(model).named_modules()).get(mask.layer)
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"expected a model with a linear layer {mask.layer!r}, got one without. Use the model that the "
            "mask was made for"
        )
    _check_own_weight(layer, mask.layer)
    if tuple(layer.weight.shape) != tuple(mask.keep.shape):
        expected, got = tuple(layer.weight.shape), tuple(mask.keep.shape)
        raise ValueError(
            f"expected a mask of shape {expected} for layer {mask.layer!r}, got {got}. Use the model that "
            "the mask was made for"
        )
    return layer


def _masks_on(layer: nn.Linear) -> _Masks:
    masks: _Masks = layer.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
    return masks
