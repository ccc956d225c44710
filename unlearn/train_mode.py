"""Train mode within a with block, with dropout that draws from a method's own generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lethe.data import ImageSet
from lethe.system.device import restored_random_state


@contextmanager
def train_mode(
    model: nn.Module, generator: torch.Generator, device: torch.device, *, single_images: bool = False
) -> Iterator[None]:
    """Set the model to train mode, afterwards to eval mode, and restore the global random state.

    Dropout takes no generator: the device's global one is seeded by a draw from `generator`, and restored.
    `single_images` leaves batch norm in eval mode: it can't normalise by the statistics of one image.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with restored_random_state(device, seed):
        model.train()
        for module in model.modules():
            if single_images and isinstance(module, _BatchNorm):
                module.eval()
        try:
            yield
        finally:
            model.eval()


def without_a_last_single(images: ImageSet, size: int) -> int:
    """Return `size`, or the next larger one that leaves no single image for the last batch."""
    while len(images) > 1 and len(images) % size == 1:
        size += 1
    return size
