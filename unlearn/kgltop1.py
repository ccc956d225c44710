"""kgltop1: flatten the forget images' predictions, push their logits off the retain images', repair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

import torch
from torch import Tensor, nn

from lethe.models import evaluating
from lethe.training import descend
from lethe.training.shared_batch import outputs_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.schedules import fall_by_cosine
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Temperature, WeightDecay
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode, without_a_last_single

SOURCE = "Cadet et al. 2024, arXiv:2410.01276; first of the NeurIPS 2023 challenge, arXiv:2406.09073"
LOWEST_RATE = 1e-6  # at the end of the contrast steps


@register("kgltop1", source=SOURCE, augments=("forget", "retain"), parallel=True)
def kgltop1(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 8,
    unlearn_lr: LearningRate = 0.01,
    flatten_lr: LearningRate = 0.03,
    contrast_lr: LearningRate = 3e-4,
    batch_size: BatchSize = 256,
    forget_batch_size: BatchSize = 64,
    temperature: Temperature = 1.15,
    weight_decay: WeightDecay = 1e-2,
) -> Unlearned:
    """Make the forget images' predictions uniform, then contrast them with retain images and repair.

        once      over forget: L = KL(uniform || p)
        8 times   over forget, a retain batch beside each: L = - mean over pairs (f, r) of
                      log softmax over r of f_theta(x_f) . sg f_theta(x_r) / temperature
                  then over retain: L = CE

    by SGD with momentum .9, one optimiser for each of the three. The contrast makes a forget image's logits
    as near to one retain image's as to another's; its learning rate falls to 1e-6 by a cosine. Labels of
    forget are not used.

    Flags:
        unlearn_epochs: passes over forget and retain, after the first one over forget
        unlearn_lr: learning rate on retain
        flatten_lr: learning rate of the first pass
        contrast_lr: learning rate of the contrast at its start
        batch_size: retain images a step
        forget_batch_size: forget images a step
        temperature: divisor of the products of logits
        weight_decay: weight decay on retain; the others have none

    Raises FloatingPointError if it diverges.

    Departures: batch norm keeps its running statistics where forget images pass, and for the retain images
    beside them. In the source the first pass has 5e-3 and retain 4e-3, for faces; on digits the first pass is
    two steps, which do not forget a class at that rate (chosen by validation images of seeds 101 and 102).
    """
    student = copy_of(model)
    size = without_a_last_single(data.retain, batch_size)
    contrast_steps = unlearn_epochs * math.ceil(len(data.forget) / forget_batch_size)
    flatten, contrast, repair = (
        sgd(student, flatten_lr, 0.9, 0.0),
        sgd(student, contrast_lr, 0.9, 0.0),
        sgd(student, unlearn_lr, 0.9, weight_decay),
    )
    fall_by_cosine(contrast, contrast_steps, LOWEST_RATE)
    order, noise, moves = (data.generator("kgltop1", what) for what in ("order", "dropout", "augmentation"))
    forget, retain = data.forget.to(data.device), data.retain.to(data.device)
    beside = endless(data, retain, size, "kgltop1", "beside forget")
    history: list[dict[str, float]] = []

    def over_forget() -> Iterator[tuple[Tensor, Tensor]]:
        return data.training_batches(forget, forget_batch_size, order, moves)

    def with_retain_logits() -> Iterator[tuple[Tensor, Tensor]]:
        for (x_f, _), (x_r, _) in zip(over_forget(), beside, strict=False):
            with torch.no_grad(), evaluating(student):
                logits = outputs_of(student, x_r, data.group)
            yield x_f, logits / temperature

    with train_mode(student, noise, data.device, single_images=True):
        descend(student, over_forget(), optimizer=flatten, loss=from_uniform, group=data.group)
    single = min(size, len(retain)) == 1
    for epoch in data.progress(range(unlearn_epochs), "kgltop1"):
        with train_mode(student, noise, data.device, single_images=True):
            pairs = with_retain_logits()
            pushed = descend(student, pairs, optimizer=contrast, loss=contrast_loss, group=data.group)
        with train_mode(student, noise, data.device, single_images=single):
            batches = data.training_batches(retain, size, order, moves)
            repaired = descend(student, batches, optimizer=repair, group=data.group)
        history.append({"contrast_loss": fmean(pushed), "retain_loss": fmean(repaired)})
        check_finite(student, history[-1], f"kgltop1 diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    repair.zero_grad(set_to_none=True)
    return Unlearned(student, history=history)


def from_uniform(logits: Tensor, _: Tensor) -> Tensor:
    """Return the mean KL(uniform || p) of a batch, nats."""
    return -logits.log_softmax(1).mean() - math.log(logits.shape[1])


def contrast_loss(logits: Tensor, of_retain: Tensor) -> Tensor:
    """Return - mean over pairs of log softmax over the retain images of logits (N, C) . of_retain (M, C)."""
    return -(logits @ of_retain.T).log_softmax(1).mean()
