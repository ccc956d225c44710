"""The most and the least memorised images of each class, as rows of thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lethe.evaluation.memorisation import Memorisation
from lethe.report.best_known import pixels
from lethe.report.run_facts import ForgetImages
from lethe.report.svg import Picture, image, text

SHOWN = 5  # images of each end
CLASSES = 20  # of one picture
SIDE, STEP, ROW = 25.0, 28.0, 40.0  # units: a thumbnail, from one to the next, from one class to the next
NAMES, GAP, HEAD = 60.0, 14.0, 16.0
LONGEST_NAME = 9  # letters beside a row


def memorised_pictures(
    found: Memorisation, images: ForgetImages, labels: Tensor, names: Sequence[str]
) -> list[Picture]:
    """Return a picture for every 20 classes. found, images, labels (N,): of the same N images.

    Under each image stands its score. Classes without images are left out.
    """
    classes = labels.unique().tolist()
    parts = [classes[start : start + CLASSES] for start in range(0, len(classes), CLASSES)]
    return [_picture(number, part, found, images, labels, names) for number, part in enumerate(parts, 1)]


def ends_of(found: Memorisation, labels: Tensor, label: int) -> tuple[list[int], list[int]]:
    """Return the positions of a class's most memorised images, and of its least memorised, the ends first.

    A class of few images has each image once: the most memorised come first.
    """
    rows = (labels == label).nonzero().flatten()
    ordered = rows[found.ranks[rows].argsort(descending=True)].tolist()
    most = ordered[:SHOWN]
    return most, ordered[len(most) :][::-1][:SHOWN]


def _picture(
    number: int,
    classes: Sequence[int],
    found: Memorisation,
    images: ForgetImages,
    labels: Tensor,
    names: Sequence[str],
) -> Picture:
    right = NAMES + SHOWN * STEP + GAP
    parts = [
        text(NAMES, HEAD - 6, "most memorised", anchor="start", kind="tick"),
        text(right, HEAD - 6, "least memorised", anchor="start", kind="tick"),
    ]
    words = []
    for place, label in enumerate(classes):
        top = HEAD + place * ROW
        parts.append(text(NAMES - 6, top + SIDE / 2 + 4, _short(names[label]), anchor="end"))
        most, least = ends_of(found, labels, label)
        parts += _row(most, NAMES, top, found, images)
        parts += _row(least, right, top, found, images)
        words.append(f"{names[label]} {float(found.scores[most[0]]):.2f}")
    alt = f"The most and the least memorised images of each class. Highest scores: {', '.join(words)}."
    note = (
        "Memorisation is the share of models trained with an image that get it right, less that of models "
        f"trained without it: {found.shadows} models, each trained on {100 * found.share:.0f} % of the "
        "images. "
        f"The standard error is at most {float(found.standard_errors.max()):.2f}."
    )
    title = "The most and the least memorised images of each class"
    return Picture(f"memorised_{number}", title, alt, parts, HEAD + len(classes) * ROW, note=note)


def _row(
    rows: Sequence[int], left: float, top: float, found: Memorisation, images: ForgetImages
) -> list[str]:
    parts = []
    for place, row in enumerate(rows):
        x = left + place * STEP
        thumbnail = pixels(images.images[row : row + 1][0].cpu().numpy(), images.white)
        parts.append(image(x, top, SIDE, SIDE, thumbnail))
        parts.append(text(x + SIDE / 2, top + SIDE + 10, f"{float(found.scores[row]):.2f}", kind="tick"))
    return parts


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
