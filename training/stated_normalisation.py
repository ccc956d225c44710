"""How a model's images are to be normalised, where its weights say it: published code often keeps that in a layer, as normalize.mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from training.state_dicts import Unfit, listed

MEAN, DEVIATION = r"(new_|image_|img_|pixel_|_)?(mean|mu)", r"(new_|image_|img_|pixel_|_)?(std|sigma)"
MOST_CHANNELS = 4
LARGEST = 2.0  # of a mean or a deviation of pixels in [0, 1]
SAY_IT = "Say how its images are normalised: --normalize MEAN,...:STD,..."

Stated = tuple[tuple[float, ...], tuple[float, ...]]


def normalising_names(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of what may be a mean or a deviation of pixels, a number a channel."""
    return [name for name, value in weights.items() if value.numel() <= MOST_CHANNELS and _is(name, f"({MEAN}|{DEVIATION})")]


def stated_normalisation(weights: Mapping[str, Tensor]) -> Stated | None:
    """Mean and standard deviation of each channel that are among these weights, in units of pixels in [0, 1]; None where there are none.

    Raises Unfit where one of the two is missing, there are several, or they are no mean and deviation of such pixels.
    """
    names = normalising_names(weights)
    if not names:
        return None
    means, deviations = ([name for name in names if _is(name, pattern)] for pattern in (MEAN, DEVIATION))
    if len(means) != 1 or len(deviations) != 1:
        raise Unfit(f"ones with a layer that normalises images ({listed(names)}), and not one mean and one deviation. {SAY_IT}")
    mean, deviation = (tuple(weights[name].flatten().tolist()) for name in (means[0], deviations[0]))
    if not all(abs(value) <= LARGEST for value in mean) or not all(0 < value <= LARGEST for value in deviation):
        raise Unfit(f"ones whose {listed(names)} are no mean and deviation of pixels in [0, 1]. {SAY_IT}")
    return mean, deviation


def _is(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name.rpartition(".")[2]) is not None
