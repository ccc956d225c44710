"""boundary_shrink: give what is forgotten to the class across the nearest boundary."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import evaluating
from unlearn import passes
from unlearn.impl import ForgetData, Unlearned, copy_of, register
from unlearn.settings import RESOLVED, BatchSize, Epochs, LearningRate, Momentum, Positive
from vision_data import ImageSet, Normalisation

WHOLE_CLASSES, OTHERS = 1e-4, 1e-7  # learning rates


def learning_rate(data: ForgetData, whole_classes: float, others: float) -> float:
    """The one for classes that are forgotten whole, or the one for images of classes that stay."""
    return others if set(data.forget.classes) & set(data.retain.classes) else whole_classes


def resolve(model: nn.Module, data: ForgetData, *, unlearn_lr: float | None) -> dict[str, float]:
    """The learning rate, where none is given."""
    return {"unlearn_lr": learning_rate(data, WHOLE_CLASSES, OTHERS) if unlearn_lr is None else unlearn_lr}


@register(
    "boundary_shrink",
    source="Chen et al. 2023, arXiv:2303.11570",
    resolve=(resolve,),
    augments=("forget",),
    source_augments="nothing",
)
def boundary_shrink(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = RESOLVED,
    batch_size: BatchSize = 64,
    momentum: Momentum = 0.9,
    bound: Positive = 0.1,
) -> Unlearned:
    """Fine-tune on the forget images, each under the class that lies across the nearest boundary of the
    initial model.

        x' = clamp(x + bound sign(grad_x CE(f_0(x), y)), 0, 1)    y' = argmax_{c != y} f_0(x')_c
        theta <- SGD(theta, grad CE(f_theta(x), y'))

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of SGD (1e-4; 1e-7 for images of classes that stay)
        bound: how far a pixel moves, of its range from 0 to 1

    Pixels are those before normalisation, black 0 and fully lit 1. Where the images have no normalisation
    (your own tensors), they move by `bound` as they are, and are not clamped. Raises FloatingPointError if it
    diverges. The method is made for classes: where images of classes that stay are forgotten, whatever is
    learned of them holds for the retained ones as well, and at the learning rate that forgets a class the
    model goes with them.

    Departures: batch norm keeps its running statistics, see NegGrad; in the source a label stays the true one
    where x' has not crossed a boundary, and x' is rounded to grey levels. Its learning rate, 1e-5, is meant
    for hundreds of steps; 1e-4 forgets a class of digits too, and 1e-7 leaves a model the retained images of
    the classes that stay.
    """
    student = copy_of(model)
    nearest, crossed = relabelled(copy_of(model), data.forget.to(data.device), bound, data.device)
    plan = [passes.Pass("forget", nearest, keep_statistics=True)]
    optimizer = passes.sgd(student, unlearn_lr, momentum, 0.0)
    done = passes.fine_tune(
        student, data, "boundary_shrink", lambda _: plan, optimizer, unlearn_epochs, batch_size
    )
    return replace(done, facts={"crossed_share": crossed})


def relabelled(
    model: nn.Module, images: ImageSet, bound: float, device: torch.device
) -> tuple[ImageSet, float]:
    """The images under their nearest other class, and the share whose perturbed copy is taken for another
    class.
    """
    with evaluating(model):
        found = [
            nearest_class(model, x, y, images.normalisation, bound)
            for x, y in images.batches(512, device=device)
        ]
    nearest, crossed = (torch.cat(parts) for parts in zip(*found, strict=True))
    return replace(images, labels=nearest), crossed.double().mean().item()


def nearest_class(
    model: nn.Module, x: Tensor, y: Tensor, normalisation: Normalisation, bound: float
) -> tuple[Tensor, Tensor]:
    """y' (N,) for normalised images and their labels, and (N,) bool: whether the perturbed image is no longer
    taken for y.
    """
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    with torch.no_grad():
        logits = model(moved(x.detach(), gradient.sign(), normalisation, bound))
    return logits.scatter(1, y[:, None], -math.inf).argmax(1), logits.argmax(1) != y


def moved(x: Tensor, direction: Tensor, normalisation: Normalisation, bound: float) -> Tensor:
    """x + bound direction in pixels of [0, 1], clamped there, for normalised x (N, C, H, W).

    A pixel p is (p - mean) / std there, so it moves by bound / std between -mean / std and (1 - mean) / std.
    Without channels (mean = ()): x + bound direction.
    """
    if not normalisation.mean:
        return x + bound * direction
    mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (normalisation.mean, normalisation.std))
    return (x + bound * direction / std).clamp(-mean / std, (1 - mean) / std)
