"""Decode a dataset's images once, into a folder that later runs read. An interrupted decoding resumes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lethe.data.at_hand import check_may_fetch
from lethe.data.chosen_images import Images
from lethe.data.encoded_image import EncodedImage, pixels_of
from lethe.data.image_columns import ReadColumns
from lethe.data.image_file import ImageFile
from lethe.data.impl import RawDataset
from lethe.data.memory import memory_budget
from lethe.data.own_files import INSTEAD, own_files
from lethe.data.reading import Reading
from lethe.data.scanned import Published, in_parallel, refuse_unreadable, scan, without
from lethe.system.foreign_files import LIST, foreign_text
from lethe.system.temporary_files import replaced

BYTES_AT_ONCE = 1 << 26
FORMAT = 2  # of the folder; a new number decodes everything again


def decoded(published: Published, folder: Path, reading: Reading | None = None) -> RawDataset:
    """Read the images as uint8 of one size from <folder>/decoded; decode them there the first time.

    The folder is decoded/<name>-<key>. If it is read-only, new images are decoded into ./data/decoded.

    The images are in memory if they fit, else in files that are read batch by batch. Images that all have one
    size, no side above 224, keep it. Others become squares of the median short side of the training images,
    at most 224, and a multiple of 32 from 32 on. They are grey if all training images are, else RGB. Raises
    ValueError for images that can't be read or contradict each other.
    """
    if reading is not None:
        published = published.read_as(reading)
    called = Path("decoded") / f"{published.name}-{published.key[:16]}"
    place = next(
        (place / called for place in (folder, INSTEAD) if (place / called / "about.json").exists()), None
    )
    if place is None:
        check_may_fetch(published.name)
        place = own_files(published.name, folder, "decoded") / called.name
    try:
        if not (place / "about.json").exists():
            with FileLock(f"{place}.lock"):
                if not (place / "about.json").exists():
                    _decode(published, place)
        return _read(place, published.columns)
    except OSError as error:
        raise ValueError(
            f"{published.name}: {place} can't be written or read ({error}). Make room there, or name another "
            "folder with --data"
        ) from error


def _decode(published: Published, place: Path) -> None:
    place.mkdir(exist_ok=True)
    try:
        scanned = place / "scanned.json"
        if not scanned.exists():
            _write_json(scanned, asdict(scan(published)))
        shapes = _shapes(json.loads(foreign_text(scanned, most=LIST)))
        _check_room(published.name, place, shapes)
        for part, shape in shapes.items():
            _decode_part(published, place, part, shape)
        refuse_unreadable(published.name, [line for part in shapes for line in _progress(place, part)["bad"]])
        scanned.replace(place / "about.json")
    except ValueError:  # the published images have to change, and then all are decoded again
        shutil.rmtree(place)
        raise


def _check_room(name: str, place: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError if the disk has no room for the images that are still to be decoded."""
    needed = sum(
        (count - _progress(place, part)["done"]) * int(np.prod(of_one))
        for part, (count, *of_one) in shapes.items()
    )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{name}: expected {needed / 1e9:.1f} GB free in {place.parent}, got {free / 1e9:.1f}. "
            "Make room, or name another folder with --data"
        )


def _decode_part(published: Published, place: Path, part: str, shape: tuple[int, ...]) -> None:
    """Append the pixels of the remaining images; write the progress only after a flush to disk."""
    count, channels, height, width = shape
    progress, size = _progress(place, part), channels * height * width
    kept = without(
        published.parts[part](),
        json.loads(foreign_text(place / "scanned.json", most=LIST)).get("dropped", {}).get(part, []),
    )
    rest = itertools.islice(kept, progress["done"], None)

    def pixels(image: EncodedImage) -> np.ndarray | str:
        return pixels_of(image, (channels, height, width))

    file = place / f"{part}.u8"
    with file.open("r+b" if file.exists() else "w+b") as output:
        output.seek(progress["done"] * size)
        unflushed = 0
        for image, found in in_parallel(
            pixels, rest, f"{published.name}: decoding the {part} images", progress["done"], count
        ):
            if isinstance(found, str):
                progress["bad"].append(f"{image.name} ({found})")
                found = np.zeros((channels, height, width), dtype=np.uint8)
            output.write(found.tobytes())
            progress["done"] += 1
            unflushed += size
            if unflushed >= BYTES_AT_ONCE or progress["done"] == count:
                output.flush()
                os.fsync(output.fileno())
                _write_json(place / f"{part}_progress.json", progress)
                unflushed = 0
    if progress["done"] != count:
        raise ValueError(
            f"{published.name}: expected {count} {part} images, got {progress['done']}: they changed "
            "meanwhile. Run again"
        )


def _progress(place: Path, part: str) -> dict[str, Any]:
    file = place / f"{part}_progress.json"
    progress: dict[str, Any] = (
        json.loads(foreign_text(file, most=LIST)) if file.exists() else {"done": 0, "bad": []}
    )
    return progress


def _shapes(about: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {part: (len(labels), *about["shape"]) for part, labels in about["labels"].items()}


def _read(place: Path, columns: ReadColumns | None) -> RawDataset:
    about = json.loads(foreign_text(place / "about.json", most=LIST))
    for remark in about["remarks"]:
        warnings.warn(remark, stacklevel=2)
    shapes = _shapes(about)
    streamed = sum(int(np.prod(shape)) for shape in shapes.values()) > memory_budget()

    def part_of(name: str) -> tuple[Images, Tensor]:
        file = ImageFile(place / f"{name}.u8", shapes[name])
        size = file.path.stat().st_size
        if size != file.shape.numel():
            raise ValueError(
                f"{file.path}: expected {file.shape.numel()} bytes, got {size}. Delete {place} and run again"
            )
        return file if streamed else file[:], torch.tensor(about["labels"][name])

    dropped = about.get("dropped", {}).get("train", [])
    return RawDataset(
        part_of("train"),
        part_of("test") if "test" in shapes else None,
        tuple(about["classes"]),
        columns={} if columns is None else columns.without(dropped),
    )


def _write_json(file: Path, value: object) -> None:
    with replaced(file) as partial:
        partial.write_text(json.dumps(value), encoding="utf-8")
