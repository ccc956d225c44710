"""The importance of each weight for a set of images: the mean size of gradients, of batches or of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.training import Progress, silent
from lethe.unlearn.fisher_information import NUMBERS, ImageLoss, Tensors, batch_gradient, summed_cross_entropy
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.layer_gradients import Answers, Entrywise, ImageGradients

AT_ONCE = 1024  # images
IN_CACHE = 128  # images: the numbers of more do not fit a processor's cache


def over_batches(
    model: nn.Module,
    images: ImageSet,
    size: int,
    data: ForgetData,
    *purpose: str,
    loss: ImageLoss = F.cross_entropy,
    of: Entrywise = torch.square,
) -> Tensors:
    """Return the mean over batches of `of(gradient of the batch's loss)`, a tensor per parameter by name.

    loss: of logits (N, C) and labels (N,), a mean over the batch. of: square or abs. The model has to be in
    eval mode. Such a mean depends on the size of the batches, about as 1 / size for squares: all have `size`
    images, shuffled by the seed for this `purpose`, and the rest is left out.
    """
    batches = images.to(data.device).batches(size, generator=data.generator(*purpose), device=data.device)
    count = len(images) // size
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in data.progress(itertools.islice(batches, count), " ".join(purpose), count):
        for parameter, gradient in batch_gradient(model, x, y, loss=loss).items():
            total[parameter] += of(gradient) / count
    return total


def over_images(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    *,
    loss: ImageLoss = summed_cross_entropy,
    of: Entrywise = torch.square,
    answers: Callable[[Tensor, Tensor], Answers] | None = None,
    progress: Progress = silent,
    label: str = "importance",
) -> Tensors:
    """Return the mean over images of `of(gradient of the image's loss)`, a tensor per parameter by name.

    loss: of logits (N, C) and labels (N,), a sum over the images. of: square or abs. answers: labels with
    weights (N,) from the true labels and the logits, of which the weighted sum counts; by default the true
    labels. The model has to be in eval mode. The result depends on no order and no batch size.
    """
    images = images.to(device)
    some_images = next(images.batches(2, device=device))[0]
    gradients = ImageGradients(model, some_images, loss)
    most = IN_CACHE if device.type == "cpu" else AT_ONCE
    size = min(most, max(1, NUMBERS // gradients.numbers_an_image(some_images)))
    matrices: Tensors = {}
    for x, y in progress(images.batches(size, device=device), label, math.ceil(len(images) / size)):
        for weights, factors in gradients.of(x, partial(answers or true_labels, y)):
            for layer, own in factors.items():
                summed = own.sum_of(of, weights)
                matrices[layer] = matrices[layer].add_(summed) if layer in matrices else summed
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for layer, matrix in matrices.items():
        total |= {name: summed / len(images) for name, summed in gradients.unpacked(layer, matrix).items()}
    return total


def true_labels(labels: Tensor, logits: Tensor) -> Answers:
    """Return the labels, each with the weight 1."""
    return [(labels, torch.ones_like(logits[:, 0]))]
