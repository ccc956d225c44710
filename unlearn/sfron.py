"""SFRon: few weighted steps of ascent on forget by the salient weights, many of descent on retain."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.signature import Range, Search
from lethe.unlearn.dual_optimizer import DualOptimizer, forget_optimizer
from lethe.unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from lethe.unlearn.importance import over_batches
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import (
    BatchSize,
    Count,
    Epochs,
    LearningRate,
    Momentum,
    Positive,
    Weight,
    WeightDecay,
)
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode
from lethe.unlearn.two_gradients import batch_size_for

LEAST_LOSS = 1e-6  # of an image, before the power: a loss of 0 would take the whole batch's weight
LEAST_IMPORTANCE = 1e-15
SlowShare = Annotated[float, Range(0, 1), Search("linear", 0.1, 1)]


@register(
    "SFRon",
    "SFR-on",
    "SFR_on",
    source="Huang et al. 2024, arXiv:2409.19732",
    augments=("forget", "retain"),
    source_augments="",
)
def sfron(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 20,
    unlearn_lr: LearningRate = 0.01,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    forget_every: Count = 5,
    forget_alpha: Weight = 25.0,
    loss_power: Weight = 0.5,
    mask_gamma: Weight = 1.0,
    clip_norm: Positive = 7.0,
    slow_share: SlowShare = 1.0,
    dual_optimizer: DualOptimizer | None = None,
) -> Unlearned:
    """Ascend on forget by the weights that matter to it, every few steps, and descend on retain in each.

        mask  m_j = 1[(F_forget,j + 1e-15) / (F_retain,j + 1e-15) >= mask_gamma]        at theta_0
        L_f = - sum_i w_i l_i,  w_i = l_i^-loss_power / sum_k l_k^-loss_power        l_i: an image's CE
        step t = 0, ..., T - 1:
            every forget_every steps: g = m * grad a_t L_f, clipped to clip_norm;  theta' <- SGD(theta, g)
                                      a_t = forget_alpha (1 + cos(pi t / T)) / 2
            theta' <- SGD(theta', g_r)
            theta <- (1 - slow_share) theta + slow_share theta'

    F: mean over batches of the squared gradient of the batch's mean cross-entropy, in eval mode. With a
    loss_power above 0 the images that are still remembered weigh most. The learning rate falls from its start
    to 0 by a cosine. Both kinds of step share one SGD and its momentum, without a dual_optimizer. A step of
    ascent leaves the other weights as they are, bit for bit. Batch norm takes the statistics of each batch.

    forget_alpha goes inversely with the size of the forget set's gradients, which are tiny in a model that
    fits well. `facts` has the share of weights in the mask.

    Flags:
        unlearn_epochs: passes over the retain set, T steps in all; the forget set is cycled
        unlearn_lr: learning rate of SGD in the first step
        batch_size: images of each kind a step
        forget_every: steps of descent for each of ascent
        forget_alpha: weight of the ascent in the first step; 0 leaves it out
        loss_power: how much more an image weighs that is still remembered; 0 is plain ascent
        mask_gamma: least ratio of a salient weight's importances, forget to retain
        clip_norm: largest norm of the ascent's gradient
        slow_share: part of each step's way that is taken; 1 is all of it

    Raises FloatingPointError if it diverges.

    Departures: the source has a number of steps, 1,500 of 128 images for 10 % of CIFAR-10, which are 5 passes
    over retain (on digits, by training and validation images of the tuning seeds 101 and 102, the 45 steps of
    5 passes forget nothing, and 20 passes forget a class). Its momentum and weight decay move masked weights
    in steps of ascent too; an image with a loss of 0 takes the whole batch's weight there, here losses are at
    least 1e-6; and its importances are of shuffled, augmented batches with a short last one.
    """
    student = copy_of(model)
    parameters = list(student.parameters())
    size = batch_size_for((data.forget, data.retain), batch_size)
    mask = salient(student, data, min(batch_size, len(data.forget), len(data.retain)), mask_gamma)
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    ascent = forget_optimizer(student, dual_optimizer) or optimizer
    rates = {optimizer: unlearn_lr} | ({} if dual_optimizer is None else {ascent: dual_optimizer})
    forget, retain = (
        endless(data, images, size, "SFRon", name)
        for name, images in (("forget", data.forget), ("retain", data.retain))
    )
    dropout, single = data.generator("SFRon", "dropout"), min(size, len(data.forget), len(data.retain)) == 1
    a_pass = math.ceil(len(data.retain) / size)
    history = []
    for epoch in data.progress(range(unlearn_epochs), "SFRon"):
        losses: dict[str, list[Tensor]] = {"forget_loss": [], "retain_loss": []}
        with train_mode(student, dropout, data.device, single_images=single):
            for step in range(epoch * a_pass, (epoch + 1) * a_pass):
                start = [p.detach().clone() for p in parameters]
                fade = (1 + math.cos(math.pi * step / (a_pass * unlearn_epochs))) / 2
                for each, rate in rates.items():
                    each.param_groups[0]["lr"] = rate * fade
                if step % forget_every == 0 and forget_alpha:
                    loss = ascent_loss(student, next(forget), loss_power)
                    losses["forget_loss"].append(-loss.detach())
                    masked_step(forget_alpha * fade * loss, parameters, mask, clip_norm, ascent)
                x, y = next(retain)
                loss = F.cross_entropy(student(x), y)
                losses["retain_loss"].append(loss.detach())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                part_of_the_way(parameters, start, slow_share)
        history.append({name: torch.stack(values).mean().item() for name, values in losses.items() if values})
        check_finite(student, history[-1], f"SFRon diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    student.zero_grad(set_to_none=True)
    share = sum(int(m.sum()) for m in mask) / sum(m.numel() for m in mask)
    return Unlearned(student, history=history, facts={"salient_percent": 100 * share})


def salient(model: nn.Module, data: ForgetData, size: int, least_ratio: float) -> list[Tensor]:
    """Return the mask of each parameter, bool: the weights that matter to forget as much as to retain."""
    forget, retain = (
        over_batches(model, images, size, data, "SFRon", f"importance for {name}")
        for name, images in (("forget", data.forget), ("retain", data.retain))
    )
    return [
        (forget[name] + LEAST_IMPORTANCE) / (retain[name] + LEAST_IMPORTANCE) >= least_ratio
        for name in forget
    ]


def ascent_loss(model: nn.Module, batch: Batch, power: float) -> Tensor:
    """Return L_f of a batch."""
    x, y = batch
    return weighted_ascent(F.cross_entropy(model(x), y, reduction="none"), power)


def weighted_ascent(losses: Tensor, power: float) -> Tensor:
    """Return - sum_i w_i l_i of the images' losses (N,), w without a gradient."""
    weights = losses.detach().clamp(min=LEAST_LOSS) ** -power
    return -(weights / weights.sum() * losses).sum()


def masked_step(
    loss: Tensor,
    parameters: list[nn.Parameter],
    mask: list[Tensor],
    clip_norm: float,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Step on the clipped gradient of the masked weights; the others keep their values, bit for bit."""
    start = [p.detach().clone() for p in parameters]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for parameter, marked in zip(parameters, mask, strict=True):
        if parameter.grad is not None:
            parameter.grad *= marked
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    with torch.no_grad():
        for parameter, before, marked in zip(parameters, start, mask, strict=True):
            parameter.copy_(torch.where(marked, parameter, before))


@torch.no_grad()
def part_of_the_way(parameters: list[nn.Parameter], start: list[Tensor], share: float) -> None:
    """Set theta to (1 - share) start + share theta; all of the way is left as it is."""
    if share < 1:
        for parameter, before in zip(parameters, start, strict=True):
            parameter.copy_(before.lerp(parameter, share))
