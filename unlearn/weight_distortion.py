"""weight_distortion and kin: leave the initial weights, or be driven from them, and learn to retain again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.training.loop import Loss
from lethe.training.optimizers import Adam
from lethe.training.process_group import ALONE
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune
from lethe.unlearn.settings import BatchSize, BetweenZeroAndOne, Epochs, LearningRate, Positive, Weight

SOURCE = "Siddiqui et al. 2025, arXiv:2505.22310"
SMALL = 1e-8  # under the root of the distance
DECLARED: dict[str, Any] = {
    "source": SOURCE,
    "needs": ("retain", "labels"),
    "augments": ("retain",),
    "source_augments": "",
    "parallel": True,
}


@register("weight_distortion", **DECLARED)
def weight_distortion(
    model: nn.Module,
    data: ForgetData,
    *,
    distortion_std: Positive = 0.2,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 128,
) -> Unlearned:
    """Add noise to the weights, then fine-tune on the retain set by Adam.

        theta <- theta_0 + distortion_std e,  e ~ N(0, I)        then theta <- Adam(theta, g_r)

    After most methods, fine-tuning on retain alone brings the forgotten images back. What is far from the
    initial weights resists that.

    Flags:
        distortion_std: standard deviation of the noise
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of Adam

    Raises FloatingPointError if it diverges.

    Departure: the source has a distortion_std of .02 and 100 epochs at 1e-5, for ResNet-18 on CIFAR-10, which
    is nearly the cost of retraining. The defaults are of digits, by training and validation images of the
    tuning seeds 101 and 102.
    """
    noise = data.generator("weight_distortion", "noise")

    def distorted(weight: Tensor) -> Tensor:
        return weight + distortion_std * torch.randn(weight.shape, generator=noise).to(weight)

    student = changed(model, distorted)
    return tuned(student, data, "weight_distortion", F.cross_entropy, unlearn_epochs, unlearn_lr, batch_size)


@register("weight_attenuation", **DECLARED)
def weight_attenuation(
    model: nn.Module,
    data: ForgetData,
    *,
    attenuation: Positive = 0.5,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 128,
) -> Unlearned:
    """Multiply the weights by a factor, then fine-tune on the retain set by Adam.

        theta <- attenuation theta_0        then theta <- Adam(theta, g_r)

    Batch norm undoes the factor of the convolution or linear layer before it: in such networks mainly its own
    weights and the classifier change.

    Flags:
        attenuation: factor of the weights
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of Adam

    Raises FloatingPointError if it diverges.

    Departure: the source has 100 epochs at 1e-5, for ResNet-18 on CIFAR-10, which is nearly the cost of
    retraining. The defaults are of digits, by training and validation images of the tuning seeds 101 and 102.
    """
    student = changed(model, lambda weight: attenuation * weight)
    return tuned(student, data, "weight_attenuation", F.cross_entropy, unlearn_epochs, unlearn_lr, batch_size)


@register("weight_dropout", **DECLARED)
def weight_dropout(
    model: nn.Module,
    data: ForgetData,
    *,
    dropped_share: BetweenZeroAndOne = 0.5,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 128,
) -> Unlearned:
    """Set random weights to 0, then fine-tune on the retain set by Adam.

        theta <- theta_0 1[u > dropped_share],  u uniform in [0, 1)        then theta <- Adam(theta, g_r)

    Flags:
        dropped_share: chance of a weight to be set to 0
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of Adam

    Raises FloatingPointError if it diverges.

    Departure: the source has a dropped_share of .2 and 100 epochs at 1e-5, for ResNet-18 on CIFAR-10, which
    is nearly the cost of retraining. The defaults are of digits, by training and validation images of the
    tuning seeds 101 and 102.
    """
    draws = data.generator("weight_dropout", "dropped")

    def dropped(weight: Tensor) -> Tensor:
        return weight * (torch.rand(weight.shape, generator=draws) > dropped_share).to(weight)

    student = changed(model, dropped)
    return tuned(student, data, "weight_dropout", F.cross_entropy, unlearn_epochs, unlearn_lr, batch_size)


# In one process: a bias before batch norm has a gradient of rounding errors alone. Adam makes a whole step of
# them, and the reward for the distance drives the bias on in that direction: two processes round otherwise.
@register("weight_dist_reg", **{**DECLARED, "parallel": False})
def weight_dist_reg(
    model: nn.Module,
    data: ForgetData,
    *,
    dist_alpha: Weight = 10.0,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 128,
) -> Unlearned:
    """Fine-tune on the retain set by Adam, with a reward for the distance from the initial weights.

        theta <- Adam(theta, grad [CE(f_theta(x), y) - dist_alpha sqrt(mean (theta - theta_0)^2 + 1e-8)])

    (x, y) in retain; the mean is over all weights. The reward's gradient is 0 at theta_0, so that nothing
    happens before the cross-entropy has moved the weights, and it has no end: the history's loss contains it,
    watch the retain score.

    Flags:
        dist_alpha: weight of the distance
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of Adam

    Raises FloatingPointError if it diverges.

    Departure: the source has a dist_alpha of 1 and 100 epochs at 1e-5, for ResNet-18 on CIFAR-10, which is
    nearly the cost of retraining. The defaults are of digits, by training and validation images of the tuning
    seeds 101 and 102.
    """
    student = copy_of(model)
    initial = [p.detach().clone() for p in student.parameters()]

    def rewarded(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) - dist_alpha * distance(student, initial)

    data = replace(data, group=ALONE)
    return tuned(student, data, "weight_dist_reg", rewarded, unlearn_epochs, unlearn_lr, batch_size)


@torch.no_grad()
def changed(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy whose parameters, biases and batch norm's included, are changed."""
    student = copy_of(model)
    for parameter in student.parameters():
        parameter.copy_(change(parameter))
    return student


def distance(model: nn.Module, initial: list[Tensor]) -> Tensor:
    """Return sqrt(mean (theta - theta_0)^2 + 1e-8) over all weights."""
    pairs = list(zip(model.parameters(), initial, strict=True))
    count = sum(start.numel() for start in initial)
    total = torch.stack([(p - start).square().sum() for p, start in pairs]).sum()
    return (total / count + SMALL).sqrt()


def tuned(
    student: nn.Module, data: ForgetData, name: str, loss: Loss, epochs: int, lr: float, batch_size: int
) -> Unlearned:
    """Fine-tune on the retain set by Adam, batch norm by each batch's statistics."""
    passes = [Pass("retain", data.retain.to(data.device), loss)]
    optimizer = Adam(student.parameters(), lr=lr)
    return fine_tune(student, data, name, lambda _: passes, optimizer, epochs, batch_size)
