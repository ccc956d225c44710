"""FT and FT_l1: fine-tune on the retain set, and forget what is not rehearsed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, Positive, WeightDecay

SPARSE_SOURCE = "Jia et al. 2023, arXiv:2304.04934"


@register(
    "FT",
    source="Golatkar et al. 2020, arXiv:1911.04933; " + SPARSE_SOURCE,
    needs=("retain", "labels"),
    augments=("retain",),
    source_augments="crop and flip in every loader",
    parallel=True,
)
def ft(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-2,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
) -> Unlearned:
    """Fine-tune on the retain set.

        theta <- theta - unlearn_lr grad CE(f_theta(x), y)        (x, y) in retain

    by SGD in train mode; an epoch is a pass over retain.

    Flags:
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD

    Raises FloatingPointError if it diverges.
    """
    student = copy_of(model)
    passes = [Pass("retain", data.retain.to(data.device))]
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    return fine_tune(student, data, "FT", lambda _: passes, optimizer, unlearn_epochs, batch_size)


@register(
    "FT_l1",
    "l1_sparse",
    "FT_prune",
    source=SPARSE_SOURCE,
    needs=("retain", "labels"),
    augments=("retain",),
    source_augments="crop and flip in every loader",
    parallel=True,
)
def ft_l1(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1e-2,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    l1_alpha: Positive = 1e-4,
) -> Unlearned:
    """Fine-tune on the retain set under an L1 penalty that fades out.

        theta <- theta - unlearn_lr grad [CE(f_theta(x), y) + l1_alpha (1 - e / E) sum |theta|]

    for (x, y) in retain, by SGD in train mode, in epoch e = 0, ..., E - 1; all parameters are penalised. The
    history's loss contains the penalty.

    Departure: the published parser's l1_alpha of .2 destroys the model; here it is 1e-4.

    Flags:
        unlearn_epochs: passes over the retain set, E
        unlearn_lr: learning rate of SGD
        l1_alpha: weight of the L1 penalty in the first epoch

    Raises FloatingPointError if it diverges.
    """
    student = copy_of(model)
    retain = data.retain.to(data.device)

    def passes(epoch: int) -> list[Pass]:
        def penalised(logits: Tensor, y: Tensor) -> Tensor:
            weight = l1_alpha * (1 - epoch / unlearn_epochs)
            return F.cross_entropy(logits, y) + weight * l1_norm(student)

        return [Pass("retain", retain, penalised)]

    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    return fine_tune(student, data, "FT_l1", passes, optimizer, unlearn_epochs, batch_size)


def l1_norm(model: nn.Module) -> Tensor:
    """Return sum |theta| over all parameters."""
    return sum((p.abs().sum() for p in model.parameters()), start=next(model.parameters()).new_zeros(()))
