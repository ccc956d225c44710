"""random_mask: mask random weights of a layer, the baseline of masks."""

from __future__ import annotations

import torch
from torch import nn

from lethe.models import Mask, switched_off
from lethe.unlearn.amount import Amount, count_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, masked_layer, register
from lethe.unlearn.settings import Kappa, MaskLayer


def resolve_kappa(
    model: nn.Module, data: ForgetData, *, kappa: Amount, mask_layer: str | None
) -> dict[str, int]:
    """Return kappa as a number of weights of the masked layer."""
    return {"kappa_count": count_of(kappa, masked_layer(model, data, mask_layer).size, "kappa")}


@register("random_mask", resolve=(resolve_kappa,), needs=(), augments=())
def random_mask(
    model: nn.Module, data: ForgetData, *, kappa: Kappa = 0.1, mask_layer: MaskLayer | None = None
) -> Unlearned:
    """Switch off kappa weights of the masked layer, drawn uniformly without repetition by the seed.

        W <- M * W    M (m, n) 0 at kappa places and 1 elsewhere

    Raises ValueError for an amount that the layer does not have, or a layer that can't be masked.
    """
    student = copy_of(model)
    layer = masked_layer(student, data, mask_layer)
    count = count_of(kappa, layer.size, "kappa")
    keep = torch.ones(layer.size, dtype=torch.bool)
    keep[torch.randperm(layer.size, generator=data.generator("random_mask"))[:count]] = False
    mask = Mask(layer.name, keep.view(layer.shape))
    switched_off(student, mask)
    return Unlearned(student, mask)
