"""One set of all forget images and a share of the retain images, and the logits of a set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import evaluating
from lethe.training.process_group import ALONE, ProcessGroup
from lethe.training.shared_batch import outputs_of
from lethe.unlearn.impl import ForgetData


def with_share_of_retain(data: ForgetData, retain_share: float, *purpose: str) -> tuple[ImageSet, Tensor]:
    """Return all forget images with floor(retain_share n_r) retain images, and the mask of the former.

    At least one retain image is drawn, once. The mask is (N,) bool. The images are `numbered`.
    """
    count = max(1, int(retain_share * len(data.retain)))
    drawn = torch.randperm(len(data.retain), generator=data.generator(*purpose, "retain share"))[:count]
    images = data.forget.joined(data.retain.subset(drawn))
    return numbered(images.to(data.device)), torch.isin(images.indexes, data.forget.indexes)


def numbered(images: ImageSet) -> ImageSet:
    """Return the images with their positions as labels, to look up their rows of a table (N, ...)."""
    return replace(images, labels=torch.arange(len(images), device=images.images.device))


@torch.no_grad()
def logits_of(
    model: nn.Module, images: ImageSet, device: torch.device, group: ProcessGroup = ALONE
) -> Tensor:
    """Return the logits (N, classes) of the model in eval mode, in the order of the images.

    group: processes that compute them together, and all get the same.
    """
    with evaluating(model):
        return torch.cat([outputs_of(model, x, group) for x, _ in images.batches(512, device=device)])
