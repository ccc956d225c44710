"""LFSSD, ASSD, SSD_det, LFSSD_det: dampening as in SSD, by other importances or without a threshold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lethe.unlearn.dampening import dampen, dampened_facts, ratio_above
from lethe.unlearn.fisher_information import Tensors
from lethe.unlearn.impl import ForgetData, Resolve, Unlearned, copy_of, register
from lethe.unlearn.importance import over_batches, over_images
from lethe.unlearn.settings import RESOLVED, BatchSize, Positive
from lethe.unlearn.ssd import NO_WEIGHT

LOSS_FREE = "Foster, Schoepf, Brintrup 2024, arXiv:2402.19308"
PER_IMAGE = "SUPREME 2026, arXiv:2606.00380 (variants of its release 0.1.4)"
# selection_alpha for whole classes, and for images of classes that stay
ALPHAS = {"LFSSD": (10.0, 3.5), "SSD_det": (2.0, 5.0), "LFSSD_det": (2.5, 1.2)}
NOTHING_TO_DAMPEN = (
    "no weight above the threshold found is more important to the forget set than to training, as is common "
    "for images drawn from all classes. Use SSD with a low --selection_alpha, or another method"
)


def squared_length(logits: Tensor, _: Tensor) -> Tensor:
    """Return the batch's mean of |f(x)|^2, which needs no labels."""
    return logits.square().sum(1).mean()


def summed_squared_length(logits: Tensor, _: Tensor) -> Tensor:
    """Return the sum of |f(x)|^2."""
    return logits.square().sum()


def alpha_of(method: str) -> Resolve:
    """Return the function that resolves a method's least ratio, of classes or of images if not given."""
    whole, part = ALPHAS[method]

    def resolve(model: nn.Module, data: ForgetData, *, selection_alpha: float | None) -> dict[str, Any]:
        if selection_alpha is not None:
            return {"selection_alpha": selection_alpha}
        classes_stay = set(data.forget.classes) & set(data.retain.classes)
        return {"selection_alpha": part if classes_stay else whole}

    return resolve


@register(
    "LFSSD",
    "loss_free_ssd",
    source=LOSS_FREE,
    resolve=(alpha_of("LFSSD"),),
    needs=("forget", "retain"),
    augments=(),
    source_augments="nothing",
)
def lfssd(
    model: nn.Module,
    data: ForgetData,
    *,
    selection_alpha: Positive = RESOLVED,
    dampening: Positive = 1.0,
    batch_size: BatchSize = 64,
) -> Unlearned:
    """Shrink the weights to which the outputs' length on forget is much more sensitive than on training.

        w <- w min(dampening I_train / I_forget, 1)    where I_forget > selection_alpha I_train
        I = mean over batches of |gradient of the batch's mean |f(x)|^2|    eval mode, no labels

    SSD without a loss. The batches are as there, and `facts` too.

    Flags:
        selection_alpha: least ratio of a dampened weight's importances, forget to training set (10; 3.5 for
            images of classes that stay)
        dampening: factor of the ratio of the importances
        batch_size: images whose mean gradient's size is taken; as many as are forgotten, if they are fewer

    Departures: those of SSD. The defaults are the paper's.
    """
    student = copy_of(model)
    size = min(batch_size, len(data.forget))
    train, forget = (
        over_batches(student, images, size, data, "LFSSD", name, loss=squared_length, of=torch.abs)
        for name, images in (("train", data.train), ("forget", data.forget))
    )
    dampened = dampen(student, forget, train, alpha=selection_alpha, dampening=dampening)
    return Unlearned(student, facts=dampened_facts(student, dampened, NO_WEIGHT))


@register(
    "SSD_det",
    "SSD-Det",
    source=PER_IMAGE,
    resolve=(alpha_of("SSD_det"),),
    augments=(),
    source_augments="nothing",
)
def ssd_det(
    model: nn.Module, data: ForgetData, *, selection_alpha: Positive = RESOLVED, dampening: Positive = 1.0
) -> Unlearned:
    """SSD by the squares of single images' gradients, which depend on no order and no batch size.

        w <- w min(dampening F_train / F_forget, 1)    where F_forget > selection_alpha F_train
        F = mean over images of (gradient of the image's cross-entropy)^2    eval mode

    Flags:
        selection_alpha: least ratio of a dampened weight's importances, forget to training set (2; 5 for
            images of classes that stay)
        dampening: factor of the ratio of the importances

    The ratio is at most n / n_f, for n_f of n training images to forget.

    Departure: the framework's
    selection_alpha, 10, was found for means of batches, whose ratios are larger; these are of digits, by
    training and validation images of the tuning seeds 101 and 102.
    """
    student = copy_of(model)
    train, forget = (
        over_images(student, images, data.device, progress=data.progress, label=f"SSD_det {name}")
        for name, images in (("train", data.train), ("forget", data.forget))
    )
    dampened = dampen(student, forget, train, alpha=selection_alpha, dampening=dampening)
    return Unlearned(student, facts=dampened_facts(student, dampened, NO_WEIGHT))


@register(
    "LFSSD_det",
    "LFSSD-Det",
    source=PER_IMAGE + "; " + LOSS_FREE,
    resolve=(alpha_of("LFSSD_det"),),
    needs=("forget", "retain"),
    augments=(),
    source_augments="nothing",
)
def lfssd_det(
    model: nn.Module, data: ForgetData, *, selection_alpha: Positive = RESOLVED, dampening: Positive = 1.0
) -> Unlearned:
    """LFSSD by the sizes of single images' gradients, which depend on no order and no batch size.

        w <- w min(dampening I_train / I_forget, 1)    where I_forget > selection_alpha I_train
        I = mean over images of |gradient of |f(x)|^2|    eval mode, no labels

    Flags:
        selection_alpha: least ratio of a dampened weight's importances, forget to training set (2.5; 1.2 for
            images of classes that stay)
        dampening: factor of the ratio of the importances

    The ratio is at most n / n_f, for n_f of n training images to forget.

    Departure: the framework's
    selection_alpha, 10, was found for means of batches, whose ratios are larger; these are of digits, by
    training and validation images of the tuning seeds 101 and 102.
    """
    student = copy_of(model)
    train, forget = (
        over_images(
            student,
            images,
            data.device,
            loss=summed_squared_length,
            of=torch.abs,
            progress=data.progress,
            label=f"LFSSD_det {name}",
        )
        for name, images in (("train", data.train), ("forget", data.forget))
    )
    dampened = dampen(student, forget, train, alpha=selection_alpha, dampening=dampening)
    return Unlearned(student, facts=dampened_facts(student, dampened, NO_WEIGHT))


@register(
    "ASSD",
    "adaptive_ssd",
    source="Schoepf, Foster, Brintrup 2024, arXiv:2402.10098",
    augments=(),
    source_augments="nothing",
)
def assd(model: nn.Module, data: ForgetData, *, batch_size: BatchSize = 64) -> Unlearned:
    """SSD that selects a share of the weights, which depends only on the share of images to forget.

        alpha = percentile 100 - s of F_forget / F_train over all weights,  s = ln(1 + 100 n_f / n) percent
        w <- w min(F_train / F_forget, 1)    where F_forget > alpha F_train

    F as in SSD; n_f of n training images are forgotten. Nothing has to be set: of 1 % to forget it selects
    .69 % of the weights, of 10 % 2.4 %, of 50 % 3.9 %. `facts` has alpha, and the weights without a finite
    ratio, F_train = 0: they are not ranked and not dampened. Weights with the ratio alpha are not selected:
    where more than the share have the largest ratio, none is.

    It selects its share even if alpha is below 1. Such a weight's factor is 1: nothing happens to it. That is
    common for images drawn from all classes; where no weight shrinks, `facts["unchanged"]` says so.

    Flags:
        batch_size: images whose mean gradient is squared; as many as are forgotten, if they are fewer

    Departures: the source's notebook takes F_train over the retain set, in train mode, and sets the weights
    without a finite ratio to 0; F_train is over forget and retain here, in eval mode, as in SSD, of which the
    other departures hold too.
    """
    student = copy_of(model)
    size = min(batch_size, len(data.forget))
    train = over_batches(student, data.train, size, data, "ASSD", "train")
    forget = over_batches(student, data.forget, size, data, "ASSD", "forget")
    unranked = leave_out_unranked(forget, train)
    alpha = ratio_above(forget, train, selected_share(len(data.forget) / len(data.train)))
    dampened = dampen(student, forget, train, alpha=alpha)
    facts = dampened_facts(student, dampened, NOTHING_TO_DAMPEN)
    return Unlearned(student, facts=facts | {"selection_alpha_found": alpha, "unranked": unranked})


def selected_share(forgotten: float) -> float:
    """Return the share of weights that ASSD selects where this share of the images is forgotten."""
    return math.log1p(100 * forgotten) / 100


def leave_out_unranked(forget: Tensors, train: Tensors) -> int:
    """Set I_forget to 0 in place where I_train is 0; return for how many weights that changes it."""
    count = 0
    for name, importance in forget.items():
        unranked = (train[name] == 0) & (importance > 0)
        count += int(unranked.sum())
        importance[unranked] = 0
    return count
