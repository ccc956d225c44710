"""boundary_shrink: relabel the forget set by the class across the nearest boundary."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from lethe.data import ImageSet, Normalisation
from lethe.models import evaluating
from lethe.unlearn.attacks import Box, slopes
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import RESOLVED, BatchSize, Epochs, LearningRate, Momentum, Positive


def default_rate(data: ForgetData, unlearn_lr: float | None, *, whole: float, part: float) -> float:
    """Return the learning rate if given, else the one for whole classes or for a part of classes."""
    if unlearn_lr is not None:
        return unlearn_lr
    return part if set(data.forget.classes) & set(data.retain.classes) else whole


def resolve(model: nn.Module, data: ForgetData, *, unlearn_lr: float | None) -> dict[str, float]:
    """Return the learning rate."""
    return {"unlearn_lr": default_rate(data, unlearn_lr, whole=1e-4, part=1e-7)}


@register(
    "boundary_shrink",
    source="Chen et al. 2023, arXiv:2303.11570",
    resolve=(resolve,),
    needs=("forget", "labels"),
    augments=("forget",),
    source_augments="nothing",
    parallel=True,
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
    """Fine-tune on the forget images, labelled by the class across the initial model's nearest boundary.

        x' = clamp(x + bound sign(grad_x CE(f_0(x), y)), 0, 1)    y' = argmax_{c != y} f_0(x')_c
        theta <- SGD(theta, grad CE(f_theta(x), y'))

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of SGD (1e-4; 1e-7 for images of classes that stay)
        bound: change of a pixel, whose range is 0 to 1

    Pixels are those before normalisation, black 0 and fully lit 1. Images without a normalisation (your own
    tensors) change by `bound` and are not clamped. Raises FloatingPointError if it diverges. The method is
    made for classes: the model learns the same of retained images of a class as of the forgotten ones, and
    at the learning rate that forgets a class it breaks.

    Departures: batch norm keeps its running statistics, see NegGrad; in the source a label stays the true one
    where x' has not crossed a boundary, and x' is rounded to grey levels. Its learning rate, 1e-5, is meant
    for hundreds of steps; 1e-4 forgets a class of digits too, and with 1e-7 a model keeps the retained images
    of the classes that stay.
    """
    student = copy_of(model)
    nearest, crossed = relabelled(copy_of(model), data.forget.to(data.device), bound, data.device)
    plan = [Pass("forget", nearest, keep_statistics=True)]
    optimizer = sgd(student, unlearn_lr, momentum, 0.0)
    done = fine_tune(student, data, "boundary_shrink", lambda _: plan, optimizer, unlearn_epochs, batch_size)
    done.facts["crossed_share"] = crossed
    return done


def relabelled(
    model: nn.Module, images: ImageSet, bound: float, device: torch.device
) -> tuple[ImageSet, float]:
    """Return the images labelled by their nearest other class, and the share that crossed a boundary."""
    batches = images.batches(512, device=device)
    with evaluating(model):
        found = [nearest_class(model, x, y, images.normalisation, bound) for x, y in batches]
    nearest, crossed = (torch.cat(parts) for parts in zip(*found, strict=True))
    return replace(images, labels=nearest), crossed.double().mean().item()


def nearest_class(
    model: nn.Module, x: Tensor, y: Tensor, normalisation: Normalisation, bound: float
) -> tuple[Tensor, Tensor]:
    """Return y' (N,) of normalised images, and (N,) bool: x' is predicted as another class than y."""
    slope, _ = slopes(model, x, y)
    with torch.no_grad():
        logits = model(Box(normalisation, x).moved(x, bound * slope.sign()))
    return logits.scatter(1, y[:, None], -math.inf).argmax(1), logits.argmax(1) != y
