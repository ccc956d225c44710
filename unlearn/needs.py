"""What a method needs beside the initial model: images, labels, other models, records of the training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from lethe.data import ImageSet

Need = Literal["forget", "retain", "labels", "validation", "updates", "checkpoints", "ideal", "oracles"]

# The images to forget and those to retain, and the labels of those of the two that are needed.
IMAGES_WITH_LABELS: tuple[Need, ...] = ("forget", "retain", "labels")
NEEDS: dict[Need, str] = {
    "forget": "forget images",
    "retain": "retain images",
    "labels": "labels",
    "validation": "validation images",
    "updates": "training log",
    "checkpoints": "checkpoints",
    "ideal": "ideal model",
    "oracles": "oracles",
}
"""The words for each need, in the order of a table."""


def checked_needs(needs: Collection[str]) -> tuple[Need, ...]:
    """Return the needs as a tuple. Raises ValueError for anything but a collection of known names."""
    known = [need for need in NEEDS if need in needs]
    unknown = [needs] if isinstance(needs, str) else [need for need in needs if need not in NEEDS]
    if unknown:
        raise ValueError(
            f"needs: expected some of {', '.join(NEEDS)}, got {unknown[0]!r}. Name the right ones"
        )
    return tuple(known)


def check_images(needs: Collection[str], forget: ImageSet, retain: ImageSet) -> None:
    """Raise ValueError for a set without an image that is needed."""
    for name, images in (("forget", forget), ("retain", retain)):
        if name in needs and not len(images):
            raise ValueError(
                f"the {name} set: expected at least one image, got none. Change the forget request, or use a "
                f"method that needs no {name} image"
            )
