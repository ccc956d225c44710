"""scikit-learn's digits: 1,797 scans of 8 x 8 pixels with 17 grey levels, part of the package."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from lethe.data.impl import RawDataset, register

IN_PACKAGE = Path("datasets", "data", "digits.csv.gz")


@register(
    "digits",
    arch="mlp",
    epochs=30,
    embedded=True,
    source="Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits",
)
def digits(folder: Path) -> RawDataset:
    """scikit-learn's digits; nothing is read from the folder."""
    rows = torch.from_numpy(_rows())
    images = rows[:, :-1].reshape(-1, 1, 8, 8).contiguous()
    labels = rows[:, -1].long()
    return RawDataset((images, labels), None, tuple(map(str, range(10))), white=16)


def _rows() -> np.ndarray:
    """Return a row an image, of 64 pixels and the label: (1797, 65) uint8.

    Reads the file of `sklearn.datasets.load_digits`, which takes a second to import, by the package's place.
    """
    found = find_spec("sklearn")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / IN_PACKAGE
        if file.is_file():
            with gzip.open(file, "rt") as opened:
                return np.loadtxt(opened, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)
