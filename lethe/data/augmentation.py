"""Augmentation of a whole batch on its device, with random numbers from a generator on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["crop", "flip", "cutout"]
Augmentation = bool | Sequence[str]  # True: crop and flip
CROP_AND_FLIP: tuple[Kind, ...] = ("crop", "flip")
HOLE = 4  # a hole's side is height / HOLE
MARGIN = 8  # a crop shifts an image by at most height / MARGIN
# Of the shorter side; below, the kind has no effect or wipes the image.
LEAST_PIXELS = {"crop": MARGIN, "flip": 2, "cutout": HOLE}


def augmentations(asked: Augmentation) -> tuple[str, ...]:
    """Return the kinds asked for, in the order of application. Raises ValueError for an unknown kind."""
    if isinstance(asked, bool):
        return CROP_AND_FLIP if asked else ()
    for kind in asked:
        if kind not in get_args(Kind):
            raise ValueError(
                f"augmentation: expected some of {', '.join(get_args(Kind))}, got {kind!r}. Correct the list"
            )
    return tuple(kind for kind in get_args(Kind) if kind in asked)


def augmentations_of_flag(words: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds that the words of a flag name; none for `none`.

    Raises ValueError for an unknown kind, for no word, and for `none` beside others.
    """
    if not words or ("none" in words and len(words) > 1):
        raise ValueError(
            f"expected none alone, or some of {', '.join(get_args(Kind))}, got "
            f"{','.join(words) or 'nothing'}. Choose"
        )
    return augmentations(() if "none" in words else words)


def check_augmentable(kinds: Sequence[str], shape: Sequence[int]) -> None:
    """Raise ValueError if a kind can't be applied to images of a shape (C, H, W) or has no effect on them."""
    if kinds and len(shape) != 3:
        raise ValueError(
            f"augmentation {','.join(kinds)}: expected images (channels, height, width), got {tuple(shape)}. "
            "Ask for none"
        )
    for kind in kinds:
        least, shorter = LEAST_PIXELS[kind], min(shape[1:])
        if shorter < least:
            raise ValueError(
                f"augmentation {kind}: expected images of at least {least} x {least} pixels, got {shape[1]} "
                f"x {shape[2]}. Leave {kind} out"
            )


@dataclass(frozen=True)
class Moves:
    """The augmentation of each of N images.

    down, right: (N, 1) int64, the crop's offset in the padded image: 0 to 2 * (height // 8) pixels
    mirrored: (N, 1) bool
    holes: (N, 2), row and column of the hole's centre as fractions of height and width; None without cutout
    """

    down: Tensor
    right: Tensor
    mirrored: Tensor
    holes: Tensor | None = None

    @classmethod
    def drawn(
        cls, count: int, height: int, generator: torch.Generator, kinds: Sequence[str] = CROP_AND_FLIP
    ) -> Moves:
        """Draw the augmentation of `count` images; draws nothing for a kind that is not in `kinds`."""
        down = right = torch.full((count, 1), height // MARGIN)
        mirrored, holes = torch.zeros(count, 1, dtype=torch.bool), None
        if "crop" in kinds:
            down, right = (
                torch.randint(2 * (height // MARGIN) + 1, (count, 1), generator=generator) for _ in range(2)
            )
        if "flip" in kinds:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
        if "cutout" in kinds:
            holes = torch.rand(count, 2, generator=generator)
        return cls(down, right, mirrored, holes)

    @classmethod
    def joined(cls, parts: Sequence[Moves]) -> Moves:
        """Concatenate the moves of several sets of images."""
        holes = [part.holes for part in parts if part.holes is not None]
        down, right, mirrored = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("down", "right", "mirrored")
        )
        return cls(down, right, mirrored, torch.cat(holes) if holes else None)

    def of(self, chosen: slice) -> Moves:
        """Return the moves of some of the images."""
        return Moves(
            self.down[chosen],
            self.right[chosen],
            self.mirrored[chosen],
            None if self.holes is None else self.holes[chosen],
        )

    def __call__(
        self, images: Tensor, normalisation: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Tensor:
        """Pad the images (N, C, H, W) with zeros, crop, mirror and normalise them; then set the holes to 0.

        Crop and flip: He et al. 2016, arXiv:1512.03385. Cutout: DeVries, Taylor 2017, arXiv:1708.04552. A
        hole may reach over the border. Its side is a quarter of the height; in the paper it is 16 of 32
        pixels for CIFAR-10 and 8 for CIFAR-100.
        """
        count, _, height, width = images.shape
        pad = height // MARGIN
        columns = torch.arange(width).expand(count, -1)
        columns = torch.where(self.mirrored, columns.flip(1), columns) + self.right
        rows = torch.arange(height) + self.down
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        where = (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
        picked = padded.permute(0, 2, 3, 1)[tuple(index.to(images.device) for index in where)]
        moved = normalisation(picked.permute(0, 3, 1, 2))
        return moved if self.holes is None else self._cut(moved, self.holes)

    def _cut(self, images: Tensor, holes: Tensor) -> Tensor:
        height, width = images.shape[2:]
        half = max(1, height // HOLE) / 2
        row, column = holes[:, 0, None] * height, holes[:, 1, None] * width
        rows = (torch.arange(height) + 0.5 - row).abs() <= half
        columns = (torch.arange(width) + 0.5 - column).abs() <= half
        hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
        return images.masked_fill(hole, 0)
