"""Whether a mask tells forgotten images of a class that stays from the rest of that class."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.evaluation import ModelOutputs

LEAST_DIFFERENCE = 1.0  # points that the forgotten images have to lose more than others of their classes
MOST_LOST = 1.0  # points that the others may lose
CHANCE = 2.0  # standard errors; a smaller difference may be chance


def not_singled_out(before: ModelOutputs, after: ModelOutputs) -> str:
    """Return in words that the rest of their classes lost as the forgotten images did; "" if it did not.

    A loss is the percentage of images that are predicted right before, minus that after. The rest are the
    retained images, and the test images, of the classes of which some images are forgotten and some stay.
    Forgotten images are singled out if they lost at least 1 point more than either, and neither lost more
    than 1 point, both beyond chance. "" too where only whole classes are forgotten.
    """
    classes = _classes_that_stay(before)
    if not len(classes):
        return ""
    forgotten = _lost(before, after, "forget", classes)
    rest = {
        "retained": _lost(before, after, "retain", classes),
        "test": _lost(before, after, "test", classes),
    }
    others = {name: lost for name, lost in rest.items() if len(lost)}
    if all(_is_spared(lost) and _differs(forgotten, lost) for lost in others.values()):
        return ""
    shown = [f"{lost.mean():.2f} ({name})" for name, lost in others.items()]
    return (
        f"did not single the images out: those to forget lost {forgotten.mean():.2f} points, other images of "
        f"their classes {' and '.join(shown)}. A mask serves classes, not single images. To forget these, "
        "retrain, or choose a method that trains"
    )


def _classes_that_stay(outputs: ModelOutputs) -> Tensor:
    classes = outputs.forget.labels.unique()
    gone = torch.tensor(outputs.forget_classes, dtype=classes.dtype)
    return classes[~torch.isin(classes, gone)]


def _lost(before: ModelOutputs, after: ModelOutputs, name: str, classes: Tensor) -> Tensor:
    """Return of each image of these classes (N,): 100 if it became wrong, -100 if it became right, else 0."""
    ours, theirs = before.sets[name], after.sets[name]
    known, still_known = (100 * outputs.correct.double() for outputs in (ours, theirs))
    return (known - still_known)[torch.isin(ours.labels, classes)]


def _is_spared(lost: Tensor) -> bool:
    error = lost.std(correction=0) / len(lost) ** 0.5
    return bool(lost.mean() - CHANCE * error <= MOST_LOST)


def _differs(forgotten: Tensor, others: Tensor) -> bool:
    """Whether the forgotten images lost more: by enough, and by more than a random division of both would."""
    difference = forgotten.mean() - others.mean()
    spread = torch.cat([forgotten, others]).std(correction=0)
    error = spread * (1 / len(forgotten) + 1 / len(others)) ** 0.5
    return bool(difference >= LEAST_DIFFERENCE and difference > CHANCE * error)
