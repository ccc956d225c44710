"""Batches for many models: each has its own order and augmentation, and all share the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lethe.data import ImageSet
from lethe.data.augmentation import Augmentation, Moves, augmentations
from lethe.data.chosen_images import Images


class SharedImages:
    """Images on a device that many models share, normalised in advance unless they are augmented."""

    def __init__(self, images: ImageSet, device: torch.device, *, augment: Augmentation) -> None:
        here = images.to(device)
        self.kinds, self.device = augmentations(augment), device
        self.is_raw = bool(self.kinds) or here.streamed
        self.normalisation, self.labels = images.normalisation, here.labels
        self.images: Images = here.images if self.is_raw else self.normalisation(here.images[:])

    def epoch(
        self, rows: Sequence[Tensor], generators: Sequence[torch.Generator], size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (K, size, C, H, W) and labels (K, size): those at rows[k], shuffled by generators[k].

        The last batch may be smaller.
        """
        pairs = zip(rows, generators, strict=True)
        shuffled = torch.stack(
            [chosen.cpu()[torch.randperm(len(chosen), generator=generator)] for chosen, generator in pairs]
        )
        for chosen in shuffled.split(size, dim=1):
            place = chosen.flatten().to(self.device)
            x = (
                self.images.index_select(0, place)
                if isinstance(self.images, Tensor)
                else self.images[place].to(self.device)
            )
            if self.kinds:
                moves = [
                    Moves.drawn(chosen.shape[1], x.shape[2], generator, self.kinds)
                    for generator in generators
                ]
                x = Moves.joined(moves)(x, self.normalisation)
            elif self.is_raw:
                x = self.normalisation(x)
            yield x.unflatten(0, chosen.shape), self.labels.index_select(0, place).view(chosen.shape)
