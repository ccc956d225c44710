"""The diagonal of the Fisher information."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.training import Progress, silent
from lethe.unlearn.fisher_information import Tensors
from lethe.unlearn.importance import over_images, true_labels
from lethe.unlearn.layer_gradients import Answers


def fisher_diagonal(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    *,
    labels: Literal["true", "model"],
    progress: Progress = silent,
    label: str = "Fisher information",
) -> Tensors:
    """Return the diagonal of the Fisher information, a mean over single images, in eval mode.

    true     F = mean_x (d log p(y_x | x) / d theta)^2                          y_x the image's label
    model    F = mean_x sum_y p(y | x) (d log p(y | x) / d theta)^2             exact: no label is drawn
    """
    answers = true_labels if labels == "true" else _every_label
    return over_images(model, images, device, answers=answers, progress=progress, label=label)


def _every_label(_: Tensor, logits: Tensor) -> Answers:
    classes = logits.shape[1]
    return [
        (torch.full((len(logits),), c, device=logits.device), p)
        for c, p in zip(range(classes), logits.softmax(1).unbind(1), strict=True)
    ]
