"""Differentiable top-K: a soft mask that sums to K, the hard mask, and samplers that combine the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Sampler = Literal["sinkhorn", "gumbel", "threshold"]
ITERATIONS = 100
LOOK = 8  # iterations between two looks at an accelerator's numbers, each of which waits for it


class _SoftTopK(torch.autograd.Function):
    """M = sigmoid((q - t) / tau), every row summing to K; dt/dq by the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int, tau: float) -> Tensor:
        centred = logits - _kth_largest(logits, k)  # small, so exact, where the mask is soft
        mask = torch.sigmoid((centred - threshold(centred, k, tau)) / tau)
        ctx.save_for_backward(mask)
        ctx.tau = tau
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        slope = mask * (1 - mask)
        total = slope.sum(-1, keepdim=True)
        mean = (gradients[0] * slope).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
        return slope * (gradients[0] - mean) / ctx.tau, None, None


def soft_topk(logits: Tensor, k: int, tau: float) -> Tensor:
    """Return the soft top-K mask of logits q (..., N): the solution of entropic optimal-transport top-k.

        M_i = sigmoid((q_i - t) / tau), sum_i M_i = K
        dL/dq = s (g - <s, g> / sum s) / tau with s = M (1 - M), g = dL/dM; zero where sum s = 0

    For K = N the mask is 1 everywhere. Two bins have a scalar dual, so no N x K matrix is needed. Raises
    ValueError unless 0 < K <= N and tau > 0. Source: Cuturi, Teboul, Vert 2019, arXiv:1905.11885; Xie et al.
    2020, arXiv:2002.06504.
    """
    _check(logits, k, tau)
    if k == logits.shape[-1]:
        return torch.ones_like(logits) + 0 * logits
    mask: Tensor = _SoftTopK.apply(logits, k, tau)
    return mask


def _check(logits: Tensor, k: int, tau: float) -> None:
    if not 0 < k <= logits.shape[-1]:
        raise ValueError(f"soft top-k: expected 0 < k <= {logits.shape[-1]}, got {k}. Choose a smaller k")
    if not tau > 0:
        raise ValueError(f"soft top-k: expected tau > 0, got {tau}. Choose a positive temperature")


@torch.no_grad()
def threshold(logits: Tensor, k: int, tau: float) -> Tensor:
    """Return t (..., 1) with sum_i sigmoid((q_i - t) / tau) = k, by Newton's method with bisection.

    N equal logits q have t = q - tau logit(k / N). This value for the smallest and for the largest logit
    brackets t.
    """
    q = logits.detach()
    shift = tau * torch.logit(torch.tensor(k / q.shape[-1], dtype=torch.float64)).item()
    low, high = q.amin(-1, keepdim=True) - shift, q.amax(-1, keepdim=True) - shift
    t = (low + high) / 2
    between = 1 if q.is_cpu else LOOK
    for number in range(1, ITERATIONS + 1):
        mask = torch.sigmoid((q - t) / tau)
        excess = mask.sum(-1, keepdim=True) - k
        low, high = torch.where(excess >= 0, t, low), torch.where(excess <= 0, t, high)
        slope = (mask * (1 - mask)).sum(-1, keepdim=True)
        newton = t + tau * excess / torch.where(slope > 0, slope, 1.0)
        inside = (newton >= low) & (newton <= high) & (slope > 0)
        following = torch.where(inside, newton, (low + high) / 2)
        is_rounding = excess.abs() <= 4 * torch.finfo(q.dtype).eps * k
        # More iterations than needed change nothing but rounding.
        if number % between == 0 and bool((following == t).all() | is_rounding.all()):
            break
        t = following
    return t


def hard_topk(scores: Tensor, k: int) -> Tensor:
    """Mark the k largest of scores (..., N) by 1, the others by 0; among equal scores the first ones."""
    smallest_in = _kth_largest(scores, k)
    above, equal = scores > smallest_in, scores == smallest_in
    missing = k - above.sum(-1, keepdim=True)
    return (above | (equal & (equal.cumsum(-1) <= missing))).to(scores.dtype)


def _kth_largest(values: Tensor, k: int) -> Tensor:
    return values.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """Return the hard mask, with the gradient of the soft one."""
    return hard + (soft - soft.detach())


def sampled_topk(sampler: Sampler, logits: Tensor, k: int, tau: float, generator: torch.Generator) -> Tensor:
    """Return a hard top-K mask of logits q (..., N), K ones a row, with the gradient of a soft mask.

        sinkhorn    hard top-K of q; gradient of soft_topk(q)
        gumbel      the same of q + standard Gumbel noise: K draws without repetition, proportional to exp(q)
        threshold   hard top-K of q; gradient of sigmoid((q - t) / tau), t the K-th largest q as a constant

    Raises ValueError unless 0 < K <= N and tau > 0. Source: Kool, van Hoof, Welling 2019, arXiv:1903.06059
    (Gumbel top-k); Bengio, Leonard, Courville 2013, arXiv:1308.3432 (straight-through).
    """
    return _SAMPLERS[sampler](logits, k, tau, generator)


def _sinkhorn(logits: Tensor, k: int, tau: float, _: torch.Generator) -> Tensor:
    return straight_through(soft_topk(logits, k, tau), hard_topk(logits.detach(), k))


def _gumbel(logits: Tensor, k: int, tau: float, generator: torch.Generator) -> Tensor:
    noise = torch.empty(logits.shape, dtype=logits.dtype).exponential_(generator=generator).log().neg()
    return _sinkhorn(logits + noise.to(logits.device), k, tau, generator)


def _threshold(logits: Tensor, k: int, tau: float, _: torch.Generator) -> Tensor:
    _check(logits, k, tau)
    soft = torch.sigmoid((logits - _kth_largest(logits.detach(), k)) / tau)
    return straight_through(soft, hard_topk(logits.detach(), k))


_SAMPLERS: dict[str, Callable[[Tensor, int, float, torch.Generator], Tensor]] = {
    "sinkhorn": _sinkhorn,
    "gumbel": _gumbel,
    "threshold": _threshold,
}
