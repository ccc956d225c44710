"""RL: fine-tune with wrong labels for the forget set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lethe.data import ImageSet
from lethe.unlearn.dual_optimizer import DualOptimizer, forget_optimizer
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, Plan, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, WeightDecay
from lethe.unlearn.srl import check_classes, other_labels


@register(
    "RL",
    "random_label",
    source="Golatkar et al. 2020, arXiv:1911.04933",
    resolve=(check_classes,),
    augments=("forget", "retain"),
    source_augments="crop and flip in every loader",
    parallel=True,
)
def random_label(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1.3e-2,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    dual_optimizer: DualOptimizer | None = None,
) -> Unlearned:
    """Fine-tune on the forget set with random labels, then on the retain set with its own, in each epoch.

        theta <- theta - unlearn_lr grad CE(f_theta(x), y')        (x, y) in forget
        theta <- theta - unlearn_lr grad CE(f_theta(x), y)         (x, y) in retain

    by SGD in train mode; y' is drawn uniformly from the classes but y, anew in each epoch.

    Departures: published code draws from all classes, so that a tenth of the images of ten classes rehearse
    their true label; and there batch norm takes the statistics of each batch of forget, so that the class is
    still known in eval mode (here: the running ones, which such a batch does not update).

    Flags:
        unlearn_epochs: passes over the forget and the retain set
        unlearn_lr: learning rate of SGD

    Raises ValueError for a single class, FloatingPointError if it diverges.
    """
    student = copy_of(model)
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    passes = random_label_passes(data, forget_optimizer(student, dual_optimizer))
    return fine_tune(student, data, "RL", passes, optimizer, unlearn_epochs, batch_size)


def random_label_passes(data: ForgetData, of_forget: torch.optim.Optimizer | None) -> Plan:
    """Return RL's epoch: a pass over forget with labels drawn anew, then one over retain.

    of_forget: the optimiser of the former, if not that of the latter.
    """
    draws = data.generator("RL", "labels")
    forget, retain = data.forget.to(data.device), data.retain.to(data.device)
    return lambda _: [
        Pass("forget", relabelled(forget, data.classes, draws), keep_statistics=True, optimizer=of_forget),
        Pass("retain", retain),
    ]


def relabelled(images: ImageSet, classes: int, generator: torch.Generator) -> ImageSet:
    """Return the images, each with a label drawn uniformly from the classes - 1 others."""
    return replace(images, labels=other_labels(images.labels, classes, generator))
