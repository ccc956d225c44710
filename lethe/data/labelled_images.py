"""Images and labels of one's own: arrays, a torch Dataset or DataLoader, a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)
from tqdm import tqdm

from lethe.data.item_columns import Columns, columns_of
from lethe.data.memory import free_memory
from lethe.data.pixels import batch_of, is_array, pixels_of
from lethe.system.progress_place import bar_settings

READ_TWICE = 32  # images that are read twice: random flips of half the images leave one chance in 4 billion
# Samplers of a whole dataset, however many images they draw.
OF_ALL = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)
LARGEST_LABEL = 2**31 - 1


class Items(Protocol):
    """A sequence of pairs (image, label), or of dictionaries with an image and a label."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: Any, /) -> Any: ...


Array = Tensor | np.ndarray
Source = Dataset[Any] | DataLoader[Any] | Items | tuple[Array, Array | Sequence[int]]


class LabelledImages(NamedTuple):
    """Images as bytes (N, C, H, W) or floats (N, ...), labels (N,) int64, and class names, () if unknown."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()


def labelled_images(source: Source, columns: Columns | None = None) -> LabelledImages:
    """Read all images and labels, in the order of the dataset.

    source: (images, labels) as tensors or arrays; a torch Dataset of (image, label); a DataLoader, whose
    dataset is read, and not its own order; a Hugging Face dataset. columns: the names of the image and the
    label, for a dataset of dictionaries with several. Arrays and a TensorDataset are not copied; other
    datasets are read item by item into one tensor, with a progress bar if it takes more than 2 seconds.

    Raises ValueError for a source without positions, items that are no pairs, images of several sizes or
    that differ from one reading to the next, labels that are no integers, and no images at all.
    """
    items: Any = _dataset_of(source)
    if type(items) is TensorDataset and len(items.tensors) == 2:
        items = items.tensors
    if _is_images_and_labels(items):
        return _of_arrays(*items)
    _check_has_positions(items)
    if not len(items):
        raise ValueError("the dataset: expected at least one image, got none. Give another dataset")
    read = _Pairs(items, columns)
    _check_not_random(read)
    images, labels = _all_of(read)
    return LabelledImages(images, labels, _class_names(items, read.columns, int(labels.max())))


def class_count(labels: Tensor, names: tuple[str, ...], asked: int | None) -> int:
    """Return how many classes there are: as asked for, as many as names, or as the labels say.

    Raises ValueError for a label beyond those asked for, and, if nobody says how many classes there are, for
    labels that leave one out: they may be numbered from 1, or be no classes.
    """
    largest = int(labels.max())
    if asked is not None and largest >= asked:
        raise ValueError(
            f"classes: expected at least {largest + 1}, as there is an image of class {largest}, got "
            f"{asked}. Give the number of the model's outputs"
        )
    if asked is not None or names:
        return asked or len(names)
    present = labels.unique()
    if len(present) <= largest:
        expected = torch.arange(len(present), device=present.device)
        missing = int((present != expected).nonzero()[0])
        raise ValueError(
            f"labels: expected every class from 0 to {largest}, got no image of class {missing}. Number the "
            f"classes from 0 on, or give classes={largest + 1} if the model has so many"
        )
    return largest + 1


def _dataset_of(source: Any) -> Any:
    """Return the dataset of a DataLoader, and another source as it is."""
    if not isinstance(source, DataLoader):
        return source
    if source.collate_fn not in (default_collate, default_convert):
        raise ValueError(
            "the loader: expected one with torch's own collate_fn, got another, which changes the images. "
            "Give a dataset of pairs (image, label) as the model takes them"
        )
    if hasattr(source.dataset, "__len__"):
        _check_sampler(getattr(source.batch_sampler, "sampler", source.sampler), len(source.dataset))
    return source.dataset


def _check_sampler(sampler: Any, count: int) -> None:
    """Raise ValueError for a sampler of a part of the dataset, which would be read whole all the same."""
    if isinstance(sampler, OF_ALL) or not hasattr(sampler, "__len__") or len(sampler) == count:
        return
    raise ValueError(
        f"the loader: expected one of its whole dataset, got a {type(sampler).__name__} of "
        f"{len(sampler)} of its {count} images. Give torch.utils.data.Subset(dataset, indices)"
    )


def _check_has_positions(items: Any) -> None:
    if isinstance(items, Mapping):
        names = ", ".join(map(str, items))
        raise ValueError(
            f"the dataset: expected one split or part, got a dictionary of {names}. Give one of them, "
            'such as datasets["train"]'
        )
    has_positions = hasattr(items, "__getitem__") and hasattr(items, "__len__")
    if isinstance(items, IterableDataset) or not has_positions:
        raise ValueError(
            f"the dataset: expected one with a length and positions, so that indexes name its images, got "
            f"{type(items).__name__}. Read it into a list: list(dataset)"
        )


class _Pairs:
    """The items of a dataset as (pixels, label)."""

    def __init__(self, items: Any, columns: Columns | None) -> None:
        self.items = items
        self.columns = columns_of(items[0], getattr(items, "features", None), columns)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image, label = self._pair(self.items[position], position)
        return pixels_of(image, f"image {position}"), _label_of(label, position)

    def _pair(self, item: Any, position: int) -> tuple[Any, Any]:
        if self.columns is not None and isinstance(item, Mapping):
            return item[self.columns[0]], item[self.columns[1]]
        if isinstance(item, (tuple, list)) and len(item) == 2:
            return item[0], item[1]
        of = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise ValueError(
            f"item {position} of the dataset: expected a pair (image, label), got a "
            f"{type(item).__name__}{of}. Give pairs, such as list(zip(images, labels))"
        )


def _all_of(pairs: _Pairs) -> tuple[Tensor, Tensor]:
    first, _ = pairs[0]
    _check_memory(len(pairs), first)
    images = torch.empty((len(pairs), *first.shape), dtype=first.dtype)
    labels = torch.empty(len(pairs), dtype=torch.int64)
    columns = f" (columns {', '.join(pairs.columns)})" if pairs.columns else ""
    # Not `enumerate(pairs)`: a dataset need not raise IndexError at its end.
    positions = tqdm(
        range(len(pairs)),
        desc=f"reading images{columns}",
        delay=2,
        leave=False,
        unit=" images",
        **bar_settings(),
    )
    for position in positions:
        image, labels[position] = pairs[position]
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"image {position}: expected {first.dtype} {tuple(first.shape)} as image 0 is, got "
                f"{image.dtype} {tuple(image.shape)}. Give images of one size, type "
                "and number of channels: convert them in the dataset"
            )
        images[position] = image
    return images, labels


def _check_memory(count: int, image: Tensor) -> None:
    needed, free = count * image.numel() * image.element_size(), free_memory()
    if needed > free:
        raise ValueError(
            f"{count:,} images {tuple(image.shape)} of {image.dtype}: expected at most the "
            f"{free / 1e9:.1f} GB of memory that are free, got {needed / 1e9:.1f} GB. Give fewer or smaller "
            "ones, or bytes (uint8) with a normalisation"
        )


def _check_not_random(pairs: _Pairs) -> None:
    """Raise ValueError if an image or a label is another one when it is read again."""
    positions = torch.linspace(0, len(pairs) - 1, min(READ_TWICE, len(pairs))).long().tolist()
    for position in positions:
        (image, label), (again, same_label) = pairs[position], pairs[position]
        same = image.shape == again.shape and bool(((image == again) | image.isnan()).all())
        if not same or label != same_label:
            raise ValueError(
                f"item {position} of the dataset: expected the same image and label at every reading, got "
                "others the second time. Leave out the random transforms: give the images as the model sees "
                'them when it is tested, and augment="flip" or the like for methods that train'
            )


def _label_of(label: Any, position: int) -> int:
    """Return a label as an integer. An array of one integer is one too, as in MedMNIST."""
    value = label
    if isinstance(label, np.generic) or (is_array(label) and label.reshape(-1).shape == (1,)):
        value = label.item()
    if not isinstance(value, int) or isinstance(value, bool):
        got = f"{type(label).__name__} {tuple(label.shape)}" if is_array(label) else repr(label)
        raise ValueError(
            f"the label of image {position}: expected an integer, got {got}. Number the classes as the "
            "model's outputs are, from 0 on"
        )
    if not 0 <= value <= LARGEST_LABEL:
        raise ValueError(
            f"the label of image {position}: expected a class from 0 on, got {value}. Leave out images "
            "without a class"
        )
    return value


def _labels_of(labels: Array | Sequence[int]) -> Tensor:
    """Return labels (N,) or (N, 1) of any integer type as int64 (N,)."""
    if not isinstance(labels, (Tensor, np.ndarray)):
        return torch.tensor([_label_of(label, position) for position, label in enumerate(labels)])
    found = labels
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        found = torch.from_numpy(labels.astype(np.int64))
    if not isinstance(found, Tensor) or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(
            f"labels: expected integers, got {labels.dtype}. Number the classes as the model's outputs are, "
            "from 0 on"
        )
    return found.squeeze(1).long() if found.ndim == 2 and found.shape[1] == 1 else found.long()


def _is_images_and_labels(items: Any) -> bool:
    """Return whether this is (images, labels), and not two pairs; torchvision's labels may be a list."""
    two = isinstance(items, (tuple, list)) and len(items) == 2
    return two and is_array(items[0]) and (is_array(items[1]) or isinstance(items[1], (tuple, list)))


def _of_arrays(images: Array, labels: Array | Sequence[int]) -> LabelledImages:
    if not len(images):
        raise ValueError("images: expected at least one, got none. Give another dataset")
    return LabelledImages(batch_of(images, "images"), _labels_of(labels))


def _class_names(items: Any, columns: Columns | None, largest: int) -> tuple[str, ...]:
    """Return the names that a Hugging Face dataset or torchvision gives the classes; () if none fit."""
    while isinstance(items, Subset):
        items = items.dataset
    if columns is not None:
        names = getattr((getattr(items, "features", None) or {}).get(columns[1]), "names", ())
    else:
        # With a target_transform, the labels are no longer the classes that have these names.
        names = () if getattr(items, "target_transform", None) else getattr(items, "classes", ())
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if largest < len(names) else ()
