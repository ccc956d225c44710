"""The logits that a datamodel predicts for training without the forget set."""

from __future__ import annotations

import torch
from torch import nn

from lethe.unlearn.attribution import Attribution, Shifted
from lethe.unlearn.impl import ForgetData, copy_of

OF_A_PART, OF_A_CLASS = 1.0, 20.0  # multipliers; the second is what digits need, see benchmarks/datamodels.py


def resolve(model: nn.Module, data: ForgetData, *, multiplier: float | None) -> dict[str, float]:
    """Return the multiplier, by default 1, or 20 for whole classes."""
    usual = OF_A_CLASS if data.forget_classes else OF_A_PART
    return {"multiplier": usual if multiplier is None else multiplier}


def without_the_forget_set(
    model: nn.Module,
    data: ForgetData,
    multiplier: float,
    attribution_images: int,
    sketch_size: int,
    damping: float,
) -> Shifted:
    """Return a module, in eval mode, with the predicted logits; their change is times `multiplier`.

    Uses the gradients of all forget images and of `attribution_images` random retain images (at most all).
    Raises FloatingPointError if the prediction is not finite.
    """
    initial = copy_of(model)
    drawn = torch.randperm(len(data.retain), generator=data.generator("attribution", "retain"))
    images = data.forget.joined(data.retain.subset(drawn[:attribution_images]))
    attribution = Attribution(initial, images, data, sketch_size=sketch_size, damping=damping)
    shift = attribution.shift(torch.isin(images.indexes, data.forget.indexes))
    shift = {name: multiplier * value for name, value in shift.items()}
    if not all(value.isfinite().all() for value in shift.values()):
        raise FloatingPointError(
            "the datamodel's prediction is not finite. Choose a larger --damping or a smaller --multiplier"
        )
    return Shifted(initial, shift).eval()
