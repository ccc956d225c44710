"""MNIST, FashionMNIST, CIFAR10 and CIFAR100, read (and downloaded, if missing) by torchvision."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchvision_import import torchvision_module
from vision_data.impl import RawDataset, register

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100_FILES = ("train", "test", "meta")


@register("MNIST", arch="mlp", epochs=10, source="LeCun, Cortes, Burges 1998")
def mnist(folder: Path) -> RawDataset:
    """MNIST: 60,000 + 10,000 digits, 28 x 28, from <folder>/MNIST/raw."""
    return _grey("MNIST", folder)


@register("FashionMNIST", "fashion_mnist", arch="mlp", epochs=15, source="Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747")
def fashion_mnist(folder: Path) -> RawDataset:
    """FashionMNIST: 60,000 + 10,000 garments, 28 x 28, from <folder>/FashionMNIST/raw."""
    return _grey("FashionMNIST", folder)


@register("CIFAR10", arch="resnet18", epochs=20, augment=True, source="Krizhevsky 2009")
def cifar10(folder: Path) -> RawDataset:
    """CIFAR-10: 50,000 + 10,000 colour images, 32 x 32, from <folder>/cifar-10-batches-py.

    Its files are pickles: torchvision unpickles them only after their published MD5 matched.
    """
    return _cifar("CIFAR10", folder, folder / "cifar-10-batches-py", CIFAR10_FILES)


@register("CIFAR100", arch="resnet18", epochs=50, augment=True, source="Krizhevsky 2009")
def cifar100(folder: Path) -> RawDataset:
    """CIFAR-100: 50,000 + 10,000 colour images of 100 classes (the fine labels), 32 x 32, from <folder>/cifar-100-python.

    Its files are pickles: torchvision unpickles them only after their published MD5 matched.
    """
    return _cifar("CIFAR100", folder, folder / "cifar-100-python", CIFAR100_FILES)


def _grey(name: str, folder: Path) -> RawDataset:
    train, test = _both_parts(name, folder, folder / name / "raw", IDX_FILES)
    parts = [(part.data.unsqueeze(1), part.targets.long()) for part in (train, test)]
    return RawDataset(parts[0], parts[1], tuple(train.classes))


def _cifar(name: str, folder: Path, files_in: Path, files: tuple[str, ...]) -> RawDataset:
    train, test = _both_parts(name, folder, files_in, files)
    return RawDataset(_colour(train), _colour(test), tuple(train.classes))


def _colour(part: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)


def _both_parts(name: str, folder: Path, files_in: Path, files: tuple[str, ...]) -> tuple[Any, Any]:
    missing = [file for file in files if not (files_in / file).exists()]
    not_there_yet = [place for place in (files_in, *files_in.parents) if not place.exists()]
    dataset = getattr(torchvision_module("datasets"), name)
    try:
        with warnings.catch_warnings():
            # NumPy 2.4 warns about the align=0 in CIFAR's pickles and about torchvision's own dtype(...) calls.
            warnings.simplefilter("ignore")
            parts = dataset(str(folder), train=True, download=bool(missing)), dataset(str(folder), train=False, download=False)
        if any(len(part.data) != len(part.targets) for part in parts):
            raise RuntimeError("images and labels differ in number")
        return parts
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:  # of torchvision's readers
        if not missing:
            raise ValueError(
                f"{name}: the files in {files_in} are damaged ({error or 'no IDX header'}). Delete that folder and run again"
            ) from error
        for made_in_vain in not_there_yet:
            with contextlib.suppress(OSError):
                made_in_vain.rmdir()
        reason = str(error).splitlines()[0].rstrip(":")
        raise FileNotFoundError(
            f"{name}: expected {', '.join(missing)} in {files_in}, and the download failed ({reason}). "
            "Put the files there, or name their folder with --data"
        ) from error
