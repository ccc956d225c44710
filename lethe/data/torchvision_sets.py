"""The MNIST family, USPS, SVHN, CIFAR10, CIFAR100 and STL10, read or downloaded by torchvision."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import string
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.data.at_hand import check_may_fetch
from lethe.data.image_columns import SUBCLASS
from lethe.data.impl import RawDataset, register
from lethe.system.foreign_files import MB, open_foreign, read_foreign
from lethe.system.torchvision_import import torchvision_module

LARGEST = 100_000 * MB
IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
EMNIST_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
)
SVHN_FILES, USPS_FILES = ("train_32x32.mat", "test_32x32.mat"), ("usps.bz2", "usps.t.bz2")
STL10_FILES = ("train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100_FILES = ("train", "test", "meta")


@register("MNIST", arch="mlp", epochs=10, source="LeCun, Cortes, Burges 1998")
def mnist(folder: Path) -> RawDataset:
    """MNIST: 60,000 + 10,000 digits, 28 x 28, from <folder>/MNIST/raw."""
    return _grey("MNIST", folder)


@register(
    "FashionMNIST",
    "fashion_mnist",
    arch="mlp",
    epochs=15,
    source="Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747",
)
def fashion_mnist(folder: Path) -> RawDataset:
    """FashionMNIST: 60,000 + 10,000 garments, 28 x 28, from <folder>/FashionMNIST/raw."""
    return _grey("FashionMNIST", folder)


@register("KMNIST", arch="mlp", epochs=15, source="Clanuwat et al. 2018, arXiv:1812.01718")
def kmnist(folder: Path) -> RawDataset:
    """KMNIST: 60,000 + 10,000 cursive Japanese characters of ten kinds, 28 x 28, from <folder>/KMNIST/raw."""
    return _grey("KMNIST", folder)


@register(
    "EMNIST_letters",
    "EMNIST-letters",
    arch="mlp",
    epochs=15,
    source="Cohen, Afshar, Tapson, van Schaik 2017, arXiv:1702.05373",
)
def emnist_letters(folder: Path) -> RawDataset:
    """EMNIST letters: 124,800 + 20,800 letters of 26 kinds, 28 x 28, from <folder>/EMNIST/raw.

    A class has upper and lower case. The files have the images transposed and the classes from 1 on; here
    they are upright, and a is 0.
    """
    return _emnist("letters", folder, first=1, names=tuple(string.ascii_lowercase))


@register(
    "EMNIST_balanced",
    "EMNIST-balanced",
    "EMNIST",
    arch="mlp",
    epochs=15,
    source="Cohen, Afshar, Tapson, van Schaik 2017, arXiv:1702.05373",
)
def emnist_balanced(folder: Path) -> RawDataset:
    """EMNIST balanced: 112,800 + 18,800 digits and letters of 47 kinds, 28 x 28, from <folder>/EMNIST/raw.

    The files have the images transposed; here they are upright.
    """
    return _emnist("balanced", folder)


@register("USPS", arch="mlp", epochs=20, source="Hull 1994, IEEE PAMI 16(5)")
def usps(folder: Path) -> RawDataset:
    """USPS: 7,291 + 2,007 digits, 16 x 16, from <folder>/usps.bz2 and usps.t.bz2 (libsvm's format)."""
    return _raw(_both_parts("USPS", folder, USPS_FILES, _loading("USPS", folder)), tuple(string.digits))


@register("SVHN", arch="resnet18", epochs=20, source="Netzer et al. 2011, NIPS workshop")
def svhn(folder: Path) -> RawDataset:
    """SVHN: 73,257 + 26,032 digits of house numbers in colour, 32 x 32, from <folder>/*_32x32.mat."""
    parts = _both_parts("SVHN", folder, SVHN_FILES, _loading_split("SVHN", folder))
    return _raw(parts, tuple(string.digits))


@register("CIFAR10", arch="resnet18", epochs=20, augment=True, source="Krizhevsky 2009")
def cifar10(folder: Path) -> RawDataset:
    """CIFAR-10: 50,000 + 10,000 colour images, 32 x 32, from <folder>/cifar-10-batches-py.

    Its files are pickles: torchvision unpickles them only after their published MD5 matched.
    """
    return _cifar("CIFAR10", folder, "cifar-10-batches-py", CIFAR10_FILES)


@register("CIFAR100", arch="resnet18", epochs=50, augment=True, source="Krizhevsky 2009")
def cifar100(folder: Path) -> RawDataset:
    """CIFAR-100: 50,000 + 10,000 colour images of 100 classes, 32 x 32, from <folder>/cifar-100-python.

    The classes are the fine labels. Its files are pickles: torchvision unpickles them only after their
    published MD5 matched.
    """
    return _cifar("CIFAR100", folder, "cifar-100-python", CIFAR100_FILES)


@register("CIFAR20", arch="resnet18", epochs=50, augment=True, source="Krizhevsky 2009")
def cifar20(folder: Path) -> RawDataset:
    """CIFAR-100 with its 20 coarse labels as classes, from <folder>/cifar-100-python.

    The fine label of an image is its subclass, for --forget_subclass.
    """
    files_in = folder / "cifar-100-python"
    parts = _both_parts("CIFAR20", files_in, CIFAR100_FILES, _loading("CIFAR100", folder))
    subclasses = [parts[0].classes[label] for label in parts[0].targets]
    for part, file in zip(parts, ("train", "test"), strict=True):
        part.data = part.data.transpose(0, 3, 1, 2)
        part.targets = _unpickled(files_in / file)["coarse_labels"]
    names = tuple(_unpickled(files_in / "meta")["coarse_label_names"])
    return replace(_raw(parts, names), columns={SUBCLASS: subclasses})


@register("STL10", arch="resnet18", epochs=50, augment=True, source="Coates, Lee, Ng 2011, AISTATS")
def stl10(folder: Path) -> RawDataset:
    """STL-10: 5,000 + 8,000 colour images of ten classes, 96 x 96, from <folder>/stl10_binary.

    Leaves out its images without labels.
    """
    load = _loading_split("STL10", folder)
    return _raw(_both_parts("STL10", folder / "stl10_binary", STL10_FILES, load), STL10_CLASSES)


def _grey(name: str, folder: Path) -> RawDataset:
    parts = _both_parts(name, folder / name / "raw", IDX_FILES, _loading(name, folder))
    return _raw(parts, tuple(parts[0].classes))


def _emnist(kind: str, folder: Path, first: int = 0, names: tuple[str, ...] | None = None) -> RawDataset:
    files = tuple(f"emnist-{kind}-{file}" for file in EMNIST_FILES)
    parts = _both_parts(
        f"EMNIST_{kind}", folder / "EMNIST" / "raw", files, _loading("EMNIST", folder, split=kind)
    )
    for part in parts:
        part.data, part.targets = part.data.transpose(1, 2), part.targets - first
    return _raw(parts, names or tuple(parts[0].classes))


def _cifar(name: str, folder: Path, below: str, files: tuple[str, ...]) -> RawDataset:
    parts = _both_parts(name, folder / below, files, _loading(name, folder))
    for part in parts:
        part.data = part.data.transpose(0, 3, 1, 2)
    return _raw(parts, tuple(parts[0].classes))


def _unpickled(file: Path) -> dict[str, Any]:
    """Unpickle a file of CIFAR-100 if it still is the published one, by the MD5s that torchvision has."""
    dataset = torchvision_module("datasets").CIFAR100
    published = dict(
        [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    )
    content = read_foreign(file, most=LARGEST)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != published[file.name]:
        raise ValueError(f"CIFAR20: {file} changed while it was read. Run again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about CIFAR's pickles
        found: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return found


def _loading(name: str, folder: Path, **settings: Any) -> Callable[[bool, bool], Any]:
    def load(train: bool, download: bool) -> Any:
        dataset = getattr(torchvision_module("datasets"), name)
        return dataset(str(folder), train=train, download=download, **settings)

    return load


def _loading_split(name: str, folder: Path) -> Callable[[bool, bool], Any]:
    def load(train: bool, download: bool) -> Any:
        dataset = getattr(torchvision_module("datasets"), name)
        return dataset(str(folder), split="train" if train else "test", download=download)

    return load


def _raw(parts: tuple[Any, Any], class_names: tuple[str, ...]) -> RawDataset:
    """Convert both parts to uint8 images (N, C, H, W) and int64 labels."""

    def part_of(part: Any) -> tuple[Tensor, Tensor]:
        pixels = part.data if isinstance(part.data, Tensor) else np.ascontiguousarray(part.data)
        images = torch.as_tensor(pixels)
        coloured = images.unsqueeze(1) if images.ndim == 3 else images
        return coloured.contiguous(), torch.as_tensor(_labels(part)).long()

    return RawDataset(part_of(parts[0]), part_of(parts[1]), class_names)


def _labels(part: Any) -> Any:
    return part.targets if hasattr(part, "targets") else part.labels


def _refuse_misplaced(name: str, files_in: Path, files: tuple[str, ...]) -> None:
    """Raise ValueError for a folder in place of a file, and for files one folder too deep."""
    for file in files:
        place = files_in / file
        if place.is_dir():
            inside = sorted(entry.name for entry in place.iterdir())
            raise ValueError(
                f"{name}: expected the file {place}, got a folder of that name with "
                f"{', '.join(inside[:3]) or 'nothing'} in it. "
                f"Replace the folder by the file in it, and name that {file}"
            )
        if place.exists() or not files_in.is_dir():
            continue
        deeper = (below / file for below in sorted(files_in.iterdir()))
        found = next((candidate for candidate in deeper if candidate.is_file()), None)
        if found is not None:
            raise ValueError(
                f"{name}: expected the file {place}, got {found}, one folder too deep. Move the files of "
                f"{found.parent} up"
            )


def _both_parts(
    name: str, files_in: Path, files: tuple[str, ...], load: Callable[[bool, bool], Any]
) -> tuple[Any, Any]:
    missing = [file for file in files if not (files_in / file).exists()]
    _refuse_misplaced(name, files_in, files)
    for file in set(files).difference(missing):
        # Refuses a pipe or a device: reading one never ends.
        open_foreign(files_in / file, most=LARGEST).close()
    if missing:
        check_may_fetch(name)
    not_there_yet = [place for place in (files_in, *files_in.parents) if not place.exists()]
    try:
        with warnings.catch_warnings():
            # NumPy 2.4 warns about the align=0 in CIFAR's pickles and about torchvision's own dtype(...)
            # calls.
            warnings.simplefilter("ignore")
            parts = load(True, bool(missing)), load(False, bool(missing))
        if any(len(part.data) != len(_labels(part)) for part in parts):
            raise RuntimeError("images and labels differ in number")
        return parts
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        AssertionError,
    ) as error:  # of torchvision's readers
        if not missing:
            raise ValueError(
                f"{name}: the files in {files_in} are damaged ({error or 'no IDX header'}). "
                f"Delete {', '.join(files)} there, nothing else, and run again"
            ) from error
        for made_in_vain in not_there_yet:
            with contextlib.suppress(OSError):
                made_in_vain.rmdir()
        reason = str(error).splitlines()[0].rstrip(":")
        raise FileNotFoundError(
            f"{name}: expected {', '.join(missing)} in {files_in}, and the download failed ({reason}). "
            "Put the files there, or name their folder with --data"
        ) from error
