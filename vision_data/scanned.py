"""What is published, encoded image by encoded image, and what their headers say before anything is decoded."""

from __future__ import annotations

import hashlib
import itertools
import os
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tqdm import tqdm

from vision_data.encoded_image import EncodedImage, Header, header_of, pixels_of
from vision_data.reading import AS_THEY_ARE, Reading

LARGEST_SIDE, STEP = 224, 32
AT_ONCE = 256  # images
AT_FIRST = 8  # of which one is mostly in colour, where any is
BYTES_AT_ONCE = 256_000_000  # of images that are held in memory
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
    reading: Reading | None = None

    def read_as(self, reading: Reading) -> Published:
        """The same images, read as a person wants them: what comes of it is known by another key, unless that is the usual way."""
        unusual = [reading.channels, reading.duplicates] if (reading.channels, reading.duplicates) != (None, "keep") else []
        key = hashlib.sha256(f"{self.key}\0{unusual}".encode()).hexdigest() if unusual else self.key
        return replace(self, key=key, reading=reading)


@dataclass(frozen=True)
class Scan:
    """The common shape, the classes' names, each part's labels as numbers, what is worth a warning, and which images of each part are
    left out."""

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    labels: dict[str, list[int]]
    remarks: list[str]
    dropped: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """What is known of an image that has been looked at: its name and class, and its header."""

    name: str
    label: str
    header: Header


def scan(published: Published) -> Scan:
    """Read every header. Raises ValueError that names the images and the classes that are wrong."""
    found: dict[str, list[Looked]] = {}
    bad = []
    for part, images in published.parts.items():
        found[part] = []
        for image, header in in_parallel(header_of, images(), f"{published.name}: looking at the {part} images"):
            if isinstance(header, str):
                bad.append(f"{image.name} ({header})")
            else:
                found[part].append(Looked(image.name, image.label, header))
    refuse_unreadable(published.name, bad)
    seen = Seen()
    for looked in itertools.chain(*found.values()):
        seen.add(looked)
    reading = published.reading or AS_THEY_ARE
    dropped = _repeated(found, seen) if reading.duplicates == "drop" else {}
    remarks = _told_dropped(published.name, dropped) if dropped else seen.remarks(published.name, published.own)
    kept = {part: [one for row, one in enumerate(images) if row not in dropped.get(part, ())] for part, images in found.items()}
    headers = [image.header for image in kept["train"]]
    if not headers:
        raise ValueError(f"{published.name}: expected training images, and there are none. Put images there")
    labels = {part: [image.label for image in images] for part, images in kept.items()}
    names = published.class_names or tuple(sorted(set(labels["train"])))
    _check_classes(published.name, labels, names)
    numbers = {name: number for number, name in enumerate(names)}
    numbered = {part: [numbers[label] for label in labels_of] for part, labels_of in labels.items() if labels_of}
    channels, height, width = common_shape(headers)
    if published.reading is not None:
        channels, told = _channels(published, channels, (height, width))
        remarks += told
    return Scan((channels, height, width), names, numbered, remarks, {part: sorted(rows) for part, rows in dropped.items()})


def _repeated(found: Mapping[str, list[Looked]], seen: Seen) -> dict[str, set[int]]:
    """The rows of each part whose file is under two classes, or was there before."""
    dropped: dict[str, set[int]] = {}
    known: set[bytes] = set()
    for part, images in found.items():
        for row, image in enumerate(images):
            digest = image.header.digest
            if digest in known or len(seen.classes[digest]) > 1:
                dropped.setdefault(part, set()).add(row)
            known.add(digest)
    return dropped


def _told_dropped(name: str, dropped: Mapping[str, set[int]]) -> list[str]:
    counts = " and ".join(f"{len(rows)} of the {part} images" for part, rows in dropped.items())
    return [f"{name}: left out {counts}: of one file under two classes all, of one that is there twice all but the first"]


def _channels(published: Published, by_headers: int, size: tuple[int, int]) -> tuple[int, list[str]]:
    """How many channels are read, and what to say of it: one too where every training image is grey, however it is stored."""
    asked = published.reading.channels if published.reading is not None else None
    if asked is not None or by_headers == 1:
        return asked or by_headers, []
    if not _all_grey(published, size):
        return by_headers, []
    return 1, [f"{published.name}: every training image is grey, stored as RGB: one channel is read. --image_channels 3 reads three"]


def _all_grey(published: Published, size: tuple[int, int]) -> bool:
    """Whether red, green and blue are equal in every pixel of every training image. The first in colour ends the search."""

    def is_grey(image: EncodedImage) -> bool:
        pixels = pixels_of(image, (3, *size))
        return isinstance(pixels, str) or bool((pixels == pixels[:1]).all())

    first = itertools.islice(published.parts["train"](), AT_FIRST)
    if not all(map(is_grey, first)):
        return False
    looked_at = in_parallel(is_grey, published.parts["train"](), f"{published.name}: looking for colour")
    return all(grey for _, grey in looked_at)


def without(images: Iterable[EncodedImage], rows: Collection[int]) -> Iterable[EncodedImage]:
    """The images but those of these rows."""
    rows = set(rows)
    return (image for row, image in enumerate(images) if row not in rows)


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
        self.classes: dict[bytes, set[str]] = {}
        self.contradictions: list[str] = []
        self.repetitions: list[str] = []

    def add(self, image: Looked) -> None:
        digest = image.header.digest
        self.classes.setdefault(digest, set()).add(image.label)
        name, label = self.first.setdefault(digest, (image.name, image.label))
        if label != image.label:
            self.contradictions.append(f"{name} ({label}) and {image.name} ({image.label})")
        elif name != image.name:
            self.repetitions.append(f"{name} and {image.name}")

    def remarks(self, dataset: str, own: bool) -> list[str]:
        """What is worth a warning. ValueError where a person's own images contradict each other."""
        if self.contradictions and own:
            raise ValueError(
                f"{dataset}: expected one class for each image, got the same file under two: {_some(self.contradictions)}. "
                "Remove one of each two, or leave out both, and all repetitions, by --duplicates drop"
            )
        remarks = []
        way_out = ", unless --duplicates drop leaves it out" if own else ""
        if self.contradictions:
            remarks.append(f"{dataset}: the same image has two classes, as published: {_some(self.contradictions)}")
        if self.repetitions:
            remarks.append(f"{dataset}: the same image is there twice: {_some(self.repetitions)}. To forget one leaves the other{way_out}")
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
        while some := _next_of(images):
            yield from zip(some, pool.map(function, some), strict=True)
            bar.update(len(some))


def _next_of(images: Iterator[EncodedImage]) -> list[EncodedImage]:
    """The next images: as many as are worked on at once, or as memory is to hold."""
    some: list[EncodedImage] = []
    held = 0
    for image in itertools.islice(images, AT_ONCE):
        some.append(image)
        held += image.held
        if held >= BYTES_AT_ONCE:
            break
    return some


def refuse_unreadable(dataset: str, bad: list[str]) -> None:
    """ValueError that names the first of the images that can't be read, if there are any."""
    if bad:
        raise ValueError(f"{dataset}: {len(bad)} of the images can't be read: {_some(bad)}. Replace or remove them")


def _some(things: list[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more
