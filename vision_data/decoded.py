"""Encoded images decoded once, into a folder that later runs read: killed on the way, the next run goes on where it stopped."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from vision_data.chosen_images import Images
from vision_data.encoded_image import EncodedImage, Header, header_of, pixels_of
from vision_data.image_file import ImageFile
from vision_data.impl import RawDataset
from vision_data.memory import memory_budget

LARGEST_SIDE, STEP = 224, 32
AT_ONCE, BYTES_AT_ONCE = 256, 1 << 26
FORMAT = 1  # of the folder: another number, and everything is decoded anew
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


def decoded(published: Published, folder: Path) -> RawDataset:
    """The images as uint8 of one size, from `<folder>/decoded/<name>-<key>`, where they are put the first time.

    In memory where that is large enough for all of them, else as files that are read batch by batch. All of one size, none of
    its sides above 224, stay as they are; of others the squares have the median short side of the training images, at most 224,
    and from 32 on a multiple of 32. Grey where all training images are, else RGB.
    Raises ValueError that names the images that can't be read, and those that contradict each other.
    """
    place = folder / "decoded" / f"{published.name}-{published.key[:16]}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not (place / "about.json").exists():
                _decode(published, place)
        return _read(place)
    except OSError as error:
        raise ValueError(
            f"{published.name}: {place} can't be written or read ({error}). Make room there, or name another folder with --data"
        ) from error


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


def _decode(published: Published, place: Path) -> None:
    place.mkdir(exist_ok=True)
    scanned = place / "scanned.json"
    if not scanned.exists():
        _write_json(scanned, _scan(published, place))
    about = json.loads(scanned.read_text())
    for part, count in about["counts"].items():
        _decode_part(published, place, part, (count, *about["shape"]))
    bad = [line for part in about["counts"] for line in _progress(place, part)["bad"]]
    if bad:
        shutil.rmtree(place)
        _refuse_unreadable(published.name, bad)
    scanned.replace(place / "about.json")


def _scan(published: Published, place: Path) -> dict[str, Any]:
    """Every header, before anything is decoded: labels, the common shape, and what is wrong."""
    headers: dict[str, list[Header]] = {}
    labels: dict[str, list[str]] = {}
    seen, bad, remarks = Seen(), [], []
    for part, images in published.parts.items():
        headers[part], labels[part] = [], []
        for image, header in _in_parallel(header_of, images(), f"{published.name}: looking at the {part} images"):
            if isinstance(header, str):
                bad.append(f"{image.name} ({header})")
                continue
            headers[part].append(header)
            labels[part].append(image.label)
            seen.add(image, header.digest)
    _refuse_unreadable(published.name, bad)
    if not headers["train"]:
        raise ValueError(f"{published.name}: expected training images, and there are none. Put images there")
    names = published.class_names or tuple(sorted(set(labels["train"])))
    for part in labels:
        strangers = sorted(set(labels[part]) - set(names if published.class_names else labels["train"]))
        strangers = strangers or sorted(set(labels[part]) - set(labels["train"]))
        if strangers:
            raise ValueError(
                f"{published.name}: expected the classes of the training images in the {part} part, got {_some(strangers)} too. "
                "Remove it there, or add training images of it"
            )
    remarks = seen.remarks(published.name, published.own)
    for part in labels:
        numbers = {name: number for number, name in enumerate(names)}
        np.save(place / f"{part}_labels.npy", np.array([numbers[label] for label in labels[part]], dtype=np.int64))
    counts = {part: len(labels[part]) for part in labels if labels[part]}
    return {"shape": common_shape(headers["train"]), "classes": names, "counts": counts, "remarks": remarks}


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


def _decode_part(published: Published, place: Path, part: str, shape: tuple[int, ...]) -> None:
    """Append the pixels of the images that are not there yet. What is on disk is counted only after it has been flushed to it."""
    count, *of_one = shape
    size = int(np.prod(of_one))
    progress = _progress(place, part)
    file = place / f"{part}.u8"
    with file.open("r+b" if file.exists() else "w+b") as output:
        needed = count * size - progress["done"] * size
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ValueError(
                f"{published.name}: expected {needed / 1e9:.1f} GB free in {place}, got {free / 1e9:.1f}. Name another folder with --data"
            )
        output.seek(progress["done"] * size)
        rest = itertools.islice(published.parts[part](), progress["done"], None)

        def pixels(image: EncodedImage) -> np.ndarray | str:
            return pixels_of(image, (of_one[0], of_one[1], of_one[2]))

        unflushed = 0
        for image, found in _in_parallel(pixels, rest, f"{published.name}: decoding the {part} images", progress["done"], count):
            if isinstance(found, str):
                progress["bad"].append(f"{image.name} ({found})")
                found = np.zeros(of_one, dtype=np.uint8)
            output.write(found.tobytes())
            progress["done"] += 1
            unflushed += size
            if unflushed >= BYTES_AT_ONCE or progress["done"] == count:
                output.flush()
                os.fsync(output.fileno())
                _write_json(place / f"{part}_progress.json", progress)
                unflushed = 0
    if progress["done"] != count:
        raise ValueError(f"{published.name}: expected {count} {part} images, got {progress['done']}: they changed meanwhile. Run again")


def _progress(place: Path, part: str) -> dict[str, Any]:
    file = place / f"{part}_progress.json"
    progress: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"done": 0, "bad": []}
    return progress


def _read(place: Path) -> RawDataset:
    about = json.loads((place / "about.json").read_text())
    for remark in about["remarks"]:
        warnings.warn(remark, stacklevel=2)
    shapes = {part: (count, *about["shape"]) for part, count in about["counts"].items()}
    streamed = sum(int(np.prod(shape)) for shape in shapes.values()) > memory_budget()

    def part_of(name: str) -> tuple[Images, Tensor]:
        file = ImageFile(place / f"{name}.u8", shapes[name])
        if file.path.stat().st_size != file.shape.numel():
            raise ValueError(
                f"{file.path}: expected {file.shape.numel()} bytes, got {file.path.stat().st_size}. Delete {place} and run again"
            )
        return file if streamed else file[:], torch.from_numpy(np.load(place / f"{name}_labels.npy", allow_pickle=False))

    test = part_of("test") if "test" in shapes else None
    return RawDataset(part_of("train"), test, tuple(about["classes"]))


def _in_parallel(
    function: Callable[[EncodedImage], T], images: Iterable[EncodedImage], label: str, done: int = 0, total: int | None = None
) -> Iterator[tuple[EncodedImage, T]]:
    """Each image with what the function says of it, in order, worked on by as many threads as there are cores."""
    images = iter(images)
    bar = tqdm(desc=label, initial=done, total=total, delay=2, leave=False, dynamic_ncols=True, unit=" images")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(images, AT_ONCE)):
            yield from zip(some, pool.map(function, some), strict=True)
            bar.update(len(some))


def _refuse_unreadable(dataset: str, bad: list[str]) -> None:
    if bad:
        raise ValueError(f"{dataset}: {len(bad)} of the images can't be read: {_some(bad)}. Replace or remove them")


def _some(things: list[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more


def _write_json(file: Path, value: object) -> None:
    """Whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value))
    partial.replace(file)
