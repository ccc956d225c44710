"""Uniform: no class is likelier than another for what is to be forgotten."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe import ForgetData, copy_of, descend, register_method
from lethe.settings import Epochs, LearningRate


@register_method("Uniform")
def uniform(
    model: nn.Module, data: ForgetData, *, unlearn_epochs: Epochs = 5, unlearn_lr: LearningRate = 0.01
) -> nn.Module:
    """Descend the cross-entropy between the forget set's probabilities and the uniform distribution.

        theta <- theta - unlearn_lr * grad CE(f_theta(x), 1 / classes)    x in forget

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of SGD with momentum .9
    """
    student = copy_of(model)
    optimizer = torch.optim.SGD(student.parameters(), lr=unlearn_lr, momentum=0.9)
    order = data.generator("Uniform")
    for epoch in data.progress(range(unlearn_epochs), "Uniform"):
        batches = data.forget.batches(256, generator=order, device=data.device)
        descend(
            student,
            batches,
            optimizer=optimizer,
            loss=lambda logits, _: F.cross_entropy(logits, even(logits)),
        )
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return student


def even(logits: Tensor) -> Tensor:
    """1 / classes, in the shape of the logits."""
    return torch.full_like(logits, 1 / logits.shape[1])
