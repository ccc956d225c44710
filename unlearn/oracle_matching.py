"""oracle_matching: learn the mean logits of retrained models."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.unlearn.forget_and_retain import logits_of
from lethe.unlearn.impl import ForgetData, Unlearned, register
from lethe.unlearn.matching import match
from lethe.unlearn.settings import BatchSize, Count, Epochs, LearningRate, Share, Weight


def check_oracles(model: nn.Module, data: ForgetData, *, oracle_count: int) -> None:
    """Raise FileNotFoundError, with the command that makes them, if there are too few oracles."""
    if data.oracles is not None:
        data.oracles.apart(data.oracles.seeds(oracle_count))


@register(
    "oracle_matching",
    needs=("forget", "retain", "oracles"),
    source="Georgiev et al. 2024, arXiv:2410.23232",
    resolve=(check_oracles,),
    augments=(),
    parallel=True,
)
def oracle_matching(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 5,
    unlearn_lr: LearningRate = 5e-4,
    batch_size: BatchSize = 512,
    oracle_count: Count = 10,
    retain_multiplier: Weight = 3.0,
    forget_multiplier: Count = 1,
    decay: Share = 0.95,
    wd_lambda: Weight = 0.0,
) -> Unlearned:
    """Match the oracles' mean logits on the forget images and on some retain images, by Adam.

        theta <- theta - unlearn_lr decay^epoch Adam(grad L)
        L = mean |f_theta(x) - t(x)|^2 + wd_lambda sum (theta - theta_0)^2
        t(x) = mean over the oracles of their logits; the mean in L is over images and classes

    Epochs and batches are for thousands of forget images: a class of digits is one step an epoch, too little
    to forget it.

    It needs the retrained models that unlearning is meant to avoid: it bounds what matching can reach. None
    of the oracles is in the reference set that the result is compared with.

    Flags:
        unlearn_epochs: passes over the images
        unlearn_lr: learning rate of Adam in the first epoch
        batch_size: images a step (fewer, e.g. 64, for a forget set of hundreds); where batch norm would be
            left with one image, a few more
        oracle_count: oracles whose logits are averaged, of the seeds after those of the reference set
        retain_multiplier: retain images for each forget image, drawn once; all if there are fewer
        forget_multiplier: how often each forget image is in the set
        decay: factor of the learning rate after each epoch
        wd_lambda: weight of the squared distance to the initial weights

    Raises ValueError if the data has no `oracles`; FileNotFoundError, with the command that makes them, if
    there are too few; FloatingPointError as soon as a loss is not finite.
    """
    if data.oracles is None:
        raise ValueError("oracle_matching: expected oracles, got none. Give ForgetData `oracles`")
    oracles, seeds = data.oracles, data.oracles.seeds(oracle_count)
    done = match(
        model,
        data,
        "oracle_matching",
        lambda images: mean_logits(oracles.apart(seeds), images, data.device),
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        retain_multiplier=retain_multiplier,
        forget_multiplier=forget_multiplier,
        decay=decay,
        wd_lambda=wd_lambda,
    )
    done.facts["oracles_used"] = f"seeds {seeds[0]} to {seeds[-1]}"
    return done


def mean_logits(models: Iterable[nn.Module], images: ImageSet, device: torch.device) -> Tensor:
    """Return the models' mean logits (N, classes), in the order of the images; holds one model at a time."""
    count, total = 0, torch.zeros(())
    for model in models:
        count, total = count + 1, logits_of(model.to(device), images, device) + total.to(device)
    return total / count
