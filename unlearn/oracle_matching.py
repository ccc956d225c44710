"""oracle_matching: learn what retrained models say."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unlearn import matching
from unlearn.forget_and_retain import logits_of
from unlearn.impl import ForgetData, Unlearned, copy_of, register
from vision_data import ImageSet


def check(model: nn.Module, data: ForgetData, *, oracle_count: int, **flags: int | float) -> dict[str, int]:
    """ValueError for flags that make no sense, FileNotFoundError, with the command that makes them, where there are too few oracles."""
    matching.check(model=model, data=data, **flags)  # type: ignore[arg-type]
    if oracle_count < 1:
        raise ValueError(f"--oracle_count: expected an integer >= 1, got {oracle_count}. Give at least 1")
    if data.oracles is not None:
        data.oracles.apart(data.oracles.seeds(oracle_count))
    return {}


@register("oracle_matching", needs=("oracles",), source="Georgiev et al. 2024, arXiv:2410.23232", resolve=check, augments=())
def oracle_matching(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: int = 5,
    unlearn_lr: float = 5e-4,
    batch_size: int = 512,
    oracle_count: int = 10,
    retain_multiplier: float = 3.0,
    forget_multiplier: int = 1,
    decay: float = 0.95,
    wd_lambda: float = 0.0,
) -> Unlearned:
    """Match the oracles' mean logits on the forget images and on some retain images, by Adam.

        theta <- theta - unlearn_lr decay^epoch Adam(grad(mean |f_theta(x) - t(x)|^2 + wd_lambda sum (theta - theta_0)^2))
        t(x) = mean over the oracles of their logits; the first mean is over images and classes

    Epochs and batches are for thousands of forget images: a class of digits is one step an epoch, too little to forget it.

    It needs the retrained models that unlearning is to do without: it is the bound of what matching can reach, and none of the
    oracles is one that the result is judged by.

    Flags:
        unlearn_epochs: passes over the images
        unlearn_lr: learning rate of Adam in the first epoch
        batch_size: images a step (fewer, e.g. 64, for a forget set of hundreds); where batch norm would be left with one image, a few more
        oracle_count: oracles whose logits are averaged, of the seeds after those that the result is judged by
        retain_multiplier: retain images for each forget image, drawn once; all if there are fewer
        forget_multiplier: how often each forget image is in the set
        decay: what the learning rate is multiplied by after each epoch
        wd_lambda: weight of the squared distance to the initial weights

    Raises ValueError for flags that make no sense and where the data has no `oracles`, FileNotFoundError, with the command that
    makes them, where there are too few, and FloatingPointError as soon as a loss is not finite.
    """
    flags = {"unlearn_epochs": unlearn_epochs, "unlearn_lr": unlearn_lr, "batch_size": batch_size}
    more = {"decay": decay, "wd_lambda": wd_lambda}
    of_images = {"retain_multiplier": retain_multiplier, "forget_multiplier": forget_multiplier}
    check(model, data, oracle_count=oracle_count, **flags, **more, **of_images)
    if data.oracles is None:
        raise ValueError("oracle_matching: expected oracles, got none. Give ForgetData `oracles`")
    images = matching.images_to_match(data, "oracle_matching", retain_multiplier, forget_multiplier)
    seeds = data.oracles.seeds(oracle_count)
    targets = mean_logits(data.oracles.apart(seeds), images, data.device)
    result = matching.match(copy_of(model), data, "oracle_matching", images, targets, **flags, **more)  # type: ignore[arg-type]
    return matching.with_facts(result, oracles_used=f"seeds {seeds[0]} to {seeds[-1]}")


def mean_logits(models: Iterable[nn.Module], images: ImageSet, device: torch.device) -> Tensor:
    """The mean over the models of their logits (N, classes), in the order of the images; one model is held at a time."""
    count, total = 0, torch.zeros(())
    for model in models:
        count, total = count + 1, logits_of(model.to(device), images, device) + total.to(device)
    return total / count
