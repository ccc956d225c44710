"""dm_matching: learn the logits that a datamodel predicts of retrained models."""

from __future__ import annotations

from torch import nn

from lethe.unlearn import datamodel
from lethe.unlearn.forget_and_retain import logits_of
from lethe.unlearn.impl import ForgetData, Unlearned, register
from lethe.unlearn.matching import match
from lethe.unlearn.settings import RESOLVED, BatchSize, Count, Epochs, LearningRate, Positive, Share, Weight


@register(
    "dm_matching",
    source="Georgiev et al. 2024, arXiv:2410.23232; Park et al. 2023, arXiv:2303.14186",
    resolve=(datamodel.resolve,),
    augments=(),
    parallel=True,
)
def dm_matching(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 5,
    unlearn_lr: LearningRate = 5e-4,
    batch_size: BatchSize = 512,
    retain_multiplier: Weight = 3.0,
    forget_multiplier: Count = 1,
    decay: Share = 0.95,
    wd_lambda: Weight = 0.0,
    multiplier: Positive = RESOLVED,
    attribution_images: Count = 2000,
    sketch_size: Count = 4096,
    damping: Positive = 1.0,
) -> Unlearned:
    """Match the logits that a datamodel predicts for training without the forget set, by Adam.

        theta <- theta - unlearn_lr decay^epoch Adam(grad L)
        L = mean |f_theta(x) - t(x)|^2 + wd_lambda sum (theta - theta_0)^2
        t(x) = logits(x) of dm_direct

    oracle_matching without the oracles: the images, epochs and batches are as there.

    Flags:
        unlearn_epochs: passes over the images
        unlearn_lr: learning rate of Adam in the first epoch
        batch_size: images a step (fewer, e.g. 64, for a forget set of hundreds); where batch norm would be
            left with one image, a few more
        retain_multiplier: retain images for each forget image, drawn once; all if there are fewer
        forget_multiplier: how often each forget image is in the set
        decay: factor of the learning rate after each epoch
        wd_lambda: weight of the squared distance to the initial weights
        multiplier: factor of the scores; by default 1, and 20 where a whole class is forgotten
        attribution_images: random retain images for the scores; all if there are fewer
        sketch_size: numbers that a gradient is reduced to
        damping: addition to H's diagonal, in units of the mean p_y (1 - p_y) |phi|^2

    Raises FloatingPointError if the scores or a loss are not finite.

    Departures: those of dm_direct.
    """
    predicted = datamodel.without_the_forget_set(
        model, data, multiplier, attribution_images, sketch_size, damping
    )
    return match(
        model,
        data,
        "dm_matching",
        lambda images: logits_of(predicted, images, data.device),
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        retain_multiplier=retain_multiplier,
        forget_multiplier=forget_multiplier,
        decay=decay,
        wd_lambda=wd_lambda,
    )
