"""The --normalize flag: parse it, format it, and build the `Normalisation` that it asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lethe.data.image_set import Normalisation
from lethe.flag_error import FlagError

AUTO, DATA, NONE = "auto", "data", "none"
EXPECTED = "auto, data, none or MEAN,...:STD,..., as 0.5,0.5,0.5:0.25,0.25,0.25"


def checked_normalisation(asked: str) -> str:
    """Return the canonical text of a --normalize value: auto, data, none, or numbers of six digits.

    Raises ValueError for anything else.
    """
    if asked.casefold() in (AUTO, DATA, NONE):
        return asked.casefold()
    means, colon, deviations = asked.partition(":")
    try:
        return spelled(
            [float(value) for value in means.split(",")], [float(value) for value in deviations.split(",")]
        )
    except ValueError as error:
        reason = f" ({error})" if colon and "expected" in str(error) else ""
        raise FlagError("normalize", f"expected {EXPECTED}, got {asked!r}{reason}. Correct it") from error


def spelled(mean: Sequence[float], deviation: Sequence[float]) -> str:
    """Format means and standard deviations for --normalize; "none" if all are 0 and 1.

    Raises ValueError for different lengths, numbers that are not finite, and deviations <= 0.
    """
    if len(mean) != len(deviation) or not all(map(math.isfinite, (*mean, *deviation))) or min(deviation) <= 0:
        raise ValueError("expected as many deviations as means, all finite, and deviations > 0")
    if set(mean) == {0.0} and set(deviation) == {1.0}:
        return NONE
    return ":".join(",".join(f"{value:.6g}" for value in values) for values in (mean, deviation))


def normalisation_of(asked: str, own: Normalisation) -> Normalisation:
    """Return the `Normalisation` of "data", "none" or numbers; `own` is that of the training images.

    A single number applies to all channels. Raises ValueError for another number of channels.
    """
    if asked == DATA:
        return own
    channels = len(own.mean)
    mean, deviation = (
        ([0.0], [1.0])
        if asked == NONE
        else ([float(value) for value in part.split(",")] for part in asked.split(":"))
    )
    if len(mean) not in (1, channels):
        raise FlagError(
            "normalize",
            f"expected 1 or {channels} channels, got {len(mean)} ({asked}). Give one number for each channel",
        )
    every = channels if len(mean) == 1 else 1
    return Normalisation(tuple(mean * every), tuple(deviation * every), own.white)


def in_words(asked: str, normalisation: Normalisation) -> str:
    """Describe a normalisation in a sentence."""
    if asked == NONE:
        return "images are taken as pixels in [0, 1] (--normalize none)"
    mean, deviation = (
        ", ".join(f"{value:.4g}" for value in values) for values in (normalisation.mean, normalisation.std)
    )
    whose = "the training images' own mean and deviation" if asked == DATA else f"--normalize {asked}"
    return f"images are normalised by mean {mean} and deviation {deviation}, of pixels in [0, 1] ({whose})"
