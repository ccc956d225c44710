"""DELETE: learn the initial model's own predictions without the image's class."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lethe.unlearn.forget_and_retain import numbered
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum
from lethe.unlearn.srl import check_classes
from lethe.unlearn.teacher import Seen, Teacher


@register(
    "DELETE",
    "decoupled_distillation",
    source="Zhou et al. 2025, arXiv:2503.23751",
    resolve=(check_classes,),
    needs=("forget", "labels"),
    augments=("forget",),
    source_augments="",
    parallel=True,
)
def delete(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 20,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
) -> Unlearned:
    """Descend the divergence from the initial model's probabilities of the other classes, on forget alone.

        q_y = 0,  q_k = p_0k / (1 - p_0y) for k != y        p_0 = softmax(f_0(x)), y the image's label
        L = mean KL(q || softmax(f_theta(x)))               theta <- SGD(theta, grad L)

    The class gets probability 0, and all others keep their proportions, which random labels would ruin.

    Flags:
        unlearn_epochs: passes over the forget set; for a few hundred images raise them rather than the rate
        unlearn_lr: learning rate of SGD

    Raises ValueError for a single class, FloatingPointError if it diverges.

    Departure: batch norm keeps its running statistics, see NegGrad.
    """
    student = copy_of(model)
    images = numbered(data.forget.to(data.device))
    labels, teacher = data.forget.labels.to(data.device), Teacher(model, images, data)

    def loss(logits: Tensor, batch: Seen) -> Tensor:
        return divergence_without(logits, teacher(batch), labels[batch.positions])

    plan = [Pass("forget", images, loss, keep_statistics=True, numbered=True)]
    optimizer = sgd(student, unlearn_lr, momentum, 0.0)
    return fine_tune(student, data, "DELETE", lambda _: plan, optimizer, unlearn_epochs, batch_size)


def divergence_without(logits: Tensor, initial: Tensor, labels: Tensor) -> Tensor:
    """Return the mean KL(q || p) of logits (N, C) from q, softmax of the initial logits without the label."""
    own = labels[:, None]
    log_q = initial.scatter(1, own, -math.inf).log_softmax(1)
    log_ratio = (log_q - logits.log_softmax(1)).scatter(1, own, 0.0)  # 0 log 0 is 0
    return (log_q.exp() * log_ratio).sum(1).mean()
