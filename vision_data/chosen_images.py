"""Images that several sets share: kept once, each set knows which rows are its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from vision_data.image_file import ImageFile

Rows = Tensor | slice
Base = Tensor | ImageFile
_on_devices: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # base -> {device: weak reference to its copy there}


class Chosen:
    """Some rows of images (N, C, H, W) that are not copied for it: a tensor, or a file too large for memory.

    `chosen[rows]` is a new tensor of those of its rows, `chosen[:]` of all of them. What else a tensor has (`flatten`, a place in
    torch's functions) it has too, by such a copy, unless the images are in a file.
    """

    def __init__(self, base: Base, rows: Tensor) -> None:
        self.base, self.rows = base, rows.to(base.device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.base[self.rows[rows if isinstance(rows, slice) else rows.to(self.rows.device)]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "rows"):  # asked by copy and pickle, before there is anything to ask
            raise AttributeError(name)
        return getattr(self._copied(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*tree_map_only(Chosen, Chosen._copied, args), **tree_map_only(Chosen, Chosen._copied, kwargs or {}))

    def _copied(self) -> Tensor:
        if isinstance(self.base, ImageFile):
            raise ValueError(
                "these images are in a file, too large for memory: expected images[rows] or batches(...). Ask for some at a time"
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
        """These images on a device. The base goes there once for all sets that share it; a small part of it goes alone.

        What is in a file stays there: its batches are moved.
        """
        if isinstance(self.base, ImageFile) or self.base.device == torch.device(device):
            return self
        if len(self.rows) < len(self.base) // 2 and _copy_of(self.base, device) is None:
            return self[:].to(device)
        return Chosen(_moved(self.base, device), self.rows)


Images = Tensor | Chosen | ImageFile


def choose(images: Images, chosen: Tensor) -> Chosen:
    """The images that a boolean mask (N,) or a tensor of positions selects, without a copy."""
    positions = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
    if isinstance(images, Chosen):
        return Chosen(images.base, images.rows[positions])
    return Chosen(images, positions)


def joined(first: Images, second: Images, order: Tensor) -> Images:
    """Both, one after the other, in that order: without a copy where both are rows of the same images."""
    if isinstance(first, Chosen) and isinstance(second, Chosen) and first.base is second.base:
        return Chosen(first.base, torch.cat([first.rows, second.rows])[order])
    return torch.cat([first[:], second[:]])[order]


def in_parts(images: Images, most_bytes: int = 1 << 22) -> Iterator[Tensor]:
    """The images in order, some at a time, so that a pass over all of them needs little memory."""
    size = max(1, most_bytes // max(1, images.shape[1:].numel()))
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _copy_of(base: Tensor, device: torch.device | str) -> Tensor | None:
    known: ReferenceType[Tensor] | None = _on_devices.get(base, {}).get(torch.device(device))
    return None if known is None else known()


def _moved(base: Tensor, device: torch.device | str) -> Tensor:
    """The base on a device: the copy that is there already while anybody uses it, else a new one."""
    found = _copy_of(base, device)
    if found is None:
        found = base.to(device)
        _on_devices.setdefault(base, {})[torch.device(device)] = ref(found)
    return found
