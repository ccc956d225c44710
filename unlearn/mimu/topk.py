"""Top-K of logits, differentiably: a soft mask that sums to K exactly, the hard one, and the samplers that
join them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Sampler = Literal["sinkhorn", "gumbel", "threshold"]
ITERATIONS = 100


class _SoftTopK(torch.autograd.Function):
    """M = sigmoid((q - t) / tau), t such that every row sums to K; the gradient of t by the implicit function
    theorem.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int, tau: float) -> Tensor:
        centred = logits - logits.topk(k, dim=-1, sorted=False).values.amin(
            -1, keepdim=True
        )  # exact where the mask is soft
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
    """Soft top-K mask of logits q (..., N), rows summing to K: the fixed point of entropic optimal-transport
    top-k.

        M_i = sigmoid((q_i - t) / tau), sum_i M_i = K
        dL/dq = s (g - <s, g> / sum s) / tau with s = M (1 - M), g = dL/dM; zero where sum s = 0

    For K = N the mask is 1 everywhere. Raises ValueError unless 0 < K <= N and tau > 0. Source: Cuturi,
    Teboul, Vert 2019, arXiv:1905.11885; Xie et al. 2020, arXiv:2002.06504; two bins have a scalar dual, so no
    N x K matrix is needed.
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
    """t (..., 1) such that sum_i sigmoid((q_i - t) / tau) = k: Newton steps, bisection where they leave the
    bracket.

    All N equal to q give t = q - tau logit(k / N), so t lies between that of the smallest and that of the
    largest logit.
    """
    q = logits.detach()
    shift = tau * torch.logit(torch.tensor(k / q.shape[-1], dtype=torch.float64)).item()
    low, high = q.amin(-1, keepdim=True) - shift, q.amax(-1, keepdim=True) - shift
    t = (low + high) / 2
    for _ in range(ITERATIONS):
        mask = torch.sigmoid((q - t) / tau)
        excess = mask.sum(-1, keepdim=True) - k
        low, high = torch.where(excess >= 0, t, low), torch.where(excess <= 0, t, high)
        slope = (mask * (1 - mask)).sum(-1, keepdim=True)
        newton = t + tau * excess / torch.where(slope > 0, slope, 1.0)
        inside = (newton >= low) & (newton <= high) & (slope > 0)
        following = torch.where(inside, newton, (low + high) / 2)
        if bool((following == t).all() or (excess.abs() <= 4 * torch.finfo(q.dtype).eps * k).all()):
            break
        t = following
    return t


def hard_topk(scores: Tensor, k: int) -> Tensor:
    """The k largest of scores (..., N) as 0/1 of the same type; among equal scores the lower position first."""
    smallest_in = scores.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, equal = scores > smallest_in, scores == smallest_in
    missing = k - above.sum(-1, keepdim=True)
    return (above | (equal & (equal.cumsum(-1) <= missing))).to(scores.dtype)


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The hard mask forward, the soft mask's gradient backward."""
    return hard + (soft - soft.detach())


def sampled_topk(sampler: Sampler, logits: Tensor, k: int, tau: float, generator: torch.Generator) -> Tensor:
    """A hard top-K mask of logits q (..., N), 0/1 with K ones a row, that carries a soft mask's gradient.

        sinkhorn    hard top-K of q; gradient of soft_topk(q)
        gumbel      the same of q + g, g standard Gumbel noise: K weights drawn without repetition, in proportion to exp(q)
        threshold   hard top-K of q; gradient of sigmoid((q - t) / tau), t the K-th largest q, taken as a constant

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
    least = logits.detach().topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return straight_through(torch.sigmoid((logits - least) / tau), hard_topk(logits.detach(), k))


_SAMPLERS: dict[str, Callable[[Tensor, int, float, torch.Generator], Tensor]] = {
    "sinkhorn": _sinkhorn,
    "gumbel": _gumbel,
    "threshold": _threshold,
}
