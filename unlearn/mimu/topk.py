"""Top-K of logits, differentiably: a soft mask that sums to K exactly, and the hard one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ITERATIONS = 100


class _SoftTopK(torch.autograd.Function):
    """M = sigmoid((q - t) / tau), t such that every row sums to K; the gradient of t by the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int, tau: float) -> Tensor:
        centred = logits - logits.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)  # exact where the mask is soft
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
    """Soft top-K mask of logits q (..., N), rows summing to K: the fixed point of entropic optimal-transport top-k.

        M_i = sigmoid((q_i - t) / tau), sum_i M_i = K
        dL/dq = s (g - <s, g> / sum s) / tau with s = M (1 - M), g = dL/dM; zero where sum s = 0

    For K = N the mask is 1 everywhere. Raises ValueError unless 0 < K <= N and tau > 0. Source: Cuturi, Teboul, Vert 2019,
    arXiv:1905.11885; Xie et al. 2020, arXiv:2002.06504; two bins have a scalar dual, so no N x K matrix is needed.
    """
    if not 0 < k <= logits.shape[-1]:
        raise ValueError(f"soft top-k: expected 0 < k <= {logits.shape[-1]}, got {k}. Choose a smaller k")
    if not tau > 0:
        raise ValueError(f"soft top-k: expected tau > 0, got {tau}. Choose a positive temperature")
    if k == logits.shape[-1]:
        return torch.ones_like(logits) + 0 * logits
    mask: Tensor = _SoftTopK.apply(logits, k, tau)
    return mask


@torch.no_grad()
def threshold(logits: Tensor, k: int, tau: float) -> Tensor:
    """t (..., 1) such that sum_i sigmoid((q_i - t) / tau) = k: Newton steps, bisection where they leave the bracket.

    All N equal to q give t = q - tau logit(k / N), so t lies between that of the smallest and that of the largest logit.
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
