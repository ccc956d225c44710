"""Images that need no download: ten classes of noisy patterns, as many and as large as CIFAR10's."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.data import RawDataset

TRAIN, TEST, CLASSES, SHAPE = 60_000, 10_000, 10, (3, 32, 32)
NOISE = 90.0  # grey levels: the classes overlap, so that a model is sure of some images and not of others


def drawn(folder: object) -> RawDataset:
    """60,000 training and 10,000 test images, the same for everybody. `folder` is not read."""
    generator = torch.Generator().manual_seed(0)
    patterns = 128 + 20 * torch.randn(CLASSES, *SHAPE, generator=generator)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        images = torch.empty(count, *SHAPE, dtype=torch.uint8)
        for rows in torch.arange(count).split(10_000):
            noise = NOISE * torch.randn(len(rows), *SHAPE, generator=generator)
            images[rows] = (patterns[labels[rows]] + noise).clamp(0, 255).to(torch.uint8)
        return images, labels

    return RawDataset(part(TRAIN), part(TEST), tuple(f"pattern {label}" for label in range(CLASSES)))
