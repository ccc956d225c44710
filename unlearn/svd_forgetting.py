"""SVD_forgetting: remove what each layer does with the directions that the forgotten class alone uses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.input_moments import drawn_inputs, layers_of
from lethe.unlearn.settings import Count, Positive
from lethe.unlearn.whole_classes import only_whole_classes

ROUNDING = 1e-12  # of an eigenvalue, relative to the sum


def check_layers(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a convolution whose inputs are no rows of patches."""
    layers_of(model)


@register(
    "SVD_forgetting",
    "class_forgetting",
    "deep_unlearning_svd",
    source="Kodge, Saha, Roy 2024, arXiv:2312.00761",
    resolve=(only_whole_classes("SVD_forgetting"), check_layers),
    whole_class=True,
    augments=(),
    source_augments="nothing",
)
def svd_forgetting(
    model: nn.Module,
    data: ForgetData,
    *,
    retain_alpha: Positive = 100.0,
    forget_alpha: Positive = 3.0,
    images_per_class: Count = 100,
    places: Count = 10000,
) -> Unlearned:
    """Project the weights of each layer off the directions of its inputs that only the forget class uses.

        M = U diag(lambda) U',  lambda_i = alpha r_i / ((alpha - 1) r_i + 1),  r_i = s_i^2 / sum s^2
        W <- W (I - (I - M_r) M_f)

    U, s: singular vectors and values of a layer's inputs (a, m), centred by nothing, over some retain images
    (M_r, with retain_alpha) and as many forget images (M_f, with forget_alpha); of a convolution the inputs
    are patches, and W is (outputs, a). All are of the initial model, in eval mode. Biases and batch norm
    stay. No gradient is computed.

    A larger forget_alpha forgets more, a larger retain_alpha protects more; the paper tries 1 to 100 and 10
    to 1,000. They go with how evenly the inputs spread, as r_i is a share.

    Flags:
        retain_alpha: how far the directions that retain images use are protected
        forget_alpha: how far the directions that forget images use are removed
        images_per_class: retain images of each class, drawn once, and as many forget images as all of them;
            all if there are fewer
        places: inputs of a layer that count, as many of each image: patches or rows, drawn at random

    Raises ValueError for a part of a class, and for a convolution in groups or with unusual padding;
    FloatingPointError for inputs of a layer that are not finite.

    Departures: published code keeps only the first of several classes out of retain, and takes the patches
    from one window for all images, another for retain than for forget; here they are drawn for each image.
    The singular vectors are eigenvectors, in double precision. The defaults are the paper's for CIFAR-10.
    """
    student = copy_of(model)
    retain = of_each_class(data.retain, images_per_class, data)
    forget = drawn(data.forget, len(retain), data, "forget images")
    of_retain, of_forget = (
        drawn_inputs(student, images, data, "SVD_forgetting", name, places=places)
        for name, images in (("retain", retain), ("forget", forget))
    )
    layers = layers_of(student)
    for name in data.progress(of_forget, "SVD_forgetting", len(of_forget)):
        check_numbers(name, of_retain[name], of_forget[name])
        protected, removed = used(of_retain[name], retain_alpha), used(of_forget[name], forget_alpha)
        project(layers[name], protected, removed)
    return Unlearned(student)


def check_numbers(layer: str, *inputs: Tensor) -> None:
    """Raise FloatingPointError for a layer with inputs that are not finite, which have no singular values."""
    if not all(bool(rows.isfinite().all()) for rows in inputs):
        raise FloatingPointError(
            f"SVD_forgetting: expected finite inputs of layer {layer!r}, got others. Give a model whose "
            "outputs are finite"
        )


class Used(NamedTuple):
    """M = U diag(lambda) U' of a layer's inputs."""

    directions: Tensor  # U (a, k)
    strengths: Tensor  # lambda (k)

    def of(self, weight: Tensor) -> Tensor:
        """Return W M, for W (outputs, a)."""
        return (weight @ self.directions * self.strengths) @ self.directions.T


def used(inputs: Tensor, alpha: float) -> Used:
    """Return M of inputs (m, a), from the eigenvectors of the smaller one of their two products."""
    rows = inputs.double()
    few = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    total = values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    values = torch.where(values > total * ROUNDING, values, 0.0)
    directions = rows.T @ vectors / torch.where(values > 0, values, 1.0).sqrt() if few else vectors
    shares = values / total
    return Used(directions, alpha * shares / ((alpha - 1) * shares + 1))


@torch.no_grad()
def project(layer: nn.Linear | nn.Conv2d, protected: Used, removed: Used) -> None:
    """Set W to W (I - (I - M_r) M_f), W flattened to (outputs, a)."""
    weight = layer.weight.flatten(1).double()
    unprotected = weight - protected.of(weight)
    layer.weight.copy_((weight - removed.of(unprotected)).view_as(layer.weight))


def of_each_class(images: ImageSet, count: int, data: ForgetData) -> ImageSet:
    """Return `count` random images of each class, all of a class with fewer."""
    labels = images.labels.cpu()
    chosen = torch.zeros(len(images), dtype=torch.bool)
    for label in images.classes:
        positions = (labels == label).nonzero().squeeze(1)
        chosen[positions[first_of(len(positions), count, data, f"class {label}")]] = True
    return images.subset(chosen)


def drawn(images: ImageSet, count: int, data: ForgetData, purpose: str) -> ImageSet:
    """Return `count` random images, all if there are fewer."""
    return images.subset(first_of(len(images), count, data, purpose))


def first_of(total: int, count: int, data: ForgetData, purpose: str) -> Tensor:
    """Return `count` random positions of so many, all in order if there are fewer."""
    if total <= count:
        return torch.arange(total)
    return torch.randperm(total, generator=data.generator("SVD_forgetting", purpose))[:count]
