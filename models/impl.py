"""The registry of architectures: names -> functions that build a classifier for an image shape and a number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from registry import Registry

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class ArchitectureFacts:
    """What an architecture declares: the layer that MIMU masks unless told otherwise, and how it is best trained."""

    mask_layer: str = "-1"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    source: str = ""


ARCHITECTURES = Registry("architecture", ArchitectureFacts, takes=("image_shape", "classes"))
register = ARCHITECTURES.register


def build(arch: str, image_shape: ImageShape, classes: int, *, seed: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A new model in eval mode, its weights drawn by `seed`; the global random state is left as it was.

    Raises ValueError for an unknown architecture or option.
    """
    entry = ARCHITECTURES[arch]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = entry(image_shape, classes, **entry.settings(options or {}))
    model.mask_layer = entry.facts.mask_layer  # type: ignore[assignment]
    return model.eval()
