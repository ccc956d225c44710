"""What the graph network is trained for: keep what predicts a class, and drop what serves it alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models import MaskedLayer

Prior = Literal["weight", "gradient"]
SMALLEST_PRIOR = 1e-7


def masked_logits(layer: MaskedLayer, masks: Tensor, h: Tensor, images: Tensor | None) -> Tensor:
    """head((M * W) h + b) for G masks (G, m, n) and either the same h (B, n) for all or one batch each (G, B,
    n).

    Returns (G, B, classes). Nothing before the layer is computed, and no model is built.
    """
    z = h @ (masks * layer.weight).transpose(-1, -2)
    if layer.bias is not None:
        z = z + layer.bias
    if images is not None and h.ndim == 2:
        images = images.expand(len(masks), *images.shape)
    logits = layer.head(
        z.flatten(0, 1).to(layer.weight.dtype), None if images is None else images.flatten(0, 1)
    )
    return logits.to(z.dtype).unflatten(0, z.shape[:2])


def log_prior(values: Tensor) -> Tensor:
    """log of pi_i = |v_i| / sum |v|, clamped to at least 1e-7, of raw weights or gradients (..., m, n) ->
    (..., m n).
    """
    sizes = values.abs().flatten(-2)
    total = sizes.sum(-1, keepdim=True)
    return (sizes / torch.where(total > 0, total, 1.0)).clamp_min(SMALLEST_PRIOR).log()


def keep_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, q: Tensor, log_pi: Tensor, k: int, rho: float
) -> Tensor:
    """L_keep, the mean over graphs of

        -log p(y | x; M * W) + rho (-<M, log pi> + <M, log Q>) / K,    Q = softmax(q) over the N weights

    logits (G, R, classes) of R images under each graph's mask, labels (G, R), mask and q (G, N), log_pi (N,)
    or (G, N).
    Source: MIMU's KL(Q || prior x likelihood) with the expectation replaced by the soft mask; the likelihood
    carries its gradient through the mask into the network, and the prior terms are divided by K.
    """
    likelihood = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    divergence = (mask * (q.log_softmax(-1) - log_pi)).sum(-1).mean() / k
    return likelihood + rho * divergence


def drop_loss(logits: Tensor, labels: Tensor, forgotten: Tensor, retain_weight: float) -> Tensor:
    """L_drop, the mean over graphs of

        mean over x of the forgotten class c of -log(1 - p_c(x))  +  retain_weight * mean over the others of CE(x, y)

    logits (G, B, classes) of the same B images under each graph's drop mask, labels (B,), forgotten (G,)
    classes. -log(1 - p_c) = logsumexp(z) - logsumexp over j != c.
    """
    graphs, _, classes = logits.shape
    is_forgotten = labels == forgotten[:, None]
    one = F.one_hot(forgotten, classes).bool()[:, None, :]
    forget = logits.logsumexp(-1) - logits.masked_fill(one, -torch.inf).logsumexp(-1)
    retain = F.cross_entropy(logits.flatten(0, 1), labels.repeat(graphs), reduction="none").view(graphs, -1)
    forget_mean = (forget * is_forgotten).sum(1) / is_forgotten.sum(1).clamp_min(1)
    retain_mean = (retain * ~is_forgotten).sum(1) / (~is_forgotten).sum(1).clamp_min(1)
    return (forget_mean + retain_weight * retain_mean).mean()
