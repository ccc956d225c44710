"""WoodFisher influence unlearning: one Newton-like step to the optimum without the forget set."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lethe.data import ImageSet
from lethe.unlearn.fisher_information import BATCH, Tensors, batch_gradient, mean_gradient
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.layer_gradients import Factors, ImageGradients
from lethe.unlearn.settings import Count, Positive

NUMBERS = 2**28  # numbers of single images' gradients in memory at once; twice as many if it is not all
AT_ONCE = 64  # images by one call
BLOCK = 128  # rows of the matrix of inner products that are computed at once


@register(
    "wfisher",
    "IU",
    source="Izzo et al. 2021, arXiv:2002.10077; Jia et al. 2023, arXiv:2304.04934",
    augments=(),
    source_augments="crop and flip in every loader",
)
def wfisher(
    model: nn.Module,
    data: ForgetData,
    *,
    wfisher_step: Positive = 5.0,
    damping: Positive = 1.0,
    fisher_images: Count = 1000,
) -> Unlearned:
    """Step against the influence of the forget set, with the empirical Fisher matrix as the Hessian.

        theta <- theta + wfisher_step (damping I + F)^-1 v
        v = n_f / n (mean g_f - mean g_r)            g: gradients of the cross-entropy, eval mode
        F = 1 / m sum_i g_i g_i'                     m single retain images

    n_f of n images are forgotten. Exact, by Woodbury: with the rows g_i in G, (damping I + F)^-1 v = (v - G'
    (damping m I + G G')^-1 G v) / damping. By a linear layer's weights g_i is an outer product, delta_i h_i',
    and g_i g_j' is (delta_i delta_j')(h_i h_j'): it is never written out. If G in this form has more than
    2^28 entries, G G' is computed in pieces, and the gradients anew for each pair of pieces.

    Flags:
        wfisher_step: factor of the step; influence theory has 1, far too short with a damping of 1
        damping: addition to the Fisher matrix's eigenvalues
        fisher_images: random retain images for the Fisher matrix; all if there are fewer

    Raises FloatingPointError if a weight is not finite afterwards.

    Departures: the published code's recursion updates the first gradient's direction over and over, which is
    not the inverse, and its ImageNet branch takes the retain gradient from the forget set.
    """
    student = copy_of(model)
    forget, retain = data.forget.to(data.device), data.retain.to(data.device)
    share = len(forget) / (len(forget) + len(retain))
    of_forget, of_retain = (mean_gradient(student, images, data.device) for images in (forget, retain))
    v = {name: share * (of_forget[name] - of_retain[name]) for name in of_forget}
    if len(retain) > fisher_images:
        drawn = torch.randperm(len(retain), generator=data.generator("wfisher"))[:fisher_images]
        retain = retain.subset(drawn.to(data.device))
    step = wfisher_step * solved(student, retain, v, damping, data)
    if not step.isfinite().all():
        raise FloatingPointError(
            "wfisher diverged: the step is not finite. Choose a smaller --wfisher_step or a larger --damping"
        )
    with torch.no_grad():
        vector_to_parameters(parameters_to_vector(student.parameters()) + step, student.parameters())
    return Unlearned(student, facts={"step_norm": step.norm().item(), "fisher_images_used": len(retain)})


def solved(
    model: nn.Module, images: ImageSet, v: Tensors, damping: float, data: ForgetData, numbers: int = NUMBERS
) -> Tensor:
    """Return (damping I + F)^-1 v, with F from these images.

    numbers: of the images' gradients in memory at once; twice as many if it is not all.
    """
    some_images = next(images.batches(2, device=data.device))[0]
    gradients, m = ImageGradients(model, some_images), len(images)
    size = max(1, numbers // gradients.numbers_an_image(some_images))
    gram, along = torch.zeros(m, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for i, rows in data.progress(_pieces(gradients, images, size, m), "wfisher", -(-m // size)):
        of_layers = (own.along(gradients.packed(layer, v)).double() for layer, own in rows.items())
        along[i : i + size] = functools.reduce(torch.add, of_layers).cpu()
        _fill(gram, i, rows, i, rows)
        for j, others in _pieces(gradients, images, size, i):
            _fill(gram, i, rows, j, others)
    gram = gram.tril() + gram.tril(-1).T
    weights = torch.linalg.solve(damping * m * torch.eye(m, dtype=torch.float64) + gram, along)
    flat = _flat(v)
    return (flat - _weighted_gradient(model, images, weights.to(flat), data.device)) / damping


def _fill(gram: Tensor, i: int, rows: dict[str, Factors], j: int, others: dict[str, Factors]) -> None:
    """Add the inner products of two pieces that begin with images i and j, on and below the diagonal."""
    count = len(next(iter(rows.values())).inputs)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        needed = slice(i + end - j)
        # Summed where they are: the CPU waits once for all layers.
        of_layers = (
            own.images(slice(start, end)).products(others[layer].images(needed)).double()
            for layer, own in rows.items()
        )
        products = functools.reduce(torch.add, of_layers).cpu()
        gram[i + start : i + end, j : j + products.shape[1]] = products


def _pieces(
    gradients: ImageGradients, images: ImageSet, size: int, end: int
) -> Iterator[tuple[int, dict[str, Factors]]]:
    for start in range(0, end, size):
        piece = images.subset(torch.arange(start, min(start + size, end)))
        batches = piece.batches(min(size, AT_ONCE), device=piece.labels.device)
        parts = [gradients.of_labels(x, y) for x, y in batches]
        yield start, {layer: Factors.joined([part[layer] for part in parts]) for layer in parts[0]}


def _weighted_gradient(model: nn.Module, images: ImageSet, weights: Tensor, device: torch.device) -> Tensor:
    """Return G' weights, by a backward pass a batch."""
    total = torch.zeros_like(parameters_to_vector(model.parameters()))
    for (x, y), w in zip(images.batches(BATCH, device=device), weights.split(BATCH), strict=True):
        total += _flat(batch_gradient(model, x, y, w))
    return total


def _flat(gradients: Tensors) -> Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])
