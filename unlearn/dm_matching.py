"""dm_matching: learn what a datamodel predicts that retrained models would say."""

from __future__ import annotations

from typing import Any

from torch import nn

from unlearn import datamodel, matching
from unlearn.forget_and_retain import logits_of
from unlearn.impl import ForgetData, Unlearned, copy_of, register

OF_DATAMODEL = ("multiplier", "attribution_images", "sketch_size", "damping")


def check(model: nn.Module, data: ForgetData, **flags: Any) -> dict[str, float]:
    """The multiplier; ValueError for flags that make no sense."""
    found = datamodel.check(data, **{name: flags[name] for name in OF_DATAMODEL})
    others = {name: value for name, value in flags.items() if name not in OF_DATAMODEL}
    matching.check(model=model, data=data, **others)
    return found


@register("dm_matching", source="Georgiev et al. 2024, arXiv:2410.23232; Park et al. 2023, arXiv:2303.14186", resolve=check, augments=())
def dm_matching(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: int = 5,
    unlearn_lr: float = 5e-4,
    batch_size: int = 512,
    retain_multiplier: float = 3.0,
    forget_multiplier: int = 1,
    decay: float = 0.95,
    wd_lambda: float = 0.0,
    multiplier: float | None = None,
    attribution_images: int = 2000,
    sketch_size: int = 4096,
    damping: float = 1.0,
) -> Unlearned:
    """Match the logits that a datamodel predicts for training without the forget set, by Adam.

        theta <- theta - unlearn_lr decay^epoch Adam(grad(mean |f_theta(x) - t(x)|^2 + wd_lambda sum (theta - theta_0)^2))
        t(x) = logits(x) of dm_direct

    oracle_matching without the oracles: the images, epochs and batches are as there.

    Flags:
        unlearn_epochs: passes over the images
        unlearn_lr: learning rate of Adam in the first epoch
        batch_size: images a step (fewer, e.g. 64, for a forget set of hundreds); where batch norm would be left with one image, a few more
        retain_multiplier: retain images for each forget image, drawn once; all if there are fewer
        forget_multiplier: how often each forget image is in the set
        decay: what the learning rate is multiplied by after each epoch
        wd_lambda: weight of the squared distance to the initial weights
        multiplier: what the scores are multiplied by; by default 1, and 20 where a whole class is forgotten
        attribution_images: retain images that take part in the scores, drawn at random; all if there are fewer
        sketch_size: numbers that a gradient is reduced to
        damping: what is added to H, in units of the mean p_y (1 - p_y) |phi|^2

    Raises ValueError for flags that make no sense, FloatingPointError where the scores, or a loss, are not finite.

    Departures: those of dm_direct.
    """
    common = {"unlearn_epochs": unlearn_epochs, "unlearn_lr": unlearn_lr, "batch_size": batch_size, "decay": decay, "wd_lambda": wd_lambda}
    of_images = {"retain_multiplier": retain_multiplier, "forget_multiplier": forget_multiplier}
    scores: dict[str, Any] = {
        "multiplier": multiplier,
        "attribution_images": attribution_images,
        "sketch_size": sketch_size,
        "damping": damping,
    }
    scores |= check(model, data, **common, **of_images, **scores)
    images = matching.images_to_match(data, "dm_matching", retain_multiplier, forget_multiplier)
    predicted = datamodel.without_the_forget_set(model, data, **scores)
    targets = logits_of(predicted, images, data.device)
    return matching.match(copy_of(model), data, "dm_matching", images, targets, **common)  # type: ignore[arg-type]
