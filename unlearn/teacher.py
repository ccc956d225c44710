"""The logits of a frozen model for the images of a student's batches, augmented as these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import evaluating
from lethe.training.shared_batch import outputs_of
from lethe.unlearn.forget_and_retain import logits_of
from lethe.unlearn.impl import Batch, ForgetData


class Seen(NamedTuple):
    """A batch of numbered images as the student gets them, augmented or not, with their positions (N,)."""

    images: Tensor
    positions: Tensor


def seen(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Seen]]:
    """Return batches of numbered images, each as its images and `Seen`."""
    return ((images, Seen(images, positions)) for images, positions in batches)


class Teacher:
    """A model in eval mode that predicts batches of one set of images.

    Augmented images are predicted at each step, as in published code, where teacher and student share the
    batch. Without augmentation every image is predicted once.
    """

    def __init__(self, model: nn.Module, images: ImageSet, data: ForgetData) -> None:
        self.model, self.group = model, data.group
        self.table = None if data.augment else logits_of(model, images, data.device, data.group)

    @torch.no_grad()
    def __call__(self, batch: Seen) -> Tensor:
        """Return the logits (N, classes) of a batch."""
        if self.table is not None:
            return self.table[batch.positions]
        with evaluating(self.model):
            return outputs_of(self.model, batch.images, self.group)
