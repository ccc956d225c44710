"""Many classes from few datasets: joined, with mirrored and transposed copies as classes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lethe.data import RawDataset

VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda images: images,
    lambda images: images.flip(-1),
    lambda images: images.transpose(-1, -2),
)


class Part(NamedTuple):
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Joined:
    """Training images drawn by a seed, others that were not drawn, and test images."""

    train: Part
    unseen: Part
    test: Part
    white: int
    class_names: tuple[str, ...]

    @property
    def raw(self) -> RawDataset:
        return RawDataset((*self.train,), (*self.test,), self.class_names)


def joined(
    datasets: Sequence[str], views: int, per_class: int, seed: int, folder: str, most_unseen: int = 300
) -> Joined:
    """Return `per_class` training images of each class, or nine tenths where there are fewer.

    Each of the first `views` of: as they are, mirrored, transposed, makes the datasets' classes anew.
    most_unseen: of each class, as many of the other training images. Test images are not drawn.
    """
    from lethe.data.impl import read

    sources = [read(name, folder, {}) for name in datasets]
    draws = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Part]] = {"train": [], "unseen": [], "test": []}
    names: list[str] = []
    for number, view in enumerate(VIEWS[:views]):
        for source in sources:
            for name, part in _parts_of(source, view, len(names), per_class, most_unseen, draws):
                parts[name].append(part)
            names += [f"{name} {number}" for name in source.class_names]
    whole = {name: _together(pieces) for name, pieces in parts.items()}
    return Joined(**whole, white=sources[0].white, class_names=tuple(names))


def _parts_of(
    source: RawDataset,
    view: Callable[[Tensor], Tensor],
    first_label: int,
    per_class: int,
    most_unseen: int,
    draws: torch.Generator,
) -> Iterator[tuple[str, Part]]:
    images, labels = source.train
    for label in range(len(source.class_names)):
        rows = (labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=draws)]
        count = min(per_class, len(rows) * 9 // 10)
        chosen = {"train": rows[:count], "unseen": rows[count : count + most_unseen]}
        for name, own in chosen.items():
            yield name, Part(view(images[own]), torch.full((len(own),), first_label + label))
        if source.test is not None:
            own = (source.test[1] == label).nonzero().squeeze(1)
            yield "test", Part(view(source.test[0][own]), torch.full((len(own),), first_label + label))


def _together(pieces: Sequence[Part]) -> Part:
    if not pieces:  # a dataset without a test part
        return Part(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    images = torch.cat([piece.images for piece in pieces]).contiguous()
    return Part(images, torch.cat([piece.labels for piece in pieces]))
