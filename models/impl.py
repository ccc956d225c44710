"""The registry of architectures: a name -> a function that builds a classifier for an image shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from lethe.models.contract import check_copies, check_logits
from lethe.registry import Entry, Registry
from lethe.signature import Range, Search
from lethe.system.device import CPU, restored_random_state

ImageShape = tuple[int, int, int]
Width = Annotated[int, Range(1), Search("log", 8, 512)]
Count = Annotated[int, Range(1), Search("log", 1, 16)]


@dataclass(frozen=True)
class ArchitectureFacts:
    """What an architecture declares: the default layer of MIMU's mask, and defaults of its training."""

    mask_layer: str = "-1"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    source: str = ""


ARCHITECTURES = Registry(
    "architecture", ArchitectureFacts, takes=("image_shape", "classes"), plugins="lethe.architectures"
)
"""The architectures by name, torchvision:NAME, timm:NAME, or path/to/file.py:function."""
register = ARCHITECTURES.register
"""Decorator: register an architecture, a function of the image's shape and the number of classes.

    @lethe.register_architecture("small", lr=0.05)
    def small(image_shape: tuple[int, int, int], classes: int, *, width: int = 32) -> nn.Module: ...

image_shape: (channels, height, width). The module maps normalised images to logits (N, classes). Keyword-only
parameters are flags. Further keyword arguments are the fields of `ArchitectureFacts`, such as the recipe's
defaults. Raises ValueError for a name that is registered already.
"""


def build(
    arch: str, image_shape: ImageShape, classes: int, *, seed: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a model in eval mode with weights drawn from `seed`; keep the global random state.

    Raises ValueError for an unknown architecture or option, and for one from outside Lethe that doesn't
    return logits.
    """
    entry = ARCHITECTURES[arch]
    settings = entry.settings(options or {})
    with restored_random_state(CPU, seed):
        model: nn.Module = entry(image_shape, classes, **settings)
        if not is_builtin(entry):
            who = f"--arch {arch}: expected an architecture"
            if not isinstance(model, nn.Module):
                raise ValueError(
                    f"{who} that returns an nn.Module, got {type(model).__name__}. Return the model that it "
                    "builds"
                )
            check_logits(
                model,
                torch.zeros(2, *image_shape),
                classes,
                who=who,
                remedy="Correct it, or choose another --arch",
            )
            check_copies(model, who=who)
    model.mask_layer = entry.facts.mask_layer  # type: ignore[assignment]
    return model.eval()


def is_builtin(entry: Entry[ArchitectureFacts]) -> bool:
    """Return whether an architecture is of this package, where tests check the contract of a model."""
    return entry.name in ARCHITECTURES and entry.function.__module__.startswith("lethe.models.")
