"""What is published, encoded image by encoded image, and what their headers say before anything is decoded."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from vision_data.encoded_image import EncodedImage, Header, header_of

LARGEST_SIDE, STEP = 224, 32
AT_ONCE = 256  # images
NAMED = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """A dataset as it is published: encoded images, part by part.

    `key` changes when the images do. `parts` maps train, and test where there is one, to what gives the images in their order, each
    time it is called. `class_names` are those of the data if None. `own` images are the person's to correct: the same file under two
    classes is refused there, and warned of in what others published.
    """

    name: str
    key: str
    parts: dict[str, Callable[[], Iterable[EncodedImage]]]
    class_names: tuple[str, ...] | None = None
    own: bool = False


@dataclass(frozen=True)
class Scan:
    """The common shape, the classes' names, each part's labels as numbers, and what is worth a warning."""

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    labels: dict[str, list[int]]
    remarks: list[str]


def scan(published: Published) -> Scan:
    """Read every header. Raises ValueError that names the images and the classes that are wrong."""
    headers: dict[str, list[Header]] = {}
    labels: dict[str, list[str]] = {}
    seen, bad = Seen(), []
    for part, images in published.parts.items():
        headers[part], labels[part] = [], []
        for image, header in in_parallel(header_of, images(), f"{published.name}: looking at the {part} images"):
            if isinstance(header, str):
                bad.append(f"{image.name} ({header})")
                continue
            headers[part].append(header)
            labels[part].append(image.label)
            seen.add(image, header.digest)
    refuse_unreadable(published.name, bad)
    if not headers["train"]:
        raise ValueError(f"{published.name}: expected training images, and there are none. Put images there")
    names = published.class_names or tuple(sorted(set(labels["train"])))
    _check_classes(published.name, labels, names)
    numbers = {name: number for number, name in enumerate(names)}
    numbered = {part: [numbers[label] for label in found] for part, found in labels.items() if found}
    return Scan(common_shape(headers["train"]), names, numbered, seen.remarks(published.name, published.own))


def _check_classes(name: str, labels: dict[str, list[str]], names: tuple[str, ...]) -> None:
    """ValueError for a training image of no class that there is, and for a class that only another part has."""
    for part, known in {part: names if part == "train" else labels["train"] for part in labels}.items():
        strangers = sorted(set(labels[part]) - set(known))
        if strangers:
            whose = "the dataset's classes" if part == "train" else "the classes of the training images"
            raise ValueError(
                f"{name}: expected {whose} in the {part} part, got {_some(strangers)} too. Remove it there, or add it to train"
            )


class Seen:
    """Which contents have been seen, under which name and class."""

    def __init__(self) -> None:
        self.first: dict[bytes, tuple[str, str]] = {}
        self.contradictions: list[str] = []
        self.repetitions: list[str] = []

    def add(self, image: EncodedImage, digest: bytes) -> None:
        name, label = self.first.setdefault(digest, (image.name, image.label))
        if label != image.label:
            self.contradictions.append(f"{name} ({label}) and {image.name} ({image.label})")
        elif name != image.name:
            self.repetitions.append(f"{name} and {image.name}")

    def remarks(self, dataset: str, own: bool) -> list[str]:
        """What is worth a warning. ValueError where a person's own images contradict each other."""
        if self.contradictions and own:
            raise ValueError(
                f"{dataset}: expected one class for each image, got the same file under two: {_some(self.contradictions)}. Remove one"
            )
        remarks = []
        if self.contradictions:
            remarks.append(f"{dataset}: the same image has two classes, as published: {_some(self.contradictions)}")
        if self.repetitions:
            remarks.append(f"{dataset}: the same image is there twice: {_some(self.repetitions)}. To forget one leaves the other")
        return remarks


def common_shape(headers: Iterable[Header]) -> tuple[int, int, int]:
    """(channels, height, width) for images of these headers, as `decoded` says."""
    headers = list(headers)
    channels = 1 if all(header.grey for header in headers) else 3
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(max(size) for size in sizes) <= LARGEST_SIDE:
        return channels, *sizes.pop()
    side = min(LARGEST_SIDE, int(statistics.median(min(header.height, header.width) for header in headers)))
    side = side // STEP * STEP or side
    return channels, side, side


def in_parallel(
    function: Callable[[EncodedImage], T], images: Iterable[EncodedImage], label: str, done: int = 0, total: int | None = None
) -> Iterator[tuple[EncodedImage, T]]:
    """Each image with what the function says of it, in order, worked on by as many threads as there are cores."""
    images = iter(images)
    bar = tqdm(desc=label, initial=done, total=total, delay=2, leave=False, dynamic_ncols=True, unit=" images")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(images, AT_ONCE)):
            yield from zip(some, pool.map(function, some), strict=True)
            bar.update(len(some))


def refuse_unreadable(dataset: str, bad: list[str]) -> None:
    """ValueError that names the first of the images that can't be read, if there are any."""
    if bad:
        raise ValueError(f"{dataset}: {len(bad)} of the images can't be read: {_some(bad)}. Replace or remove them")


def _some(things: list[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more
