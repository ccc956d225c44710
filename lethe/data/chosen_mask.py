"""Which images: a mask or positions, as a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.data.pixels import shared

Positions = Tensor | np.ndarray | Iterable[int]


def chosen_mask(chosen: Positions, count: int) -> Tensor:
    """Return a bool mask (count,) on the CPU of the images to forget.

    chosen: a mask (count,) of bool, or positions from 0 to count - 1, each once: a tensor, an array, or a
    list, range or set. Raises ValueError for anything else.
    """
    given = _tensor_of(chosen)
    if given.dtype == torch.bool and given.shape == (count,):
        return given
    wrong = _wrong_positions(given, count)
    if wrong:
        raise ValueError(
            f"forget: expected bool ({count},), or int64 positions from 0 to {count - 1}, each once, got "
            f"{wrong}. Write e.g. [17, 404], or labels == 3"
        )
    return torch.zeros(count, dtype=torch.bool).index_fill(0, given, True)


def _tensor_of(chosen: Any) -> Tensor:
    if isinstance(chosen, Tensor):
        return chosen.detach().cpu()
    if isinstance(chosen, np.ndarray) and chosen.dtype.kind in "biu":
        # Bytes may be meant as a mask of 0 and 1: they stay what they are, and are refused.
        return shared(chosen if chosen.dtype in (np.bool_, np.uint8) else chosen.astype(np.int64))
    listed = isinstance(chosen, Iterable) and not isinstance(chosen, (str, bytes, dict, np.ndarray))
    values: list[Any] = list(chosen) if listed else [None]
    if values and all(isinstance(value, (bool, np.bool_)) for value in values):
        return torch.tensor(values, dtype=torch.bool)
    if all(_is_position(value) for value in values):
        return torch.tensor([int(value) for value in values], dtype=torch.int64)
    raise ValueError(
        f"forget: expected the positions of images, or a bool for each, got {_shown(chosen)}. Write e.g. "
        "[17, 404], or labels == 3"
    )


def _is_position(value: Any) -> bool:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and -(2**63) <= value < 2**63


def _wrong_positions(given: Tensor, count: int) -> str:
    """Return what is wrong with positions; "" for nothing."""
    if given.dtype != torch.int64 or given.ndim != 1:
        return f"{given.dtype} {tuple(given.shape)}"
    outside = given[(given < 0) | (given >= count)]
    if len(outside):
        return f"{int(outside[0])}"
    values, times = given.unique(return_counts=True)
    return f"{int(values[times > 1][0])} twice" if bool((times > 1).any()) else ""


def _shown(chosen: Any) -> str:
    text = repr(chosen)
    return text if len(text) <= 60 else f"{text[:57]}..."
