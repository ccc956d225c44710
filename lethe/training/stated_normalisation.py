"""Find the normalisation of images in a model's weights, often a layer such as normalize.mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lethe.training.state_dicts import Unfit, listed

MEAN, DEVIATION = r"(new_|image_|img_|pixel_|_)?(mean|mu)", r"(new_|image_|img_|pixel_|_)?(std|sigma)"
MOST_CHANNELS = 4
LARGEST = 2.0  # of a mean or a deviation of pixels in [0, 1]
SAY_IT = "Say how its images are normalised: --normalize MEAN,...:STD,..."

Stated = tuple[tuple[float, ...], tuple[float, ...]]


def normalising_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that may be the mean or standard deviation of each channel."""
    return [
        name
        for name, value in weights.items()
        if value.numel() <= MOST_CHANNELS and _is(name, f"({MEAN}|{DEVIATION})")
    ]


def stated_normalisation(weights: Mapping[str, Tensor]) -> Stated | None:
    """Return each channel's mean and standard deviation in these weights (pixels in [0, 1]), or None.

    Raises Unfit if one of the two is missing, if there are several, and for values that pixels in [0, 1]
    can't have.
    """
    names = normalising_names(weights)
    if not names:
        return None
    means = [name for name in names if _is(name, MEAN)]
    deviations = [name for name in names if _is(name, DEVIATION)]
    if len(means) != 1 or len(deviations) != 1:
        raise Unfit(
            f"ones with a layer that normalises images ({listed(names)}), and not one mean and one "
            f"deviation. {SAY_IT}"
        )
    mean, deviation = (tuple(weights[name].flatten().tolist()) for name in (means[0], deviations[0]))
    if not all(abs(value) <= LARGEST for value in mean) or not all(
        0 < value <= LARGEST for value in deviation
    ):
        raise Unfit(f"ones whose {listed(names)} are no mean and deviation of pixels in [0, 1]. {SAY_IT}")
    return mean, deviation


def _is(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name.rpartition(".")[2]) is not None
