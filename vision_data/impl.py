"""The registry of datasets: names -> functions that read one from a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from registry import Entry, Registry
from vision_data.chosen_images import Images
from vision_data.reading import FLAGS, reading

NOTHING_GIVEN: Mapping[str, Any] = {}


@dataclass(frozen=True)
class RawDataset:
    """What a loader returns: uint8 images (N, C, H, W), int64 labels (N,), class names, and the value of a lit pixel.

    The images are a tensor, or an `ImageFile` where they are too large for memory. `test` is None where the published set has no
    test part.
    """

    train: tuple[Images, Tensor]
    test: tuple[Images, Tensor] | None
    class_names: tuple[str, ...]
    white: int = 255


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset's registration declares beside its loader.

    free_form: images whose channels, splits and repetitions are a person's to decide: the loader takes a `Reading` too.
    """

    arch: str = "resnet18"
    epochs: int = 20
    embedded: bool = False
    augment: bool = False
    source: str = ""
    free_form: bool = False


def slug(text: str) -> str:
    """A name for files and runs: what is neither letter, digit nor dot as a dash."""
    return re.sub(r"[^\w.]+", "-", text).strip("-") or "root"


def absolute(path: str) -> Path:
    """The path as it was given, from the root: links keep the names that people gave them."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  # resolve() would follow them


def place_name(family: str, path: str) -> str:
    """What results, checkpoints and experiments of the images at a path are called: family-NAME.

    Unless it lies right in the working folder, where there is one of that name alone, with a digest of the path: folder:a/data and
    folder:b/data are two datasets. A path below the working folder is taken from there, so that a project may be moved.
    """
    place, here = absolute(path), Path.cwd()
    name = f"{family}-{slug(place.name)}"
    if place.parent == here:
        return name
    told = place.relative_to(here) if place.is_relative_to(here) else place
    digest = hashlib.sha256(told.as_posix().encode(errors="surrogateescape")).hexdigest()
    return f"{name}-{digest[:8]}"


DATASETS = Registry("dataset", DatasetFacts, takes=("folder",))
register = DATASETS.register


def results_folder(dataset: str) -> Path:
    """Where a dataset's checkpoints and caches are by default: results/NAME; of a person's function its file's place decides too."""
    entry = DATASETS[dataset]
    name = entry.name if entry.file is None else place_name("file", f"{entry.file}-{entry.name}")
    return Path("results") / name


def read(dataset: str, folder: str | Path, given: Mapping[str, Any] = NOTHING_GIVEN) -> RawDataset:
    """The dataset of that name. `given`: settings of `reading`, by the names of its flags.

    ValueError for an unknown name and for settings that this dataset does not have, FileNotFoundError for files that are not to be had.
    """
    entry = DATASETS[dataset]
    check_given(entry, given)
    raw: RawDataset = entry(Path(folder), reading(**given)) if entry.facts.free_form else entry(Path(folder))
    return raw


def check_given(entry: Entry[DatasetFacts], given: Mapping[str, Any]) -> None:
    """ValueError for a setting of how images are read where the dataset has its own form."""
    if given and not entry.facts.free_form:
        raise ValueError(f"--{next(iter(given))}: {entry.name} is read in one way alone, this is for folder:PATH and hf:NAME. Leave it out")
    FLAGS.settings(given)


def origin(dataset: str) -> str | None:
    """What a name in a run does not say: the person's file, or the whole folder:PATH or hf:NAME. None for a registered name."""
    entry = DATASETS[dataset]
    if entry.file is not None:
        return str(entry.file)
    return None if dataset in DATASETS else dataset
