"""NegGrad: ascend the loss of the forget set."""

from __future__ import annotations

from torch import nn

from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, WeightDecay


@register(
    "NegGrad",
    "GA",
    "ascent_forget",
    source="Golatkar et al. 2020, arXiv:1911.04933",
    needs=("forget", "labels"),
    augments=("forget",),
    source_augments="crop and flip in every loader",
    parallel=True,
)
def neg_grad(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 5,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
) -> Unlearned:
    """Ascend the cross-entropy of the forget set.

        theta <- theta + unlearn_lr grad CE(f_theta(x), y)        (x, y) in forget

    by SGD in train mode; an epoch is a pass over forget. The cross-entropy has no upper bound: with more
    epochs or a larger learning rate the model forgets the retained classes too. The history has the forget
    set's loss. In five epochs of few batches the loss hardly changes: raise --unlearn_lr there.

    Departures: batch norm keeps its running statistics; in the source they turn into those of the forget set.
    The optimiser is that of Fan et al.'s code. data-unlearning-bench's ascent_forget is SGD with momentum 0,
    weight decay 0 and batches of 64, at rates from 1e-5 to 5e-2: give those.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of SGD

    Raises FloatingPointError if it diverges beyond finite numbers.
    """
    student = copy_of(model)
    passes = [Pass("forget", data.forget.to(data.device), climb=True, keep_statistics=True)]
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    return fine_tune(student, data, "NegGrad", lambda _: passes, optimizer, unlearn_epochs, batch_size)
