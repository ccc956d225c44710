"""Fine-tuning by passes: the loop of the methods that train on one image set after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.training import descend
from lethe.training.loop import Loss
from lethe.training.optimizers import SGD
from lethe.unlearn.impl import ForgetData, Unlearned
from lethe.unlearn.teacher import seen
from lethe.unlearn.train_mode import train_mode, without_a_last_single


@dataclass(frozen=True)
class Pass:
    """One pass over `images`, on the data's device, which descends the mean of `loss`, or climbs it.

    name: of the set, for the history. batch_size: if not that of the other passes. keep_statistics: batch
    norm uses its running statistics and does not update them, for a pass over the forget set alone; the
    statistics of batches of one class would identify it, and the model would forget it only in such batches.
    as_they_are: no augmentation, for targets computed from the images themselves. numbered: the images'
    labels are positions, and the loss takes the logits and `Seen` instead of the labels. optimizer: if not
    that of the other passes; its state is its own.
    """

    name: str
    images: ImageSet
    loss: Loss = F.cross_entropy
    climb: bool = False
    batch_size: int | None = None
    keep_statistics: bool = False
    as_they_are: bool = False
    numbered: bool = False
    optimizer: torch.optim.Optimizer | None = None


Plan = Callable[[int], Sequence[Pass]]  # an epoch, counted from 0 -> its passes in order


def sgd(student: nn.Module, unlearn_lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return SGD over all parameters.

    g <- g + weight_decay theta; b <- momentum b + g; theta <- theta - unlearn_lr b
    """
    return SGD(student.parameters(), lr=unlearn_lr, momentum=momentum, weight_decay=weight_decay)


def fine_tune(
    student: nn.Module,
    data: ForgetData,
    name: str,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    unlearn_epochs: int,
    batch_size: int,
    *,
    streams: str | None = None,
) -> Unlearned:
    """Train `student` in place by each epoch's passes; the history has each pass's mean loss per epoch.

    A pass whose last batch would be a single image takes larger batches. name: of the method, for errors and,
    without `streams`, its random streams. Raises FloatingPointError after an epoch whose losses or weights
    are not finite.
    """
    order, noise, moves = (
        data.generator(streams or name, purpose) for purpose in ("order", "dropout", "augmentation")
    )
    history = []
    for epoch in data.progress(range(unlearn_epochs), name):
        means = {}
        for one in plan(epoch):
            size = without_a_last_single(one.images, one.batch_size or batch_size)
            batches = _batches(one, data, size, order, moves)
            fixed = one.keep_statistics or min(size, len(one.images)) == 1
            with train_mode(student, noise, data.device, single_images=fixed):
                sign = -1 if one.climb else 1
                loss = _times(sign, one.loss)
                own = one.optimizer or optimizer
                losses = descend(student, batches, optimizer=own, loss=loss, group=data.group)
            means[f"{one.name}_loss"] = sign * fmean(losses)
        check_finite(student, means, f"{name} diverged in epoch {epoch + 1}")
        history.append(means)
        data.on_epoch(student, epoch + 1)
    student.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def _batches(
    one: Pass, data: ForgetData, size: int, order: torch.Generator, moves: torch.Generator
) -> Iterator[tuple[Tensor, Any]]:
    """Return the batches of a pass, each with the loss's second argument."""
    if one.as_they_are:
        batches = one.images.batches(size, generator=order, device=data.device)
    else:
        batches = data.training_batches(one.images, size, order, moves)
    return seen(batches) if one.numbered else batches


def _times(sign: int, loss: Loss) -> Loss:
    return lambda logits, labels: sign * loss(logits, labels)


def check_finite(student: nn.Module, losses: dict[str, float], what: str, rate: str = "unlearn_lr") -> None:
    """Raise FloatingPointError for losses or weights that are not finite. rate: the learning rate's flag."""
    values = [value for value in student.state_dict().values() if isinstance(value, Tensor)]
    finite = torch.stack([value.isfinite().all() for value in values if value.is_floating_point()]).all()
    if not finite or not all(map(math.isfinite, losses.values())):
        shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        found = f"{shown}, or weights that are not finite" if shown else "weights that are not finite"
        raise FloatingPointError(f"{what}: {found}. Choose a smaller --{rate}")
