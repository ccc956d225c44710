"""Images in folders: a class per folder, in train and test folders or without."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from registry import Entry
from vision_data.decoded import FORMAT, decoded
from vision_data.encoded_image import SUFFIXES, EncodedImage
from vision_data.impl import DATASETS, DatasetFacts, RawDataset, slug
from vision_data.scanned import Published

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there


@DATASETS.family("folder", "PATH")
def image_folder(path: str) -> Entry[DatasetFacts]:
    """The dataset of your own images in PATH/<class>/..., or in PATH/train/<class>/... and PATH/test/<class>/..."""
    if not path:
        raise ValueError("--dataset folder:PATH: expected a folder after the colon, got nothing. Name one")
    name = f"folder-{slug(Path(path).expanduser().resolve().name)}"

    def load(folder: Path) -> RawDataset:
        return decoded(published_folder(name, Path(path).expanduser(), own=True), folder)

    return Entry(name, load, (), DatasetFacts(source="your own images, a class per folder"))


def published_folder(name: str, root: Path, *, own: bool = False) -> Published:
    """The images of a folder: a class per folder, in sorted order, of any depth.

    Raises FileNotFoundError for a folder that is not there and ValueError for a class folder without images, naming it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: expected a folder with a folder of images per class, and there is no folder {root}")
    below = {entry.name.casefold(): entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    train = next((below[part] for part in TRAIN if part in below), None)
    if train is None or set(below) - {*TRAIN, *TEST}:
        files = {"train": files_by_class(name, root)}
    else:
        files = {"train": files_by_class(name, train)}
        there = [part for part in TEST if part in below]
        if there:
            files["test"] = files_by_class(name, below[there[0]])
        if there[1:]:
            warnings.warn(
                f"{name}: {there[0]} is the test part; {', '.join(there[1:])} is left out: validation images are drawn from train",
                stacklevel=2,
            )
    return of_files(name, root, files, own=own)


def files_by_class(name: str, part: Path, beside: tuple[str, ...] = ()) -> list[tuple[str, Path]]:
    """(class, file) of each image below `part`, sorted; `beside` ends the names of files that are known to be something else."""
    classes = sorted(entry for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(
            f"{name}: expected a folder of images per class in {part}, got no folder. Put each class's images in a folder of its own"
        )
    images = images_below(part, beside)
    by_class: dict[str, list[Path]] = {folder.name: [] for folder in classes}
    for file in images:
        by_class.get(file.relative_to(part).parts[0], []).append(file)
    empty = [part / label for label, files in by_class.items() if not files]
    if empty:
        raise ValueError(f"{name}: expected images in the class folder {empty[0]}, got none. Remove the folder, or put its images there")
    return [(label, file) for label, files in by_class.items() for file in files]


def images_below(folder: Path, beside: tuple[str, ...] = ()) -> list[Path]:
    """The image files below a folder, sorted; a warning counts what is no image and does not end as `beside` says."""
    files = sorted(file for file in folder.rglob("*") if not _hidden(file.relative_to(folder)) and file.is_file())
    others = [file for file in files if not file.name.casefold().endswith((*SUFFIXES, *beside))]
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        warnings.warn(f"{others[0]}{more}: no image by its ending, left out", stacklevel=2)
    return [file for file in files if file.name.casefold().endswith(SUFFIXES)]


def _hidden(place: Path) -> bool:
    return any(step.startswith(".") for step in place.parts)


def of_files(
    name: str, root: Path, files: dict[str, list[tuple[str, Path]]], *, class_names: tuple[str, ...] | None = None, own: bool = False
) -> Published:
    """What is published as files: known anew when a name, a size or a time of change differs."""
    key = key_of({part: [(file, file.relative_to(root)) for _, file in listed] for part, listed in files.items()})
    return Published(name, key, {part: _opening(listed) for part, listed in files.items()}, class_names, own)


def key_of(files: Mapping[str, Iterable[tuple[Path, PurePath]]]) -> str:
    """A digest of the parts' files: what each is to be called, its size and its time of change."""
    content = hashlib.sha256(f"format {FORMAT}".encode())
    for part, listed in files.items():
        for file, place in listed:
            about = file.stat()
            content.update(f"\0{part}\0{place}\0{about.st_size}\0{about.st_mtime_ns}".encode(errors="surrogateescape"))
    return content.hexdigest()


def _opening(listed: list[tuple[str, Path]]) -> Callable[[], Iterable[EncodedImage]]:
    def images() -> Iterator[EncodedImage]:
        return (EncodedImage(str(file), label, file.read_bytes) for label, file in listed)

    return images
