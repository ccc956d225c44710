"""PCGrad, GDR, GDR_GMA, MUNBa: add-ons that make a step of two gradients descend both objectives."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from lethe.signature import Range, Search
from lethe.unlearn.add_ons import Gradients, Rule, Step, register
from lethe.unlearn.settings import Positive

GDR_SOURCE = "Lin et al. 2024, ACM MM, OpenReview 52NGERGnlz"
OPPOSED = 1e-12  # least 1 + cos at which two gradients are not opposite
FALLBACK = 0.1  # MUNBa's weight of the forget gradient where there is no agreement

Level = Annotated[float, Range(0), Search("log", 1e-3, 1)]


@register("PCGrad", source="Yu et al. 2020, NeurIPS, arXiv:2001.06782")
def pc_grad() -> Rule:
    """Where the two gradients are opposed, take from each its part along the other.

        where <g_u, g_c> < 0:  g_u' = g_u - <g_u, g_c> / |g_c|^2 g_c,   g_c' = g_c - <g_u, g_c> / |g_u|^2 g_u
        d = beta g_c' + (1 - beta) g_u'

    All weights are one vector. <d, g_u> >= 0 and <d, g_c> >= 0; the optimiser (momentum, Adam's scaling,
    weight decay) can break it afterwards.

    Departure: the source sums them, which is beta .5, times 2.
    """

    def rule(step: Step) -> Gradients:
        g_u, g_c = _rectified(step.unlearn, step.retain)
        return _weighted(g_u, g_c, step.beta)

    return rule


@register("GDR", source=GDR_SOURCE)
def gdr() -> Rule:
    """PCGrad, tensor by tensor.

        g_u', g_c' as in PCGrad, for the gradients of each tensor by itself
        d = beta g_c' + (1 - beta) g_u'

    In each tensor <d, g_u> >= 0 and <d, g_c> >= 0.

    Departure: published code subtracts the rectified g_c from g_u, by the coefficient of the original one:
    the step can climb the retain objective. Its memory of gradients holds those of the last tensor alone, and
    is left out.
    """

    def rule(step: Step) -> Gradients:
        g_u, g_c = _rectified_by_tensor(step)
        return _weighted(g_u, g_c, step.beta)

    return rule


@register("GDR_GMA", source=GDR_SOURCE, uses_beta=False)
def gdr_gma(*, gma_level: Level = 0.02, gma_sharpness: Positive = 100.0) -> Rule:
    """GDR, with a weight of the forget gradient that falls while the retain loss is high.

        w = 1 / (1 + exp(gma_sharpness (L_c - gma_level)))        d = (1 - w) g_c' + w g_u'

    L_c: the retain objective on the batch (nats). At L_c = gma_level both count half; with the defaults at .1
    the forget gradient has .03 % of the weight. It takes the place of beta.

    Flags:
        gma_level: retain loss at which both gradients count half; set it near the initial model's
        gma_sharpness: how fast the weight falls with the retain loss; set it near 2 over the level
    """

    def rule(step: Step) -> Gradients:
        w = torch.sigmoid(-gma_sharpness * (step.retain_loss - gma_level))
        g_u, g_c = _rectified_by_tensor(step)
        return [(1 - w).to(c) * c + w.to(u) * u for u, c in zip(g_u, g_c, strict=True)]

    return rule


@register("MUNBa", source="Wu, Harandi 2025, ICCV, arXiv:2411.15537", uses_beta=False)
def munba() -> Rule:
    """Agree on a step by Nash bargaining: along the bisector of the two gradients.

        d = (g_c / |g_c| + g_u / |g_u|) / sqrt(1 + cos(g_u, g_c)),    |d|^2 = 2

    All weights are one vector. d maximises log <d, g_u> + log <d, g_c>: no gradient's length matters, and
    there is no beta. Opposite gradients, or one of 0, find no agreement: d = g_c + .1 g_u.

    Departure: published code adds 1e-8 to sums of products: orthogonal gradients count as opposite there, and
    small ones are lost beside it.
    """

    def rule(step: Step) -> Gradients:
        u, c = _inner(step.unlearn, step.unlearn).sqrt(), _inner(step.retain, step.retain).sqrt()
        lengths = u * c
        agreement = 1 + _inner(step.unlearn, step.retain) / torch.where(lengths > 0, lengths, 1.0)
        agree = (agreement > OPPOSED) & (lengths > 0)
        root = torch.where(agree, agreement, 1.0).sqrt()
        of_retain = torch.where(agree, 1 / (torch.where(agree, c, 1.0) * root), 1.0)
        of_forget = torch.where(agree, 1 / (torch.where(agree, u, 1.0) * root), FALLBACK)
        pairs = zip(step.unlearn, step.retain, strict=True)
        return [of_retain.to(g_c) * g_c + of_forget.to(g_u) * g_u for g_u, g_c in pairs]

    return rule


def _weighted(g_u: Gradients, g_c: Gradients, beta: float) -> Gradients:
    return [beta * c + (1 - beta) * u for u, c in zip(g_u, g_c, strict=True)]


def _rectified_by_tensor(step: Step) -> tuple[Gradients, Gradients]:
    pairs = [_rectified([u], [c]) for u, c in zip(step.unlearn, step.retain, strict=True)]
    return [u[0] for u, _ in pairs], [c[0] for _, c in pairs]


def _rectified(g_u: Gradients, g_c: Gradients) -> tuple[Gradients, Gradients]:
    """Return g_u' and g_c' of PCGrad, both from the originals."""
    conflict = _inner(g_u, g_c).clamp(max=0)
    along_c, along_u = conflict / _positive(_inner(g_c, g_c)), conflict / _positive(_inner(g_u, g_u))
    pairs = list(zip(g_u, g_c, strict=True))
    return [u - along_c.to(u) * c for u, c in pairs], [c - along_u.to(c) * u for u, c in pairs]


def _inner(one: Gradients, other: Gradients) -> Tensor:
    """Return the inner product of two gradients over all tensors, in double precision."""
    products = [(a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)]
    return torch.stack(products).sum()


def _positive(square: Tensor) -> Tensor:
    """Return a squared length, 1 where it is 0."""
    return torch.where(square > 0, square, 1.0)
