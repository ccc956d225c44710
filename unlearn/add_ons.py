"""Add-ons: how the forget and the retain gradient of one step are combined.

Source: Dine, Furon, Faure 2025, arXiv:2511.02435.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from registry import Registry
from unlearn.settings import Memory, MemoryStart, Quantile

Gradients = list[Tensor]
EPSILON = 1e-8


@dataclass(frozen=True)
class Step:
    """The two gradients of one step, a tensor per parameter, and the weight of the retain one, 0 < beta < 1.

    `unlearn` (g_u) is the descent gradient of the forget objective, `retain` (g_c) that of the retain
    objective; `of_true_labels` computes the gradient of the forget batch's cross-entropy with its true
    labels, for an add-on that declares it.
    """

    unlearn: Gradients
    retain: Gradients
    beta: float
    of_true_labels: Callable[[], Gradients]

    @property
    def direction(self) -> Gradients:
        """d = beta g_c + (1 - beta) g_u, the plain step."""
        return [
            self.beta * g_c + (1 - self.beta) * g_u
            for g_u, g_c in zip(self.unlearn, self.retain, strict=True)
        ]


Rule = Callable[[Step], Gradients]


@dataclass(frozen=True)
class AddOnFacts:
    """What an add-on declares: where it comes from, and whether it asks for the gradient of the forget
    batch's true labels.
    """

    source: str = "Dine, Furon, Faure 2025, arXiv:2511.02435"
    true_labels: bool = False


ADD_ONS = Registry("add-on", AddOnFacts)
register = ADD_ONS.register


def plain(step: Step) -> Gradients:
    """No add-on: d itself."""
    return step.direction


@register("GradMask")
def grad_mask(
    *, quantile: Quantile = 0.3, memory: Memory = 0.9, memory_start: MemoryStart | None = None
) -> Rule:
    """Keep the entries whose two gradients are likely enough to agree in sign.

        d * 1[v >= quantile]        v: the probability that they agree

    Flags:
        quantile: least v that an entry is kept with
    """
    return _masked_by(Agreement(memory, memory_start), quantile)


@register("ANDMask")
def and_mask(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Keep the entries whose two gradients agree in sign: GradMask at .5.

        d * 1[v >= .5]

    v: see `Agreement`.
    """
    return _masked_by(Agreement(memory, memory_start), 0.5)


@register("VarGrad")
def var_grad(*, quantile: Quantile = 0.3, memory: Memory = 0.9, memory_start: MemoryStart = 1.0) -> Rule:
    """Keep entries as GradMask does, the second moments started at the first squared gradients instead of 0.

        d * 1[v >= quantile]        V = g^2 at the first step

    Flags:
        quantile: least v that an entry is kept with
    """
    return _masked_by(Agreement(memory, memory_start), quantile)


@register("GradFocus")
def grad_focus(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Weigh every entry by the probability that its two gradients agree in sign.

        d * v

    v: see `Agreement`.
    """
    agreement = Agreement(memory, memory_start)
    return lambda step: [d * v for d, v in zip(step.direction, agreement(step), strict=True)]


@register("OPT")
def opt() -> Rule:
    """Drop the entries whose two gradients oppose each other most, per tensor as few as make the step
    feasible.

        d * 1[kept]        dropped: the most negative g_u g_c

    Feasible: see `kept`.
    """

    def rule(step: Step) -> Gradients:
        every = zip(step.direction, step.unlearn, step.retain, strict=True)
        return [d * kept(g_u, g_c, step.beta) for d, g_u, g_c in every]

    return rule


@register("FocusOPT")
def focus_opt(*, memory: Memory = 0.9, memory_start: MemoryStart | None = None) -> Rule:
    """Weigh as GradFocus does, then drop entries as OPT does, until the step is feasible.

        d * v * 1[kept]        dropped: the smallest v g_u g_c

    Feasible: see `kept`.

    Departure: the source tests (v g_u)(v g_c), which guarantees nothing for the gradients themselves.
    """
    agreement = Agreement(memory, memory_start)

    def rule(step: Step) -> Gradients:
        every = zip(step.direction, agreement(step), step.unlearn, step.retain, strict=True)
        return [d * v * kept(g_u, g_c, step.beta, v) for d, v, g_u, g_c in every]

    return rule


@register("SalUn", true_labels=True)
def saliency(*, quantile: Quantile = 0.3) -> Rule:
    """Keep the entries that are most salient for the forget batch, tensor by tensor, anew for each batch.

        d * 1[|g| >= quantile of |g|]        g: the gradient of the forget batch's cross-entropy with true labels

    Flags:
        quantile: share of a tensor's entries that are dropped
    """

    def rule(step: Step) -> Gradients:
        sizes = [g.abs() for g in step.of_true_labels()]
        return [
            d * (size >= _quantile(size, quantile)) for d, size in zip(step.direction, sizes, strict=True)
        ]

    return rule


class Agreement:
    """v, the probability that the two gradients agree in sign, entry by entry.

        v = Phi(z_u) Phi(z_c) + (1 - Phi(z_u)) (1 - Phi(z_c))
        z = g / sqrt(V + 1e-8),  V <- memory V + (1 - memory) g^2,  at the first step V = memory_start g^2

    V is kept for each of the two gradients over all steps, without bias correction; Phi is the normal
    distribution's cdf. Without
    `memory_start` V is 0 before the first step: 1 - memory. Dine et al.'s public code keeps .1 of V and
    starts at .1 g^2: --memory .1 --memory_start .1.
    """

    def __init__(self, memory: float, memory_start: float | None = None) -> None:
        self.memory = memory
        self.memory_start = 1 - memory if memory_start is None else memory_start
        self._moments: dict[str, Gradients] = {}

    def __call__(self, step: Step) -> Gradients:
        chances = zip(self._chance("unlearn", step.unlearn), self._chance("retain", step.retain), strict=True)
        return [p_u * p_c + (1 - p_u) * (1 - p_c) for p_u, p_c in chances]

    def _chance(self, which: str, gradients: Gradients) -> Gradients:
        kept, new = self.memory, 1 - self.memory
        if which not in self._moments:
            self._moments[which] = [torch.zeros_like(g) for g in gradients]
            new = self.memory_start
        for moment, g in zip(self._moments[which], gradients, strict=True):
            moment.mul_(kept).addcmul_(g, g, value=new)
        return [
            torch.special.ndtr(g / (moment + EPSILON).sqrt())
            for g, moment in zip(gradients, self._moments[which], strict=True)
        ]


def kept(g_u: Tensor, g_c: Tensor, beta: float, v: Tensor | None = None) -> Tensor:
    """1 for the entries of one tensor that stay, 0 for those that are dropped, so that the step on the others
    is feasible.

        min(alpha / beta sum v g_u^2, beta / alpha sum v g_c^2) + sum v g_u g_c >= 0        alpha = 1 - beta, v = 1 if not given

    which is <v d, g_u> >= 0 and <v d, g_c> >= 0 for d = beta g_c + alpha g_u. The smallest products v g_u g_c
    are dropped,
    as few as it takes. It is a statement about d: what an optimiser makes of it (momentum, Adam's scaling,
    weight decay) can break it afterwards.
    """
    a, b = g_u.flatten().double(), g_c.flatten().double()
    weight = torch.ones_like(a) if v is None else v.flatten().double()
    products = weight * a * b
    alpha = 1 - beta
    if (
        not a.is_cuda and _least(alpha, beta, weight, a, b) + products.sum() >= 0
    ):  # nothing to drop, and no sort
        return torch.ones_like(g_u)
    order = products.argsort()
    sums = [_rest_sums(values[order]) for values in (weight * a.square(), weight * b.square(), products)]
    feasible = torch.minimum(alpha / beta * sums[0], beta / alpha * sums[1]) + sums[2] >= 0
    dropped = (
        feasible.int().argmax()
    )  # the first that is; where nothing is left it always is. Not an int: a GPU need not wait for it
    stays = torch.empty_like(a)
    stays[order] = (torch.arange(len(a), device=a.device) >= dropped).to(stays)
    return stays.view_as(g_u).to(g_u.dtype)


def _least(alpha: float, beta: float, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(alpha / beta * (v * a.square()).sum(), beta / alpha * (v * b.square()).sum())


def _rest_sums(values: Tensor) -> Tensor:
    """Sums of what is left when the first 0, 1, ..., N values are taken away, (N + 1,); the last is exactly
    0.
    """
    return torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])


def _masked_by(agreement: Agreement, least: float) -> Rule:
    return lambda step: [d * (v >= least) for d, v in zip(step.direction, agreement(step), strict=True)]


def _quantile(values: Tensor, share: float) -> Tensor:
    """The value of which `share` of the entries are below: torch.quantile's `higher`, for tensors of any
    size.
    """
    rank = min(int(-(-share * (values.numel() - 1) // 1)), values.numel() - 1)
    return values.flatten().kthvalue(rank + 1).values
