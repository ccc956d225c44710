"""The batches of many models: each model's own order and augmentation, the images gathered from one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vision_data import ImageSet
from vision_data.image_set import Moves


class Batches:
    """Normalised images (K, N, C, H, W) and labels (K, N) of K models at a time; model k has those at rows[k], in generators[k]'s order."""

    def __init__(
        self,
        images: ImageSet,
        rows: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        *,
        augment: bool,
    ) -> None:
        here = images.to(device)
        self.generators, self.augment, self.device = generators, augment, device
        self.rows = [chosen.cpu() for chosen in rows]
        self.normalisation, self.labels = images.normalisation, here.labels
        self.images = here.images if augment else self.normalisation(here.images)

    def epoch(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass of every model over its images, `size` at a time, in a new order."""
        pairs = zip(self.rows, self.generators, strict=True)
        shuffled = torch.stack([rows[torch.randperm(len(rows), generator=generator)] for rows, generator in pairs])
        for chosen in shuffled.split(size, dim=1):
            place = chosen.flatten().to(self.device)
            x = self.images.index_select(0, place)
            if self.augment:
                moves = [Moves.drawn(chosen.shape[1], x.shape[2], generator) for generator in self.generators]
                x = self.normalisation(Moves.joined(moves)(x))
            yield x.unflatten(0, chosen.shape), self.labels.index_select(0, place).view(chosen.shape)
