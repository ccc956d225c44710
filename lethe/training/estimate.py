"""Estimate the duration of a training before it begins."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import nn

from lethe.data import ImageSet
from lethe.system.device import restored_random_state, synchronize
from lethe.training.recipe import Recipe

FEW = 16  # images
TRIALS = 3


def estimated_seconds(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> float:
    """Estimate the seconds of `recipe` on these images, from the fastest of three passes over a few.

    Updates the batch norm statistics of `model`, but no weights. Restores the random state.
    """
    x, y = next(iter(images.batches(FEW, device=device)))
    fastest = float("inf")
    with restored_random_state(device):
        model.to(device).train()
        for _ in range(TRIALS):
            started = time.perf_counter()
            F.cross_entropy(model(x), y).backward()
            synchronize(device)
            fastest = min(fastest, time.perf_counter() - started)
    return fastest / len(x) * len(images) * recipe.epochs
