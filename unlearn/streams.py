"""Batches that never run out: beside a pass over one set, the other set goes round again, whichever is shorter."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from unlearn.impl import ForgetData
from vision_data import ImageSet

Batch = tuple[Tensor, Tensor]


def endless(data: ForgetData, images: ImageSet, size: int, *purpose: str) -> Iterator[Batch]:
    """Batches of `size` images on the data's device, reshuffled after each pass, for ever; the last of a pass may be smaller.

    The order comes from `data.generator(*purpose)`. One epoch of a method that takes two batches a step:

        retain = endless(data, data.retain, 256, "SRL", "retain")
        for (x_f, y_f), (x_r, y_r) in zip(data.forget.batches(256, generator=order, device=data.device), retain): ...
    """
    order = data.generator(*purpose)
    images = images.to(data.device)
    while True:
        yield from images.batches(size, generator=order, device=data.device)
