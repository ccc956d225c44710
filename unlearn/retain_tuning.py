"""Fine-tuning on the retain set alone, after a method has damaged or reset weights."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from lethe.training import descend
from lethe.unlearn.impl import ForgetData, Unlearned
from lethe.unlearn.passes import check_finite
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode, without_a_last_single


def tune_on_retain(
    student: nn.Module,
    data: ForgetData,
    name: str,
    *,
    optimizer: torch.optim.Optimizer,
    unlearn_epochs: int,
    batch_size: int,
    steps: int | None = None,
    trained: nn.Module | None = None,
) -> Unlearned:
    """Descend the retain set's mean cross-entropy; return the student, changed in place, with its history.

    An epoch is `steps` batches, one pass by default, of a stream that continues from epoch to epoch. The
    part `trained` (default: the student) is in train mode, the rest in eval mode, so that its running
    statistics stay. Raises FloatingPointError after an epoch whose loss or weights are not finite.
    """
    size = without_a_last_single(data.retain, batch_size)
    steps = steps or math.ceil(len(data.retain) / size)
    batches = endless(data, data.retain, size, name, "retain")
    noise, history = data.generator(name, "dropout"), []
    for epoch in data.progress(range(unlearn_epochs), name):
        with train_mode(
            trained or student, noise, data.device, single_images=min(size, len(data.retain)) == 1
        ):
            next_steps = itertools.islice(batches, steps)
            losses = descend(student, next_steps, optimizer=optimizer, group=data.group)
        history.append({"loss": sum(losses) / len(losses)})
        check_finite(student, history[-1], f"{name} diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)
