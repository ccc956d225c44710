"""SSD: dampen the weights that are more important for the forget set than for the training set."""

from __future__ import annotations

from torch import nn

from lethe.unlearn.dampening import dampen, dampened_facts
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.importance import over_batches
from lethe.unlearn.settings import BatchSize, Positive

NO_WEIGHT = (
    "no weight is selection_alpha times as important to the forget set as to training. Lower "
    "--selection_alpha"
)


@register("SSD", source="Foster et al. 2024, arXiv:2308.07707", augments=(), source_augments="nothing")
def ssd(
    model: nn.Module,
    data: ForgetData,
    *,
    selection_alpha: Positive = 10.0,
    dampening: Positive = 1.0,
    batch_size: BatchSize = 64,
) -> Unlearned:
    """Shrink every weight that is selection_alpha times as important for forget as for the training set.

        w <- w min(dampening F_train / F_forget, 1)    where F_forget > selection_alpha F_train
        F = mean over batches of (gradient of the batch's mean cross-entropy)^2    eval mode

    The training set is forget and retain. F depends on the size of the batches, about as 1 / size, so all
    have one size: batch_size, or that of a smaller forget set; the images of a shorter last batch are left
    out. `facts` has the count of dampened weights. On images drawn from all classes the two importances are
    about equal, and the count may be 0: then `facts["unchanged"]` has a remedy.

    Flags:
        selection_alpha: least ratio of a dampened weight's importances, forget to training set
        dampening: factor of the ratio of the importances
        batch_size: images whose mean gradient is squared; as many as are forgotten, if they are fewer

    Departure: in the source a short last batch counts as much as a whole one, which makes a small forget set
    look important and can destroy the model; and there a loader's global state shuffles, here the seed.
    """
    student = copy_of(model)
    size = min(batch_size, len(data.forget))
    train = over_batches(student, data.train, size, data, "SSD", "train")
    forget = over_batches(student, data.forget, size, data, "SSD", "forget")
    dampened = dampen(student, forget, train, alpha=selection_alpha, dampening=dampening)
    return Unlearned(student, facts=dampened_facts(student, dampened, NO_WEIGHT))
