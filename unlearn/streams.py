"""Endless batches: beside a pass over one set, the other set is cycled, whichever is shorter."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.data import ImageSet
from lethe.unlearn.impl import Batch, ForgetData


def endless(
    data: ForgetData, images: ImageSet, size: int, *purpose: str, augmented: bool = True
) -> Iterator[Batch]:
    """Yield batches of `size` images on the data's device, reshuffled after each pass, without end.

    The last batch of a pass may be smaller. augmented: by `data.training_batches`; False to measure or rank
    by. The order comes from `data.generator(*purpose)`. One epoch of a method with two batches a step:

        retain = endless(data, data.retain, 256, "SRL", "retain")
        for (x_f, y_f), (x_r, y_r) in zip(data.training_batches(data.forget, 256, order, moves), retain): ...
    """
    order, moves = data.generator(*purpose), data.generator(*purpose, "augmentation")
    images = images.to(data.device)
    while True:
        if augmented:
            yield from data.training_batches(images, size, order, moves)
        else:
            yield from images.batches(size, generator=order, device=data.device)
