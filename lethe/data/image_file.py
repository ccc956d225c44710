"""uint8 images in a file, read a few rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MOST_AT_ONCE = 1 << 30


class ImageFile:
    """Images (N, C, H, W) as bytes in a file. `images[rows]` reads these rows into a new tensor.

    The file is not memory-mapped: a map of a large file would exceed a limit on the address space. Raises
    ValueError if the file is too short.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, torch.Size(shape)

    def to(self, device: torch.device | str) -> ImageFile:
        """Return self: the images stay in the file, and their batches are moved."""
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else _positions(rows, len(self))
        found = torch.empty((len(wanted), *self.shape[1:]), dtype=torch.uint8)
        if len(wanted):
            self._read_into(found.numpy().reshape(-1).data, wanted)
        return found

    def _read_into(self, buffer: memoryview, wanted: np.ndarray) -> None:
        """Read consecutive rows together."""
        size = self.shape[1:].numel()
        filled = 0
        with self.path.open("rb", buffering=0) as file:
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1):
                file.seek(int(run[0]) * size)
                end = filled + len(run) * size
                while filled < end:
                    count = file.readinto(buffer[filled : min(end, filled + MOST_AT_ONCE)])
                    if not count:
                        raise ValueError(
                            f"{self.path}: expected {len(self) * size} bytes, and it ends earlier. Delete "
                            "its folder and run again"
                        )
                    filled += count


def _positions(rows: Tensor, count: int) -> np.ndarray:
    rows = rows.cpu()
    wanted = (rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows).numpy()
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < count:
        raise IndexError(f"expected rows from 0 to {count - 1}, got {wanted.min()} to {wanted.max()}")
    return wanted
