"""WoodFisher influence unlearning: one Newton-like step that takes the forget set's part out of the optimum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from unlearn.fisher_information import AT_ONCE, BATCH, Tensors, batch_gradient, image_gradients, images_at_once, mean_gradient
from unlearn.impl import ForgetData, Unlearned, copy_of, register
from vision_data import ImageSet

NUMBERS = 2**28  # of single images' gradients that are held at once; twice where they are not all


def check(model: nn.Module, data: ForgetData, *, wfisher_step: float, damping: float, fisher_images: int, **_: object) -> dict[str, int]:
    """ValueError for a step or a damping that is not positive, and for no images."""
    for name, value in (("wfisher_step", wfisher_step), ("damping", damping)):
        if value <= 0:
            raise ValueError(f"--{name}: expected a number > 0, got {value}. Give a positive one")
    if fisher_images < 1:
        raise ValueError(f"--fisher_images: expected an integer >= 1, got {fisher_images}. Give at least 1")
    return {}


@register("wfisher", "IU", source="Izzo et al. 2021, arXiv:2002.10077; Jia et al. 2023, arXiv:2304.04934", resolve=check)
def wfisher(model: nn.Module, data: ForgetData, *, wfisher_step: float = 5.0, damping: float = 1.0, fisher_images: int = 1000) -> Unlearned:
    """Step against the influence of the forget set on the weights, the Hessian replaced by the empirical Fisher matrix.

        theta <- theta + wfisher_step (damping I + F)^-1 v
        v = n_f / n (mean g_f - mean g_r)            g: gradients of the cross-entropy, eval mode; n_f of n images are forgotten
        F = 1 / m sum_i g_i g_i'                     m single retain images

    Exact, by Woodbury: with the rows g_i in G, (damping I + F)^-1 v = (v - G' (damping m I + G G')^-1 G v) / damping. G G' is
    computed in pieces where G has more than 2^28 entries; the gradients are then computed anew for each pair of pieces.

    Flags:
        wfisher_step: what the step is multiplied by; influence theory has 1, which a damping of 1 makes too short to see
        damping: what is added to the Fisher matrix's eigenvalues
        fisher_images: single retain images that the Fisher matrix is made of, drawn at random; all if there are fewer

    Raises ValueError for values that are not positive, FloatingPointError if a weight is not finite afterwards.

    Departures: the published code's recursion updates the first gradient's direction over and over, which is not the inverse, and its
    ImageNet branch takes the retain gradient from the forget set.
    """
    check(model, data, wfisher_step=wfisher_step, damping=damping, fisher_images=fisher_images)
    student = copy_of(model)
    forget, retain = data.forget.to(data.device), data.retain.to(data.device)
    share = len(forget) / (len(forget) + len(retain))
    v = share * (_flat(mean_gradient(student, forget, data.device)) - _flat(mean_gradient(student, retain, data.device)))
    if len(retain) > fisher_images:
        retain = retain.subset(torch.randperm(len(retain), generator=data.generator("wfisher"))[:fisher_images].to(data.device))
    step = wfisher_step * solved(student, retain, v, damping, data)
    if not step.isfinite().all():
        raise FloatingPointError("wfisher diverged: the step is not finite. Choose a smaller --wfisher_step or a larger --damping")
    with torch.no_grad():
        vector_to_parameters(parameters_to_vector(student.parameters()) + step, student.parameters())
    return Unlearned(student, facts={"step_norm": step.norm().item(), "fisher_images_used": len(retain)})


def solved(model: nn.Module, images: ImageSet, v: Tensor, damping: float, data: ForgetData, numbers: int = NUMBERS) -> Tensor:
    """(damping I + F)^-1 v, with F from these images; at most twice `numbers` gradient entries are held at once."""
    size, m = images_at_once(model, numbers), len(images)
    gram, along = torch.zeros(m, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for i, rows in data.progress(_pieces(model, images, size, m), "wfisher", -(-m // size)):
        along[i : i + size] = (rows @ v).double().cpu()
        gram[i : i + size, i : i + size] = (rows @ rows.T).double().cpu()
        for j, others in _pieces(model, images, size, i):
            gram[i : i + size, j : j + size] = (rows @ others.T).double().cpu()
            gram[j : j + size, i : i + size] = gram[i : i + size, j : j + size].T
    weights = torch.linalg.solve(damping * m * torch.eye(m, dtype=torch.float64) + gram, along)
    return (v - _weighted_gradient(model, images, weights.to(v), data.device)) / damping


def _pieces(model: nn.Module, images: ImageSet, size: int, end: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, end, size):
        piece = images.subset(torch.arange(start, min(start + size, end)))
        x, y = next(piece.batches(size, device=piece.labels.device))
        yield start, torch.cat([_rows(model, *some) for some in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)])


def _rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradients (N, P) of single images."""
    return torch.cat([g.flatten(1) for g in image_gradients(model, x, y).values()], 1)


def _weighted_gradient(model: nn.Module, images: ImageSet, weights: Tensor, device: torch.device) -> Tensor:
    """G' weights, by a backward pass a batch."""
    total = torch.zeros_like(parameters_to_vector(model.parameters()))
    for (x, y), w in zip(images.batches(BATCH, device=device), weights.split(BATCH), strict=True):
        total += _flat(batch_gradient(model, x, y, w))
    return total


def _flat(gradients: Tensors) -> Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])
