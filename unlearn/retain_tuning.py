"""Fine-tuning on the retain set alone: what follows where a method has first damaged or reset the weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from training import descend
from unlearn.impl import ForgetData
from unlearn.streams import endless
from unlearn.train_mode import train_mode, without_a_last_single


def tune_on_retain(
    student: nn.Module,
    data: ForgetData,
    name: str,
    *,
    optimizer: torch.optim.Optimizer,
    unlearn_epochs: int,
    batch_size: int,
    steps: int | None = None,
    trained: Sequence[nn.Module] | None = None,
) -> list[dict[str, float]]:
    """Descend the retain set's mean cross-entropy in place; returns each epoch's mean loss (nats).

    An epoch is `steps` batches of a stream that goes on from epoch to epoch, one pass by default. The modules
    `trained` (all, by default) are in train mode meanwhile, the others in eval mode, so that their running
    statistics stay. The student ends in eval mode without gradients. Raises FloatingPointError after an epoch
    whose loss, or a weight, is not finite.
    """
    size = without_a_last_single(data.retain, batch_size)
    steps = steps or math.ceil(len(data.retain) / size)
    batches = endless(data, data.retain, size, name, "retain")
    noise, history = data.generator(name, "dropout"), []
    modules = nn.ModuleList([student] if trained is None else trained)
    for epoch in data.progress(range(unlearn_epochs), name):
        with train_mode(modules, noise, data.device, single_images=min(size, len(data.retain)) == 1):
            losses = descend(student, itertools.islice(batches, steps), optimizer=optimizer)
        history.append({"loss": sum(losses) / len(losses)})
        if not (math.isfinite(history[-1]["loss"]) and all(p.isfinite().all() for p in student.parameters())):
            raise FloatingPointError(
                f"{name} diverged in epoch {epoch + 1}: loss {history[-1]['loss']:g}. Choose a smaller "
                "--unlearn_lr"
            )
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return history
