"""The diagonal of the Fisher information."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.training import Progress, silent
from lethe.unlearn.fisher_information import NUMBERS, Tensors
from lethe.unlearn.layer_gradients import Answers, ImageGradients

AT_ONCE = 1024  # images
IN_CACHE = 128  # images: the numbers of more do not fit a processor's cache


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
    images = images.to(device)
    some_images = next(images.batches(2, device=device))[0]
    gradients = ImageGradients(model, some_images)
    most = IN_CACHE if device.type == "cpu" else AT_ONCE
    size = min(most, max(1, NUMBERS // gradients.numbers_an_image(some_images)))
    matrices: Tensors = {}
    for x, y in progress(images.batches(size, device=device), label, math.ceil(len(images) / size)):
        answers = functools.partial(_true_labels, y) if labels == "true" else _every_label
        for weights, factors in gradients.of(x, answers):
            for layer, own in factors.items():
                squares = own.squares(weights)
                matrices[layer] = matrices[layer].add_(squares) if layer in matrices else squares
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for layer, matrix in matrices.items():
        total |= {name: summed / len(images) for name, summed in gradients.unpacked(layer, matrix).items()}
    return total


def _true_labels(labels: Tensor, logits: Tensor) -> Answers:
    return [(labels, torch.ones_like(logits[:, 0]))]


def _every_label(logits: Tensor) -> Answers:
    classes = logits.shape[1]
    return [
        (torch.full((len(logits),), c, device=logits.device), p)
        for c, p in zip(range(classes), logits.softmax(1).unbind(1), strict=True)
    ]
