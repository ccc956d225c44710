"""CAGrad: near the plain step, the direction that helps the worse-off of the two objectives most."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from lethe.signature import Range, Search
from lethe.unlearn.add_ons import Gradients, Rule, Step, register

POINTS, ROUNDS = 65, 6  # a grid that is refined 32 times in each round: to 1e-9 of the interval

Radius = Annotated[float, Range(0), Search("linear", 0, 1)]


@register("CAGrad", source="Liu, Liu, Jin, Stone, Liu 2021, NeurIPS, arXiv:2110.14048")
def cagrad(*, cagrad_c: Radius = 0.5) -> Rule:
    """Maximise the smaller gain of the two objectives within a ball around the plain step.

        w* = argmin over 0 <= w <= 1 of <g_w, d> + r |g_w|,    g_w = w g_c + (1 - w) g_u,    r = cagrad_c |d|
        (d + r g_w* / |g_w*|) / (1 + cagrad_c^2)

    over all weights as one vector. Below cagrad_c = 1 an objective may still lose.

    Flags:
        cagrad_c: radius of the ball, over the length of the plain step

    Departure: the ball is around d with its beta; the source's has beta = 1/2.
    """

    def rule(step: Step) -> Gradients:
        plain = step.direction
        gram = gram_matrix([step.unlearn, step.retain, plain])
        weights, factor = best_mixture(gram, cagrad_c)
        mixed = zip(step.unlearn, step.retain, plain, strict=True)
        return [
            ((d + factor * (weights[0] * g_u + weights[1] * g_c)) / (1 + cagrad_c**2)).to(d.dtype)
            for g_u, g_c, d in mixed
        ]

    return rule


def gram_matrix(vectors: list[Gradients]) -> Tensor:
    """Return the inner products of vectors that come in tensors, in double precision."""
    parts = []
    for tensors in zip(*vectors, strict=True):
        rows = torch.stack([tensor.flatten() for tensor in tensors]).double()
        parts.append(rows @ rows.T)
    return torch.stack(parts).sum(0)


def best_mixture(gram: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Return the weights (2,) of g_u and g_c in g_w*, and r / |g_w*|; 0 where g_w* is 0.

    gram: of g_u, g_c and the plain step. The function of w is convex, so that its minimum lies beside the
    lowest point of a grid. Nothing is read from the device.
    """
    radius = c * gram[2, 2].sqrt()
    low, high = gram.new_zeros(()), gram.new_ones(())
    shares = torch.linspace(0, 1, POINTS, dtype=gram.dtype, device=gram.device)
    for _ in range(ROUNDS):
        grid = low + (high - low) * shares
        along, length = _mixed(gram, grid)
        best = grid.gather(0, (along + radius * length).argmin().view(1)).squeeze(0)
        width = (high - low) / (POINTS - 1)
        low, high = (best - width).clamp(min=0), (best + width).clamp(max=1)
    _, length = _mixed(gram, best[None])
    factor = torch.where(length > 0, radius / length, torch.zeros_like(length)).squeeze(0)
    return torch.stack([1 - best, best]), factor


def _mixed(gram: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return <g_w, d> and |g_w| at each w of the grid."""
    weights = torch.stack([1 - grid, grid])
    squares = (weights * (gram[:2, :2] @ weights)).sum(0)
    return gram[2, :2] @ weights, squares.clamp(min=0).sqrt()
