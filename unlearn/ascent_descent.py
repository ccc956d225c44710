"""ascent_descent: ascend the forget set's loss in some epochs, descend the retain set's in all."""

from __future__ import annotations

from torch import nn

from lethe.flag_error import FlagError
from lethe.unlearn.dual_optimizer import DualOptimizer, forget_optimizer
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, WeightDecay


def check_ascent(model: nn.Module, data: ForgetData, *, unlearn_epochs: int, ascent_epochs: int) -> None:
    """Raise ValueError for more ascent epochs than epochs."""
    if ascent_epochs > unlearn_epochs:
        raise FlagError(
            "ascent_epochs",
            f"expected an integer from 1 to --unlearn_epochs {unlearn_epochs}, got {ascent_epochs}. Give "
            "fewer, or use --unlearn FT for none",
        )


@register(
    "ascent_descent",
    source="data-unlearning-bench, github.com/RoyRin/data-unlearning-bench",
    resolve=(check_ascent,),
    augments=("forget", "retain"),
    source_augments="nothing",
    parallel=True,
)
def ascent_descent(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    ascent_epochs: Epochs = 1,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 64,
    momentum: Momentum = 0.0,
    weight_decay: WeightDecay = 0.0,
    dual_optimizer: DualOptimizer | None = None,
) -> Unlearned:
    """Ascend the forget set's cross-entropy in the first epochs, descend the retain set's in all.

        epoch <= ascent_epochs:  theta <- theta + unlearn_lr grad CE(f_theta(x), y)        (x, y) in forget
        every epoch, after that: theta <- theta - unlearn_lr grad CE(f_theta(x), y)        (x, y) in retain

    by SGD in train mode, each a pass over the set.

    Departures: the source trains the caller's own model, has batches of 32 forget images and 64 retain
    images, and takes batch norm's statistics from each batch of forget (here: the running ones, which stay).
    One epoch of ascent and a learning rate of 1e-3 are ours: three epochs diverge on 5,000 images, in batches
    of 64.

    Flags:
        unlearn_epochs: passes over the retain set
        ascent_epochs: of these, how many begin with a pass over the forget set
        unlearn_lr: learning rate of SGD

    Raises FloatingPointError if it diverges.
    """
    student = copy_of(model)
    of_forget = forget_optimizer(student, dual_optimizer)
    climb = Pass("forget", data.forget.to(data.device), climb=True, keep_statistics=True, optimizer=of_forget)
    descend = Pass("retain", data.retain.to(data.device))
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)

    def plan(epoch: int) -> list[Pass]:
        return [climb, descend] if epoch < ascent_epochs else [descend]

    return fine_tune(student, data, "ascent_descent", plan, optimizer, unlearn_epochs, batch_size)
