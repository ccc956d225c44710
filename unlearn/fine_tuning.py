"""FT and FT_l1: train on with what is retained, and forget by not rehearsing."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from unlearn.impl import ForgetData, Unlearned, copy_of, register
from unlearn.passes import Pass, check, fine_tune, sgd

SPARSE_SOURCE = "Jia et al. 2023, arXiv:2304.04934"


@register(
    "FT",
    source="Golatkar et al. 2020, arXiv:1911.04933; " + SPARSE_SOURCE,
    resolve=check,
    augments=("retain",),
    source_augments="crop and flip in every loader",
)
def ft(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: int = 10,
    unlearn_lr: float = 1e-2,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Unlearned:
    """Fine-tune on the retain set.

        theta <- theta - unlearn_lr grad CE(f_theta(x), y)        (x, y) in retain

    by SGD in train mode; an epoch is a pass over retain.

    Flags:
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD
        batch_size: images a step
        momentum: momentum of SGD
        weight_decay: weight decay of SGD

    Raises ValueError for flags that make no sense, FloatingPointError if it diverges.
    """
    check(
        model,
        data,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    student = copy_of(model)
    passes = [Pass("retain", data.retain.to(data.device))]
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    return fine_tune(student, data, "FT", lambda _: passes, optimizer=optimizer, unlearn_epochs=unlearn_epochs, batch_size=batch_size)


def check_l1(
    model: nn.Module, data: ForgetData, *, l1_alpha: float, unlearn_epochs: int, unlearn_lr: float, batch_size: int, **flags: float
) -> dict[str, int]:
    """FT's check, and ValueError for an l1_alpha that is no positive number."""
    if not 0 < l1_alpha < math.inf:
        raise ValueError(f"--l1_alpha: expected a number > 0, got {l1_alpha}. Give e.g. 1e-4, or use --unlearn FT for none")
    return check(model, data, unlearn_epochs=unlearn_epochs, unlearn_lr=unlearn_lr, batch_size=batch_size, **flags)


@register(
    "FT_l1",
    "l1_sparse",
    "FT_prune",
    source=SPARSE_SOURCE,
    resolve=check_l1,
    augments=("retain",),
    source_augments="crop and flip in every loader",
)
def ft_l1(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: int = 10,
    unlearn_lr: float = 1e-2,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    l1_alpha: float = 1e-4,
) -> Unlearned:
    """Fine-tune on the retain set under an L1 penalty that fades out.

        theta <- theta - unlearn_lr grad [CE(f_theta(x), y) + l1_alpha (1 - e / E) sum |theta|]        (x, y) in retain

    by SGD in train mode, in epoch e = 0, ..., E - 1; all parameters are penalised. The history's loss contains the penalty.

    Departure: the published parser's l1_alpha of .2 destroys the model; here it is 1e-4.

    Flags:
        unlearn_epochs: passes over the retain set, E
        unlearn_lr: learning rate of SGD
        batch_size: images a step
        momentum: momentum of SGD
        weight_decay: weight decay of SGD
        l1_alpha: weight of the L1 penalty in the first epoch

    Raises ValueError for flags that make no sense, FloatingPointError if it diverges.
    """
    check_l1(
        model,
        data,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        l1_alpha=l1_alpha,
    )
    student = copy_of(model)
    retain = data.retain.to(data.device)

    def passes(epoch: int) -> list[Pass]:
        weight = l1_alpha * (1 - epoch / unlearn_epochs)
        return [Pass("retain", retain, lambda logits, y: F.cross_entropy(logits, y) + weight * l1_norm(student))]

    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    return fine_tune(student, data, "FT_l1", passes, optimizer=optimizer, unlearn_epochs=unlearn_epochs, batch_size=batch_size)


def l1_norm(model: nn.Module) -> Tensor:
    """sum |theta| over all parameters."""
    return sum((p.abs().sum() for p in model.parameters()), start=next(model.parameters()).new_zeros(()))
