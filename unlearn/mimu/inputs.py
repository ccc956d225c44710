"""The masked layer's inputs: all that masks are refined on and judged by, computed once per model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import MaskedLayer
from lethe.training import Tensors, computed_once
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.mimu.cache_key import key_of
from lethe.unlearn.mimu.graph import at_least_single

VERSION = 1  # part of the cache's key: raise it when other inputs are kept
MOST_IMAGES = 16_384  # of the training images, and of the validation images
MOST_WITH_IMAGES = 2_048  # where the layers after the masked one need the images


@dataclass(frozen=True)
class LayerInputs:
    """h (N, n) of N images, labels (N,), and the images (N, C, H, W) for a head that needs them."""

    h: Tensor
    labels: Tensor
    images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> LayerInputs:
        images = None if self.images is None else self.images[rows]
        return LayerInputs(self.h[rows], self.labels[rows], images)

    def of_classes(self, classes: tuple[int, ...]) -> LayerInputs:
        return self[torch.isin(self.labels, torch.tensor(classes, device=self.labels.device))]

    def without_classes(self, classes: tuple[int, ...]) -> LayerInputs:
        return self[~torch.isin(self.labels, torch.tensor(classes, device=self.labels.device))]

    def some(self, count: int) -> LayerInputs:
        """Return at most `count` images, evenly spread over the set."""
        if count >= len(self):
            return self
        return self[torch.arange(count, device=self.labels.device) * len(self) // count]

    def drawn(self, count: int, generator: torch.Generator) -> LayerInputs:
        """Return `count` images, drawn by `generator` without repetition; all, if there are fewer."""
        if count >= len(self):
            return self
        return self[torch.randperm(len(self), generator=generator)[:count].to(self.labels.device)]


@dataclass(frozen=True)
class RequestInputs:
    """The layer's inputs for the images of a forget request.

    gone: forgotten images of classes that go whole. images: forgotten images of the other classes. retain:
    retained images. unseen: validation images of every class.
    """

    gone: LayerInputs
    images: LayerInputs
    retain: LayerInputs
    unseen: LayerInputs

    @property
    def rest_of_classes(self) -> LayerInputs:
        """The retained images of the classes of which some images are forgotten."""
        return self.retain.of_classes(tuple(self.images.labels.unique().tolist()))

    @property
    def unseen_alike(self) -> LayerInputs:
        """The validation images of the classes of `images`; none, unless each of them has some."""
        classes = self.images.labels.unique()
        found = self.unseen.of_classes(tuple(classes.tolist()))
        return found if len(found.labels.unique()) == len(classes) else found.some(0)

    def by_kind(self) -> dict[str, LayerInputs]:
        """Return what refinement takes: of the validation images those that `images` are compared with."""
        return {
            "gone": self.gone,
            "images": self.images,
            "unseen": self.unseen_alike,
            "retain": self.retain,
        }


def inputs_of(
    layer: MaskedLayer, images: ImageSet, device: torch.device, batch_size: int = 1024
) -> LayerInputs:
    """Return the layer's inputs for all images, by one pass through the layers before it."""
    if not len(images):
        return LayerInputs(torch.empty(0, layer.shape[1], device=device), images.labels.to(device))
    h, pixels = [], []
    with torch.no_grad():
        for x, _ in images.batches(batch_size, device=device):
            h.append(at_least_single(layer.body(x)))
            pixels += [x] if layer.needs_images else []
    return LayerInputs(torch.cat(h), images.labels.to(device), torch.cat(pixels) if pixels else None)


def inputs_of_request(model: nn.Module, layer: MaskedLayer, data: ForgetData) -> RequestInputs:
    """Return the inputs of a request, at most MOST_IMAGES of training and of validation, drawn by class.

    They are cached, the same for every request of this model. Forgotten images of a class that stays are
    taken whole.
    """
    training, validation, indexes = _of_model(model, layer, data)
    is_forgotten = torch.isin(indexes, data.forget.indexes.to(indexes.device))
    retain = training[~is_forgotten]
    if not len(retain):  # so few that none of them was drawn
        retain = inputs_of(layer, _drawn_by_class(data.retain, _most(layer), data), data.device)
    of_other_classes = data.forget.without_classes(*data.forget_classes)
    return RequestInputs(
        gone=training.of_classes(data.forget_classes),
        images=inputs_of(layer, of_other_classes, data.device),
        retain=retain,
        unseen=validation,
    )


def _of_model(
    model: nn.Module, layer: MaskedLayer, data: ForgetData
) -> tuple[LayerInputs, LayerInputs, Tensor]:
    """Return the inputs of training and validation images, and the former's indexes."""
    most = _most(layer)
    sets = {"training": data.train, "validation": data.every_validation}

    def compute() -> Tensors:
        tensors: Tensors = {}
        for name, images in sets.items():
            drawn = _drawn_by_class(images, most, data)
            found = inputs_of(layer, drawn, data.device)
            tensors[f"{name}.indexes"] = drawn.indexes.cpu()
            tensors |= {f"{name}.h": found.h.cpu(), f"{name}.labels": found.labels.cpu()}
            if found.images is not None:
                tensors[f"{name}.images"] = found.images.cpu()
        return tensors

    validated = data.every_validation.digest
    key = key_of("inputs of the masked layer", VERSION, model, layer, data, {"validation": validated})
    tensors, _ = computed_once(data.cache, key, compute)
    tensors = {name: value.to(data.device) for name, value in tensors.items()}
    training, validation = (
        LayerInputs(tensors[f"{name}.h"], tensors[f"{name}.labels"], tensors.get(f"{name}.images"))
        for name in sets
    )
    return training, validation, tensors["training.indexes"]


def _most(layer: MaskedLayer) -> int:
    return MOST_WITH_IMAGES if layer.needs_images else MOST_IMAGES


def _drawn_by_class(images: ImageSet, most: int, data: ForgetData) -> ImageSet:
    """Return at most `most` of the images, as many of each class, in their order; one of each at least."""
    if len(images) <= most:
        return images
    generator = data.generator("MIMU", "inputs")
    order = torch.randperm(len(images), generator=generator)
    labels = images.labels.cpu()[order]
    room = max(1, most // len(images.classes))
    rows = torch.cat([order[labels == label][:room] for label in images.classes])
    return images.subset(rows.sort().values.to(images.labels.device))
