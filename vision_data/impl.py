"""The registry of datasets: names -> functions that read one from a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from registry import Registry
from vision_data.chosen_images import Images


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
    """What a dataset's registration declares beside its loader."""

    arch: str = "resnet18"
    epochs: int = 20
    embedded: bool = False
    augment: bool = False
    source: str = ""


def slug(text: str) -> str:
    """A name for files and runs: what is neither letter, digit nor dot as a dash."""
    return re.sub(r"[^\w.]+", "-", text).strip("-") or "root"


DATASETS = Registry("dataset", DatasetFacts, takes=("folder",))
register = DATASETS.register


def read(dataset: str, folder: str | Path) -> RawDataset:
    """The dataset of that name. ValueError for an unknown name, FileNotFoundError for files that are not to be had."""
    raw: RawDataset = DATASETS[dataset](Path(folder))
    return raw


def origin(dataset: str) -> str | None:
    """What a name in a run does not say: the person's file, or the whole folder:PATH or hf:NAME. None for a registered name."""
    entry = DATASETS[dataset]
    if entry.file is not None:
        return str(entry.file)
    return None if dataset in DATASETS else dataset
