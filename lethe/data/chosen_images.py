"""Image sets that share one tensor or file; each set holds the indexes of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from lethe.data.image_file import ImageFile

Rows = Tensor | slice
Base = Tensor | ImageFile
# base -> {device: weak reference to its copy there}
_on_devices: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Chosen:
    """A view of some rows of images (N, C, H, W) in a tensor or in a file.

    `chosen[rows]` copies these rows into a new tensor, `chosen[:]` all rows. Tensor methods and torch
    functions work too, on such a copy; they raise ValueError for images in a file.
    """

    def __init__(self, base: Base, rows: Tensor) -> None:
        self.base, self.rows = base, rows.to(base.device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.base[self.rows[rows if isinstance(rows, slice) else rows.to(self.rows.device)]]

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look these up before __init__ has run.
        if name.startswith("__") or name in ("base", "rows"):
            raise AttributeError(name)
        return getattr(self._copied(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(
            *tree_map_only(Chosen, Chosen._copied, args),
            **tree_map_only(Chosen, Chosen._copied, kwargs or {}),
        )

    def _copied(self) -> Tensor:
        if isinstance(self.base, ImageFile):
            raise ValueError(
                "these images are in a file, too large for memory: expected images[rows] or batches(...). "
                "Ask for some at a time"
            )
        return self[:]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def to(self, device: torch.device | str) -> Images:
        """Move the images to a device: the base once for all views, or a small part alone.

        Images in a file stay there; their batches are moved.
        """
        if isinstance(self.base, ImageFile) or self.base.device == torch.device(device):
            return self
        if len(self.rows) < len(self.base) // 2 and _copy_of(self.base, device) is None:
            return self[:].to(device)
        return Chosen(_moved(self.base, device), self.rows)


Images = Tensor | Chosen | ImageFile


def choose(images: Images, chosen: Tensor) -> Chosen:
    """Select images by a boolean mask (N,) or a tensor of positions, without a copy."""
    positions = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
    if isinstance(images, Chosen):
        return Chosen(images.base, images.rows[positions])
    return Chosen(images, positions)


def joined(first: Images, second: Images, order: Tensor) -> Images:
    """Concatenate two sets and reorder them; without a copy if both are views of the same base."""
    if isinstance(first, Chosen) and isinstance(second, Chosen) and first.base is second.base:
        return Chosen(first.base, torch.cat([first.rows, second.rows])[order])
    return torch.cat([first[:], second[:]])[order]


def in_parts(images: Images, most_bytes: int = 1 << 22) -> Iterator[Tensor]:
    """Yield the images in order, in parts of about `most_bytes` bytes."""
    size = max(1, most_bytes // max(1, images.shape[1:].numel()))
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _copy_of(base: Tensor, device: torch.device | str) -> Tensor | None:
    known: ReferenceType[Tensor] | None = _on_devices.get(base, {}).get(torch.device(device))
    return None if known is None else known()


def _moved(base: Tensor, device: torch.device | str) -> Tensor:
    """Return the base on a device: the present copy while a view uses it, else a new one."""
    found = _copy_of(base, device)
    if found is None:
        found = base.to(device)
        _on_devices.setdefault(base, {})[torch.device(device)] = ref(found)
    return found
