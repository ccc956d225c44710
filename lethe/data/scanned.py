"""A published dataset of encoded images, and the scan of their headers before decoding."""

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

from lethe.data.encoded_image import EncodedImage, Header, header_of, pixels_of
from lethe.data.image_columns import ReadColumns
from lethe.data.reading import AS_THEY_ARE, Reading
from lethe.system.progress_place import bar_settings

LARGEST_SIDE, STEP = 224, 32
AT_ONCE = 256  # images
AT_FIRST = 8  # images; in a dataset in colour, one of them nearly always is
BYTES_AT_ONCE = 256_000_000  # of encoded images in memory
NAMED = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """A dataset of encoded images.

    key: changes with the images
    parts: train, and test if there is one: a function that yields the images in order
    class_names: None takes the labels that occur in train
    own: the images are the user's own: the same file under two classes is an error; in published sets it is a
    warning
    columns: attributes of the training images, before any is left out
    """

    name: str
    key: str
    parts: dict[str, Callable[[], Iterable[EncodedImage]]]
    class_names: tuple[str, ...] | None = None
    own: bool = False
    reading: Reading | None = None
    columns: ReadColumns | None = None

    def read_as(self, reading: Reading) -> Published:
        """Set how the images are read. Settings other than the defaults change the key."""
        key, asked = self.key, [reading.channels, reading.duplicates]
        if asked != [None, "keep"]:
            key = hashlib.sha256(f"{key}\0{asked}".encode()).hexdigest()
        return replace(self, key=key, reading=reading)


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    shape: (C, H, W) of the decoded images
    labels: the class numbers of each part
    remarks: texts for warnings
    dropped: positions of the images that are left out, for each part
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    labels: dict[str, list[int]]
    remarks: list[str]
    dropped: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScannedImage:
    """An image's name, class and header."""

    name: str
    label: str
    header: Header


def scan(published: Published) -> Scan:
    """Read every header. Raises ValueError, with their names, for wrong images and classes."""
    found: dict[str, list[ScannedImage]] = {}
    bad = []
    for part, images in published.parts.items():
        found[part] = []
        for image, header in in_parallel(
            header_of, images(), f"{published.name}: reading the headers of the {part} images"
        ):
            if isinstance(header, str):
                bad.append(f"{image.name} ({header})")
            else:
                found[part].append(ScannedImage(image.name, image.label, header))
    refuse_unreadable(published.name, bad)
    copies = Copies()
    for scanned in itertools.chain(*found.values()):
        copies.add(scanned)
    reading = published.reading or AS_THEY_ARE
    dropped = _rows_to_drop(found, copies) if reading.duplicates == "drop" else {}
    if dropped:
        remarks = _remarks_on_dropped(published.name, dropped)
    else:
        remarks = copies.remarks(published.name, published.own)
    kept = {part: list(without(images, dropped.get(part, ()))) for part, images in found.items()}
    headers = [image.header for image in kept["train"]]
    if not headers:
        raise ValueError(f"{published.name}: expected training images, and there are none. Put images there")
    labels = {part: [image.label for image in images] for part, images in kept.items()}
    names = published.class_names or tuple(sorted(set(labels["train"])))
    _check_classes(published.name, labels, names)
    numbers = {name: number for number, name in enumerate(names)}
    numbered = {part: [numbers[label] for label in own] for part, own in labels.items()}
    numbered = {part: own for part, own in numbered.items() if own}
    channels, height, width = common_shape(headers)
    if published.reading is not None:
        channels, more = _channels(published, channels, (height, width))
        remarks += more
    rows_dropped = {part: sorted(rows) for part, rows in dropped.items()}
    return Scan((channels, height, width), names, numbered, remarks, rows_dropped)


def _rows_to_drop(found: Mapping[str, list[ScannedImage]], copies: Copies) -> dict[str, set[int]]:
    """Return the rows of each part whose file has two classes or repeats an earlier one."""
    dropped: dict[str, set[int]] = {}
    known: set[bytes] = set()
    for part, images in found.items():
        for row, image in enumerate(images):
            digest = image.header.digest
            if digest in known or len(copies.classes[digest]) > 1:
                dropped.setdefault(part, set()).add(row)
            known.add(digest)
    return dropped


def _remarks_on_dropped(name: str, dropped: Mapping[str, set[int]]) -> list[str]:
    counts = " and ".join(f"{len(rows)} of the {part} images" for part, rows in dropped.items())
    return [f"{name}: left out {counts}: every file with two classes, and all but the first copy of a file"]


def _channels(published: Published, by_headers: int, size: tuple[int, int]) -> tuple[int, list[str]]:
    """Return the number of channels, and remarks: 1 if all training images are grey, also stored as RGB."""
    asked = published.reading.channels if published.reading is not None else None
    if asked is not None or by_headers == 1:
        return asked or by_headers, []
    if not _all_grey(published, size):
        return by_headers, []
    return 1, [
        f"{published.name}: every training image is grey, stored as RGB: one channel is read. "
        "--image_channels 3 reads three"
    ]


def _all_grey(published: Published, size: tuple[int, int]) -> bool:
    """Return whether red, green and blue are equal in every training image. Stops at the first in colour."""

    def is_grey(image: EncodedImage) -> bool:
        pixels = pixels_of(image, (3, *size))
        return isinstance(pixels, str) or bool((pixels == pixels[:1]).all())

    first = itertools.islice(published.parts["train"](), AT_FIRST)
    if not all(map(is_grey, first)):
        return False
    checked = in_parallel(is_grey, published.parts["train"](), f"{published.name}: looking for colour")
    return all(grey for _, grey in checked)


def without(images: Iterable[T], rows: Collection[int]) -> Iterable[T]:
    """Leave out the images of these rows."""
    rows = set(rows)
    return (image for row, image in enumerate(images) if row not in rows)


def _check_classes(name: str, labels: dict[str, list[str]], names: tuple[str, ...]) -> None:
    """Raise ValueError for an unknown class, and for one that the training images lack."""
    for part, known in {part: names if part == "train" else labels["train"] for part in labels}.items():
        strangers = sorted(set(labels[part]) - set(known))
        if strangers:
            whose = "the dataset's classes" if part == "train" else "the classes of the training images"
            raise ValueError(
                f"{name}: expected {whose} in the {part} part, got {_some(strangers)} too. Remove it there, "
                "or add it to train"
            )


class Copies:
    """Files with the same content, by digest: their names and classes."""

    def __init__(self) -> None:
        self.first: dict[bytes, tuple[str, str]] = {}
        self.classes: dict[bytes, set[str]] = {}
        self.contradictions: list[str] = []
        self.repetitions: list[str] = []

    def add(self, image: ScannedImage) -> None:
        digest = image.header.digest
        self.classes.setdefault(digest, set()).add(image.label)
        name, label = self.first.setdefault(digest, (image.name, image.label))
        if label != image.label:
            self.contradictions.append(f"{name} ({label}) and {image.name} ({image.label})")
        elif name != image.name:
            self.repetitions.append(f"{name} and {image.name}")

    def remarks(self, dataset: str, own: bool) -> list[str]:
        """Return texts for warnings. Raises ValueError if the user's own images contradict each other."""
        if self.contradictions and own:
            raise ValueError(
                f"{dataset}: expected one class for each image, got the same file under two: "
                f"{_some(self.contradictions)}. "
                "Remove one of each pair, or leave out both, and all repetitions, with --duplicates drop"
            )
        remarks = []
        remedy = ", unless --duplicates drop leaves it out" if own else ""
        if self.contradictions:
            remarks.append(
                f"{dataset}: the same image has two classes, as published: {_some(self.contradictions)}"
            )
        if self.repetitions:
            remarks.append(
                f"{dataset}: the same image is there twice: {_some(self.repetitions)}. Forgetting one leaves "
                f"the other{remedy}"
            )
        return remarks


def common_shape(headers: Iterable[Header]) -> tuple[int, int, int]:
    """Return the common (channels, height, width) of images with these headers; see `decoded`."""
    headers = list(headers)
    channels = 1 if all(header.grey for header in headers) else 3
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(max(size) for size in sizes) <= LARGEST_SIDE:
        return channels, *sizes.pop()
    side = min(LARGEST_SIDE, int(statistics.median(min(header.height, header.width) for header in headers)))
    side = side // STEP * STEP or side
    return channels, side, side


def in_parallel(
    function: Callable[[EncodedImage], T],
    images: Iterable[EncodedImage],
    label: str,
    done: int = 0,
    total: int | None = None,
) -> Iterator[tuple[EncodedImage, T]]:
    """Yield each image with the function's result, in order, on as many threads as there are cores."""
    images = iter(images)
    bar = tqdm(desc=label, initial=done, total=total, delay=2, leave=False, unit=" images", **bar_settings())
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := _next_of(images):
            yield from zip(some, pool.map(function, some), strict=True)
            bar.update(len(some))


def _next_of(images: Iterator[EncodedImage]) -> list[EncodedImage]:
    """Return the next images: AT_ONCE of them, or about BYTES_AT_ONCE bytes."""
    some: list[EncodedImage] = []
    held = 0
    for image in itertools.islice(images, AT_ONCE):
        some.append(image)
        held += image.held
        if held >= BYTES_AT_ONCE:
            break
    return some


def refuse_unreadable(dataset: str, bad: list[str]) -> None:
    """Raise ValueError, with the first names, if there are images that can't be read."""
    if bad:
        raise ValueError(
            f"{dataset}: {len(bad)} of the images can't be read: {_some(bad)}. Replace or remove them"
        )


def _some(things: list[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more
