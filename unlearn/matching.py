"""Matching: fine-tune towards logits that somebody knows for forget images and for some retain images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn import passes
from unlearn.forget_and_retain import numbered
from unlearn.impl import ForgetData, Unlearned
from vision_data import ImageSet


def images_to_match(
    data: ForgetData, name: str, retain_multiplier: float, forget_multiplier: int
) -> ImageSet:
    """Forget images forget_multiplier times, and retain_multiplier times as many random retain images (at
    most all), drawn once.

    On the data's device; the label of each is its position.
    """
    count = min(len(data.retain), round(retain_multiplier * len(data.forget)))
    drawn = data.retain.subset(
        torch.randperm(len(data.retain), generator=data.generator(name, "retain"))[:count]
    )
    images = drawn
    for _ in range(forget_multiplier):
        images = images.joined(data.forget)
    return numbered(images.to(data.device))


def match(
    student: nn.Module,
    data: ForgetData,
    name: str,
    images: ImageSet,
    targets: Tensor,
    unlearn_epochs: int,
    unlearn_lr: float,
    batch_size: int,
    decay: float,
    wd_lambda: float,
) -> Unlearned:
    """Descend the mean squared difference to `targets` (N, classes) on the images, the student's own mean
    over N and classes, by Adam.
    """
    optimizer = torch.optim.Adam(student.parameters(), lr=unlearn_lr)
    start = [parameter.detach().clone() for parameter in student.parameters()]

    def difference(logits: Tensor, positions: Tensor) -> Tensor:
        loss = F.mse_loss(logits, targets[positions])
        if not wd_lambda:
            return loss
        moved = sum(
            ((parameter - before) ** 2).sum()
            for parameter, before in zip(student.parameters(), start, strict=True)
        )
        return loss + wd_lambda * moved

    def plan(epoch: int) -> list[passes.Pass]:
        for group in optimizer.param_groups:
            group["lr"] = unlearn_lr * decay**epoch
        return [passes.Pass("matching", images, difference, as_they_are=True)]

    return passes.fine_tune(student, data, name, plan, optimizer, unlearn_epochs, batch_size)


def with_facts(unlearned: Unlearned, **facts: int | float | str) -> Unlearned:
    return replace(unlearned, facts={**unlearned.facts, **facts})
