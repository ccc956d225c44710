"""Matching: fine-tune towards given logits of the forget images and of some retain images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.training.optimizers import Adam
from lethe.unlearn import passes
from lethe.unlearn.forget_and_retain import numbered
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of


def match(
    model: nn.Module,
    data: ForgetData,
    name: str,
    logits_for: Callable[[ImageSet], Tensor],
    *,
    unlearn_epochs: int,
    unlearn_lr: float,
    batch_size: int,
    retain_multiplier: float,
    forget_multiplier: int,
    decay: float,
    wd_lambda: float,
) -> Unlearned:
    """Descend the mean squared difference from `logits_for(images)` (N, classes), by Adam on a copy.

    The mean is over the images of `images_to_match` and the classes.
    """
    student = copy_of(model)
    images = images_to_match(data, name, retain_multiplier, forget_multiplier)
    targets = logits_for(images)
    optimizer = Adam(student.parameters(), lr=unlearn_lr)
    initial = [parameter.detach().clone() for parameter in student.parameters()]

    def difference(logits: Tensor, positions: Tensor) -> Tensor:
        loss = F.mse_loss(logits, targets[positions])
        if not wd_lambda:
            return loss
        pairs = zip(student.parameters(), initial, strict=True)
        return loss + wd_lambda * sum(((parameter - start) ** 2).sum() for parameter, start in pairs)

    def plan(epoch: int) -> list[passes.Pass]:
        for group in optimizer.param_groups:
            group["lr"] = unlearn_lr * decay**epoch
        return [passes.Pass("matching", images, difference, as_they_are=True)]

    return passes.fine_tune(student, data, name, plan, optimizer, unlearn_epochs, batch_size)


def images_to_match(
    data: ForgetData, name: str, retain_multiplier: float, forget_multiplier: int
) -> ImageSet:
    """Return the forget images forget_multiplier times and retain_multiplier times as many retain images.

    The retain images (at most all) are drawn at random, once. The images are on the data's device; the label
    of each is its position.
    """
    count = min(len(data.retain), round(retain_multiplier * len(data.forget)))
    drawn = torch.randperm(len(data.retain), generator=data.generator(name, "retain"))[:count]
    images = data.retain.subset(drawn)
    for _ in range(forget_multiplier):
        images = images.joined(data.forget)
    return numbered(images.to(data.device))
