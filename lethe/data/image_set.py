"""Images, their labels, and their indexes in the original training set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lethe.data.augmentation import Augmentation, Moves, augmentations
from lethe.data.chosen_images import Chosen, Images, choose, in_parts, joined
from lethe.data.image_file import ImageFile
from lethe.data.item_columns import Columns
from lethe.data.labelled_images import Source, labelled_images


def forward_batch(device: torch.device | str) -> int:
    """Return the batch size of a forward pass: 1024, or 256 on a CPU: larger ones slow convolutions down."""
    return 256 if torch.device(device).type == "cpu" else 1024


@dataclass(frozen=True)
class Normalisation:
    """x -> (x / white - mean) / std per channel; `white` is the largest pixel value (16 for digits).

    mean = std = () leaves images unchanged.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int = 255

    @classmethod
    def of(cls, images: Images, white: int) -> Normalisation:
        """Compute the exact mean and standard deviation of each channel of uint8 images (N, C, H, W)."""
        levels = torch.arange(256, dtype=torch.float64) / white
        counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
        for part in in_parts(images):
            for count, channel in zip(counts, part.unbind(1), strict=True):
                count += torch.bincount(channel.flatten(), minlength=256)
        means, deviations = [], []
        for count in counts:
            share = count.double() / count.sum()
            mean = (share * levels).sum()
            means.append(mean.item())
            deviations.append((share * (levels - mean).square()).sum().sqrt().item() or 1.0)
        return cls(tuple(means), tuple(deviations), white)

    def __call__(self, images: Tensor | Chosen) -> Tensor:
        if isinstance(images, Chosen):
            images = images[:]
        if not self.mean:
            return images.clone()  # a model may write into its input (ReLU(inplace=True))
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return images.to(torch.float32, copy=True).div_(self.white).sub_(mean).div_(std)


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) uint8, labels (N,) int64, and indexes (N,) in the original training set.

    `images[rows]` is a tensor, `images[:]` one of all of them. The parts of a dataset share their images, and
    a set larger than memory stays in a file. Don't write into them: the digest is computed once.
    """

    images: Images
    labels: Tensor
    indexes: Tensor
    normalisation: Normalisation

    @classmethod
    def of_dataset(
        cls, source: Source, normalisation: Normalisation | None = None, *, columns: Columns | None = None
    ) -> ImageSet:
        """Make a set of your own images and labels, in whatever form they are.

        source: one of
            (images, labels) as tensors or NumPy arrays
            a torch Dataset of (image, label)
            a DataLoader: its dataset is read in order, whatever order the loader has
            a Hugging Face dataset, one split
        normalisation: for bytes, as the model was trained. Floats are the model's inputs
        columns: the names of the image and the label, where items have several

        Bytes may be (C, H, W), (H, W, C), (H, W) or Pillow images. The index of an image is its position in
        the dataset. Arrays share their memory with the set; other datasets are read once into one tensor.
        Raises ValueError for a source without positions, items that are no pairs, images of several sizes,
        images that are not finite or differ at each reading (random transforms), labels that are no integers
        from 0 on, and no images at all.
        """
        read = labelled_images(source, columns)
        return cls.of_tensors(read.images, read.labels, normalisation)

    @classmethod
    def of_tensors(
        cls, images: Tensor, labels: Tensor, normalisation: Normalisation | None = None
    ) -> ImageSet:
        """Make a set of your own images with int64 labels (N,).

        Images are floats (N, ...), the model's inputs, or uint8 (N, C, H, W) with a normalisation. The index
        of an image is its position. Labels and indexes move to the images' device. Raises ValueError for
        other types or lengths, negative labels, and images that are not finite.
        """
        for name, value in (("images", images), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"{name}: expected a torch tensor, got {type(value).__name__}. Use "
                    "of_dataset((images, labels), ...), which takes arrays too"
                )
        _check_labels(labels, images)
        _check_pixels(images, normalisation)
        place = images.device
        indexes = torch.arange(len(labels), device=place)
        return cls(images.detach(), labels.to(place), indexes, normalisation or Normalisation((), ()))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape[1:]))
        return f"<ImageSet: {len(self)} images of {shape}>"

    @property
    def streamed(self) -> bool:
        """Whether the images are in a file because they don't fit into memory."""
        return isinstance(self.images.base if isinstance(self.images, Chosen) else self.images, ImageFile)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that occur, ascending."""
        return tuple(self.labels.unique().tolist())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, labels and indexes."""
        content = hashlib.sha256()
        for values in (self.images, self.labels, self.indexes):
            content.update(repr(tuple(values.shape)).encode())
            for part in in_parts(values):
                content.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return content.hexdigest()

    def subset(self, chosen: Tensor) -> ImageSet:
        """Select images by a boolean mask (N,) or a tensor of positions."""
        return replace(
            self, images=choose(self.images, chosen), labels=self.labels[chosen], indexes=self.indexes[chosen]
        )

    def of_classes(self, *classes: int) -> ImageSet:
        return self.subset(torch.isin(self.labels, torch.tensor(classes, device=self.labels.device)))

    def without_classes(self, *classes: int) -> ImageSet:
        return self.subset(~torch.isin(self.labels, torch.tensor(classes, device=self.labels.device)))

    def joined(self, other: ImageSet) -> ImageSet:
        """Merge both sets in the order of their indexes, however they were divided."""
        indexes = torch.cat([self.indexes, other.indexes])
        order = indexes.argsort()
        labels = torch.cat([self.labels, other.labels])[order]
        return replace(
            self, images=joined(self.images, other.images, order), labels=labels, indexes=indexes[order]
        )

    def to(self, device: torch.device | str) -> ImageSet:
        """Move the set to a device; streamed images stay in their file."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            indexes=self.indexes.to(device),
        )

    def batches(
        self,
        size: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        augment: Augmentation = False,
        moves_from: torch.Generator | None = None,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised float images and labels, `size` at a time.

        generator: shuffles the images; None keeps their order
        augment: True shifts each image by up to an eighth of its height and mirrors it with probability 1/2;
            see `lethe.data.augmentation`
        moves_from: the generator of the augmentation, by default `generator`; without either nothing is
            augmented
        skip: number of first batches whose random numbers are drawn, but which are not read or yielded
        share: (k, n) yields every n-th image of each batch from the k-th on: process k of n
        """
        moving = generator if moves_from is None else moves_from
        kinds = () if moving is None else augmentations(augment)
        shuffled = None if generator is None else torch.randperm(len(self), generator=generator)
        own = slice(share[0], None, share[1])
        for number, start in enumerate(range(0, len(self), size)):
            count = min(size, len(self) - start)
            moves = (
                Moves.drawn(count, self.images.shape[2], moving, kinds)
                if kinds and moving is not None
                else None
            )
            if number < skip:
                continue
            if shuffled is None:
                rows = slice(start, start + size)
                images, labels = self.images[rows][own], self.labels[rows][own]
            else:
                chosen = shuffled[start : start + size][own].to(self.images.device)
                images, labels = self.images[chosen], self.labels[chosen]
            images, labels = images.to(device), labels.to(device)
            if moves is not None:
                images = moves.of(own)(images, self.normalisation)
            elif self.normalisation.mean or shuffled is None:  # a gathered batch is a copy already
                images = self.normalisation(images)
            yield images, labels


def _check_labels(labels: Tensor, images: Tensor) -> None:
    """Raise ValueError unless labels are int64 (N,), from 0 on."""
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels: expected torch.int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}. "
            "Give a class per image"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(
            f"labels: expected classes from 0 on, got {int(labels.min())}. Give a class per image"
        )


def _check_pixels(images: Tensor, normalisation: Normalisation | None) -> None:
    """Raise ValueError unless images are finite floats, or bytes with a normalisation of their channels."""
    is_float = images.is_floating_point()
    if is_float != (normalisation is None) or not (is_float or images.dtype == torch.uint8):
        raise ValueError(
            "images: expected floats as the model takes them, or uint8 and a normalisation, got "
            f"{images.dtype} and {normalisation}. Give one or the other, such as uint8 and "
            "normalisation=Normalisation(mean, std)"
        )
    if normalisation is not None:
        _check_channels(images, normalisation)
        return
    broken: list[int] = []
    seen = 0
    for part in in_parts(images):
        finite = part.isfinite().reshape(len(part), -1).all(1)
        broken += (~finite).nonzero().flatten().add(seen).tolist()
        seen += len(part)
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ValueError(
            f"images: expected finite numbers, got NaN or infinity in image {broken[0]}{more}. Leave "
            "such images out"
        )


def _check_channels(images: Tensor, normalisation: Normalisation) -> None:
    """Raise ValueError unless there is a mean and a deviation a channel, or one for all."""
    if images.ndim != 4:
        raise ValueError(f"images: expected uint8 (N, C, H, W), got {tuple(images.shape)}. Reshape them")
    for name, values in (("mean", normalisation.mean), ("std", normalisation.std)):
        if len(values) not in (0, 1, images.shape[1]):
            raise ValueError(
                f"normalisation: expected a {name} of 1 or {images.shape[1]} numbers for images of "
                f"{images.shape[1]} channels, got {len(values)}. Give one a channel"
            )
