"""LoTUS: learn the initial model's predictions, noisier the better the forget set is still known."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Annotated

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.signature import Range, Search
from lethe.training import descend
from lethe.training.optimizers import AdamW
from lethe.unlearn.forget_and_retain import logits_of, with_share_of_retain
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.settings import RESOLVED, BatchSize, Epochs, LearningRate, Share, WeightDecay
from lethe.unlearn.teacher import Seen, Teacher, seen
from lethe.unlearn.train_mode import train_mode, without_a_last_single

STOP = -0.01
ALPHA, ALPHA_OF_CLASSES = 8.0, 32.0
LARGEST_ALPHA = 50  # exp(-50) is still a divisor in single precision


def resolve(model: nn.Module, data: ForgetData, *, lotus_alpha: float | None) -> dict[str, float]:
    """Return alpha. Raises ValueError if validation images are needed to measure accuracy and missing."""
    classes_stay = set(data.forget.classes) - set(data.forget_classes)
    if not len(data.validation) and classes_stay:
        raise ValueError(
            "LoTUS: expected validation images, on which the initial model shows how well images are known "
            "that were never trained on, got none. Give the data a validation set, or forget whole classes"
        )
    usual = ALPHA if classes_stay else ALPHA_OF_CLASSES
    return {"lotus_alpha": usual if lotus_alpha is None else lotus_alpha}


@register(
    "LoTUS",
    source="Spartalis et al. 2025, arXiv:2503.18314",
    resolve=(resolve,),
    augments=("forget", "retain"),
    source_augments="crop",
    parallel=True,
)
def lotus(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 128,
    retain_share: Share = 0.3,
    lotus_alpha: Annotated[float, Range(0, LARGEST_ALPHA, "(]"), Search("log", 1, LARGEST_ALPHA)] = RESOLVED,
    weight_decay: WeightDecay = 5e-4,
) -> Unlearned:
    """Learn the initial model's predictions, smoothed on forget until it knows them like unseen images.

        theta <- theta - unlearn_lr AdamW(grad mean -sum_c t_c log softmax(f_theta(x))_c)
        t = one-hot of argmax(f_0(x) + g) on retain, softmax((f_0(x) + g) / tau) on forget
        g ~ Gumbel(0, 1) per class and step
        tau = exp(lotus_alpha gap),  gap = acc_forget(f_theta) - acc_unseen, both fractions, anew each epoch

    acc_unseen is the initial model's accuracy on validation, 0 for a whole class, and for a request with both
    the mean over the forget images. It ends early when gap <= -.01.

    Flags:
        unlearn_epochs: passes over the forget images and the drawn retain images together, at most
        unlearn_lr: learning rate of AdamW
        batch_size: images a step; where batch norm would be left with a single image, a few more
        retain_share: part of the retain set that is drawn, once
        lotus_alpha: growth of the temperature with the gap (32 for whole classes, 8 otherwise; for random
            images of 100 classes Spartalis et al. have 2)

    Raises ValueError if validation images are needed and missing, FloatingPointError as soon as a loss or a
    logit is not finite.

    Departures: the source may end before its first step and return the initial model; here the first epoch is
    always run. The request with both is ours; the source has whole classes and random images.
    """
    student = copy_of(model)
    images, forgets = with_share_of_retain(data, retain_share, "LoTUS")
    forgets, teacher = forgets.to(data.device), Teacher(model, images, data)
    order, noise, dropout, moves = (
        data.generator("LoTUS", purpose) for purpose in ("order", "noise", "dropout", "augmentation")
    )
    optimizer = AdamW(student.parameters(), lr=unlearn_lr, weight_decay=weight_decay)
    size, unseen = without_a_last_single(images, batch_size), accuracy_unseen(model, data)
    gap = accuracy(student, data.forget, data) - unseen
    history: list[dict[str, float]] = []
    for epoch in data.progress(range(1, unlearn_epochs + 1), "LoTUS"):
        if gap <= STOP and history:
            break
        temperature = math.exp(lotus_alpha * gap)

        def loss(logits: Tensor, batch: Seen, temperature: float = temperature) -> Tensor:
            target = noisy_targets(teacher(batch), forgets[batch.positions], temperature, noise)
            return -(target * logits.log_softmax(1)).sum(1).mean()

        batches = seen(data.training_batches(images, size, order, moves))
        with train_mode(student, dropout, data.device, single_images=size == 1):
            losses = descend(student, batches, optimizer=optimizer, loss=loss, group=data.group)
        history.append({"loss": fmean(losses), "gap": gap, "temperature": temperature})
        answers = logits_of(student, data.forget, data.device, data.group)
        if not math.isfinite(history[-1]["loss"]) or not answers.isfinite().all():
            raise FloatingPointError(
                f"LoTUS diverged in epoch {epoch}: the loss is {fmean(losses)}. Choose a smaller --unlearn_lr"
            )
        gap = _share_right(answers, data.forget) - unseen
        data.on_epoch(student, epoch)
    optimizer.zero_grad(set_to_none=True)
    return Unlearned(student, history=history, facts={"epochs_run": len(history), "gap": gap})


def noisy_targets(logits: Tensor, forgets: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return t (N, classes): a draw from softmax(logits) on retain, a relaxed one on forget."""
    noisy = logits + gumbel(logits.shape, generator).to(logits)
    drawn = torch.zeros_like(noisy).scatter_(1, noisy.argmax(1, keepdim=True), 1.0)
    return torch.where(forgets[:, None], (noisy / temperature).softmax(1), drawn)


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise, -log E with E exponential."""
    exponential = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float64).tiny).log()


def accuracy(model: nn.Module, images: ImageSet, data: ForgetData) -> float:
    """Return the share of images whose class the model predicts in eval mode."""
    return _share_right(logits_of(model, images, data.device, data.group), images)


def _share_right(logits: Tensor, images: ImageSet) -> float:
    return (logits.argmax(1).cpu() == images.labels.cpu()).double().mean().item()


def accuracy_unseen(model: nn.Module, data: ForgetData) -> float:
    """Return a retrained model's accuracy on forget: 0 on whole classes, on the rest as on validation."""
    rest = (~torch.isin(data.forget.labels.cpu(), torch.tensor(data.forget_classes))).double().mean().item()
    return rest * accuracy(model, data.validation, data) if rest else 0.0
