"""scikit-learn's digits: 1,797 scans of 8 x 8 pixels with 17 grey levels, part of the package."""

from __future__ import annotations

from pathlib import Path

import torch

from lethe.data.impl import RawDataset, register


@register(
    "digits",
    arch="mlp",
    epochs=30,
    embedded=True,
    source="Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits",
)
def digits(folder: Path) -> RawDataset:
    """scikit-learn's digits; nothing is read from the folder."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    return RawDataset((images, labels), None, tuple(map(str, range(10))), white=16)
