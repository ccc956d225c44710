"""What a frozen model says of the images that a student is given, as the student is given them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models import evaluating
from unlearn.forget_and_retain import logits_of
from unlearn.impl import Batch, ForgetData
from vision_data import ImageSet


class Seen(NamedTuple):
    """A batch of numbered images: as the student is given them, augmented or not, and their positions (N,) in
    their set.
    """

    images: Tensor
    positions: Tensor


def seen(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Seen]]:
    """Batches of numbered images, each with all that a loss may ask of it."""
    return ((images, Seen(images, positions)) for images, positions in batches)


class Teacher:
    """A model in eval mode that is asked about batches of one set of images.

    It says what it says of each image as the student sees it: of augmented images it is asked at each step,
    as in published code, where teacher and student share the batch. Images as they are come again and again,
    so they are asked about once.
    """

    def __init__(self, model: nn.Module, images: ImageSet, data: ForgetData) -> None:
        self.model = model
        self.table = None if data.augment else logits_of(model, images, data.device)

    @torch.no_grad()
    def __call__(self, batch: Seen) -> Tensor:
        """Logits (N, classes)."""
        if self.table is not None:
            return self.table[batch.positions]
        with evaluating(self.model):
            logits: Tensor = self.model(batch.images)
        return logits
