"""How images are normalised where a person, or a file of weights, asks for another way than by the training images' own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vision_data.image_set import Normalisation

AUTO, DATA, NONE = "auto", "data", "none"
EXPECTED = "auto, data, none or MEAN,...:STD,..., as 0.5,0.5,0.5:0.25,0.25,0.25"


def checked_normalisation(asked: str) -> str:
    """What --normalize asks for, in the one way that it is written: auto, data, none, or numbers without needless digits.

    Raises ValueError for anything else.
    """
    if asked.casefold() in (AUTO, DATA, NONE):
        return asked.casefold()
    means, colon, deviations = asked.partition(":")
    try:
        return spelled([float(value) for value in means.split(",")], [float(value) for value in deviations.split(",")])
    except ValueError as error:
        reason = f" ({error})" if colon and "expected" in str(error) else ""
        raise ValueError(f"--normalize: expected {EXPECTED}, got {asked!r}{reason}. Correct it") from error


def spelled(mean: Sequence[float], deviation: Sequence[float]) -> str:
    """Numbers as --normalize has them; none for 0 and 1. ValueError where they are no means and deviations."""
    if len(mean) != len(deviation) or not all(map(math.isfinite, (*mean, *deviation))) or min(deviation) <= 0:
        raise ValueError("expected as many deviations as means, all finite, and deviations > 0")
    if set(mean) == {0.0} and set(deviation) == {1.0}:
        return NONE
    return ":".join(",".join(f"{value:.6g}" for value in values) for values in (mean, deviation))


def normalisation_of(asked: str, own: Normalisation) -> Normalisation:
    """The normalisation that is asked for (data, none or numbers); `own` is the training images'. One number stands for all channels.

    Raises ValueError for another number of channels.
    """
    if asked == DATA:
        return own
    channels = len(own.mean)
    mean, deviation = ([0.0], [1.0]) if asked == NONE else ([float(value) for value in part.split(",")] for part in asked.split(":"))
    if len(mean) not in (1, channels):
        raise ValueError(f"--normalize: expected 1 or {channels} channels, got {len(mean)} ({asked}). Give one number for each channel")
    every = channels if len(mean) == 1 else 1
    return Normalisation(tuple(mean * every), tuple(deviation * every), own.white)


def in_words(asked: str, normalisation: Normalisation) -> str:
    """What is done to images, for a reader."""
    if asked == NONE:
        return "images are taken as pixels in [0, 1] (--normalize none)"
    mean, deviation = (", ".join(f"{value:.4g}" for value in values) for values in (normalisation.mean, normalisation.std))
    whose = "the training images' own mean and deviation" if asked == DATA else f"--normalize {asked}"
    return f"images are normalised by mean {mean} and deviation {deviation}, of pixels in [0, 1] ({whose})"
