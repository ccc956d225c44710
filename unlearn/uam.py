"""UAM: descend the retain loss as seen from where the forget loss is highest nearby."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.models import evaluating
from lethe.signature import Range, Search
from lethe.training.shared_batch import mean_gradients, outputs_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, WeightDecay
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode, without_a_last_single
from lethe.unlearn.two_gradients import gradients_of

TINY = 1e-16  # beside a gradient's norm

Radius = Annotated[float, Range(0), Search("log", 1e-2, 10)]
Part = Annotated[float, Range(0), Search("linear", 0, 1)]


@register(
    "UAM",
    "unlearning_aware_minimization",
    source="Kim, Kim, Chae, Yoon 2025, NeurIPS, OpenReview kAuckbcMvi",
    augments=("retain",),
    parallel=True,
)
def uam(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 5,
    unlearn_lr: LearningRate = 1e-2,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    uam_radius: Radius = 0.05,
    uam_gamma: Part = 0.0,
) -> Unlearned:
    """Take each retain step by the gradient at the point nearby where the forget loss is highest.

        g_f = grad CE_f(theta)                       theta^ = theta + uam_radius g_f / |g_f|
        g_r = grad CE_r(theta^)
        theta <- SGD(theta, (I - uam_gamma g_f g_f' / |g_f|^2) g_r)

    |.| is one norm over all weights. An epoch is a pass over retain; forget is cycled. The radius is a
    distance in weight space: raise it until the forget loss rises from epoch to epoch.

    A doubt: the factor with uam_gamma is known from the paper's listing for language models (equation 15)
    alone, and that its sign is minus is inferred from the derivation. The published optimiser takes the flag
    and never uses it: uam_gamma 0, the default, is what it does. At 1 the step is orthogonal to g_f.

    Flags:
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD
        batch_size: images of each kind a step
        uam_radius: distance from the weights at which the retain gradient is taken
        uam_gamma: part of the retain gradient along the forget gradient that is removed

    Raises FloatingPointError if it diverges.

    Its steps follow retain gradients alone: on digits it leaves a fitted class as it was, with radii of .05
    to 6. That is the formula: it ends where the point uphill is best for retain. Of two paraboloids that
    leaves theta itself nearer to the forget set's minimum than FT, by the radius.

    Departures: g_f is taken in eval mode, on forget images alone; in the source batch norm normalises forget
    and retain images together there, and moves its statistics. Its radius may fall to 0; here it is fixed.
    """
    student = copy_of(model)
    parameters = list(student.parameters())
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    size = without_a_last_single(data.retain, batch_size)
    # The streams of FT: with a radius and a gamma of 0 this is FT, bit for bit.
    order, noise, moves = (data.generator("FT", what) for what in ("order", "dropout", "augmentation"))
    retain, single = data.retain.to(data.device), min(size, len(data.retain)) == 1
    forget = endless(data, data.forget, batch_size, "UAM", "forget", augmented=False)
    history = []
    for epoch in data.progress(range(unlearn_epochs), "UAM"):
        losses = []
        batches = data.training_batches(retain, size, order, moves)
        with train_mode(student, noise, data.device, single_images=single):
            for (x_r, y_r), (x_f, y_f) in zip(batches, forget, strict=False):
                with evaluating(student):
                    forget_loss = F.cross_entropy(outputs_of(student, x_f, data.group), y_f)
                    g_f = mean_gradients(gradients_of(forget_loss, parameters), data.group)
                length = norm_of(g_f)
                start = moved(parameters, g_f, uam_radius / (length + TINY))
                loss = F.cross_entropy(outputs_of(student, x_r, data.group), y_r)
                g_r = mean_gradients(gradients_of(loss, parameters), data.group)
                put_back(parameters, start)
                along = uam_gamma * inner_product(g_f, g_r) / (length + TINY).square()
                for parameter, f, r in zip(parameters, g_f, g_r, strict=True):
                    parameter.grad = r - along * f
                optimizer.step()
                losses.append(torch.stack([loss.detach(), forget_loss.detach()]))
        means = dict(zip(("retain_loss", "forget_loss"), torch.stack(losses).mean(0).tolist(), strict=True))
        check_finite(student, means, f"UAM diverged in epoch {epoch + 1}")
        history.append(means)
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def inner_product(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the inner product over all tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all tensors."""
    return inner_product(gradients, gradients).sqrt()


@torch.no_grad()
def moved(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """Add factor times the direction to the parameters, in place; return what they were."""
    start = [parameter.clone() for parameter in parameters]
    for parameter, along in zip(parameters, direction, strict=True):
        parameter.add_(factor * along)
    return start


@torch.no_grad()
def put_back(parameters: Sequence[nn.Parameter], start: Sequence[Tensor]) -> None:
    """Give the parameters these values."""
    for parameter, value in zip(parameters, start, strict=True):
        parameter.copy_(value)
