"""Gradients of the cross-entropy, of batches and of single images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from lethe.data import ImageSet

Tensors = dict[str, Tensor]  # by the name of a parameter
ImageLoss = Callable[[Tensor, Tensor], Tensor]  # logits (N, C), labels (N,) -> a scalar
NUMBERS = 2**26  # numbers of single images' gradients in memory at once
BATCH = 512


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the images' cross-entropies."""
    return F.cross_entropy(logits, labels, reduction="sum")


def batch_gradient(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    loss: ImageLoss = F.cross_entropy,
) -> Tensors:
    """Return the gradient of the batch's loss; with `weights` (N,), of the weighted sum of cross-entropies.

    Zero for a parameter that the logits do not depend on.
    """
    parameters = dict(model.named_parameters())
    if weights is None:
        value = loss(model(x), y)
    else:
        value = (weights * F.cross_entropy(model(x), y, reduction="none")).sum()
    gradients = torch.autograd.grad(
        value, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, gradients, strict=True))


def mean_gradient(model: nn.Module, images: ImageSet, device: torch.device) -> Tensors:
    """Return the gradient of all images' mean cross-entropy, in the model's present mode."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in images.batches(BATCH, device=device):
        for name, gradient in batch_gradient(model, x, y).items():
            total[name] += gradient * (len(y) / len(images))
    return total


def image_gradients(
    model: nn.Module, x: Tensor, y: Tensor, loss: ImageLoss = summed_cross_entropy
) -> Tensors:
    """Return the gradients (N, ...) of each image's loss; the model has to be in eval mode."""

    def of_one(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (image[None],)), label[None])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    gradients: Tensors = vmap(grad(of_one), in_dims=(None, 0, 0))(parameters, x, y)
    return gradients
