"""The registry of datasets: a name -> a function that reads the dataset from a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lethe.data.chosen_images import Images
from lethe.data.image_columns import Columns
from lethe.data.reading import FLAGS, reading
from lethe.flag_error import FlagError
from lethe.registry import Entry, Registry

NOTHING_GIVEN: Mapping[str, Any] = {}


@dataclass(frozen=True)
class RawDataset:
    """A loader's result: images (N, C, H, W) uint8 and labels (N,) int64 of each part, and class names.

    The images are a tensor, or an `ImageFile` if they don't fit into memory. `test` is None if the published
    set has no test part. `white` is the largest pixel value. `columns` has attributes of the training images
    by name, such as "subclass": a text for each image, in their order.
    """

    train: tuple[Images, Tensor]
    test: tuple[Images, Tensor] | None
    class_names: tuple[str, ...]
    white: int = 255
    columns: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetFacts:
    """The facts that a dataset's registration declares.

    free_form: the flags of `reading` choose channels, splits and duplicates; the loader takes a `Reading` too
    """

    arch: str = "resnet18"
    epochs: int = 20
    embedded: bool = False
    augment: bool = False
    source: str = ""
    free_form: bool = False


def slug(text: str) -> str:
    """Return a name for files and runs: dashes replace all but letters, digits, underscores and dots."""
    return re.sub(r"[^\w.]+", "-", text).strip("-") or "root"


def absolute(path: str) -> Path:
    """Return the absolute path without resolving links, so that names stay those that people gave."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  # resolve() would follow them


def place_name(family: str, path: str) -> str:
    """Return the name that results, checkpoints and experiments give to the images at a path: family-NAME.

    A path that is not directly in the working folder gets a digest of the path too, as folder:a/data and
    folder:b/data are two datasets. A path below the working folder is hashed relative to it, so that a
    project may be moved.
    """
    place, here = absolute(path), Path.cwd()
    name = f"{family}-{slug(place.name)}"
    if place.parent == here:
        return name
    hashed = place.relative_to(here) if place.is_relative_to(here) else place
    digest = hashlib.sha256(hashed.as_posix().encode(errors="surrogateescape")).hexdigest()
    return f"{name}-{digest[:8]}"


DATASETS = Registry("dataset", DatasetFacts, takes=("folder",), plugins="lethe.datasets")
"""The datasets by name, folder:PATH, hf:NAME, or path/to/file.py:function."""
register = DATASETS.register
"""Decorator: register a dataset, a function of a folder that returns a `RawDataset`.

    @lethe.register_dataset("mine", arch="cnn", epochs=10)
    def mine(folder: Path) -> RawDataset: ...

Further keyword arguments are the fields of `DatasetFacts`: the default architecture and recipe, and the
source. Raises ValueError for a name that is registered already.
"""


def results_folder(dataset: str) -> Path:
    """Return the default folder of checkpoints and caches: results/NAME, for a user's file with a digest."""
    entry = DATASETS[dataset]
    name = entry.name if entry.file is None else place_name("file", f"{entry.file}-{entry.name}")
    return Path("results") / name


def read(dataset: str, folder: str | Path, given: Mapping[str, Any] = NOTHING_GIVEN) -> RawDataset:
    """Read the dataset of that name. `given`: settings of `reading`, by flag name.

    Raises ValueError for an unknown name and for settings that this dataset does not have, FileNotFoundError
    for missing files.
    """
    entry = DATASETS[dataset]
    check_given(entry, given)
    raw: RawDataset = entry(Path(folder), reading(**given)) if entry.facts.free_form else entry(Path(folder))
    return raw


def check_given(entry: Entry[DatasetFacts], given: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of `reading` if the dataset has a fixed form."""
    if given and not entry.facts.free_form:
        expected = "expected folder:PATH or hf:NAME with this flag"
        raise FlagError(next(iter(given)), f"{expected}, got {entry.name}. Leave it out")
    FLAGS.settings(given)


def origin(dataset: str) -> str | None:
    """Return the source of your own dataset: a file, folder:PATH or hf:NAME; None for a registered name."""
    entry = DATASETS[dataset]
    if entry.file is not None:
        return str(entry.file)
    return None if dataset in DATASETS else dataset
