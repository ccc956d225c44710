"""The graph network's objective: keep the weights that predict a class, drop those that serve it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lethe.models import MaskedLayer
from lethe.unlearn.mimu.topk import Sampler

Prior = Literal["weight", "gradient"]
SMALLEST_PRIOR = 1e-7


@dataclass(frozen=True)
class Objective:
    """The flags of L = L_keep + contrast L_drop, topk and kappa as numbers of weights."""

    topk: int
    kappa: int
    contrast: float
    retain_weight: float
    prior: Prior
    rho: float
    tau: float
    sampler: Sampler


def masked_logits(layer: MaskedLayer, masks: Tensor, h: Tensor, images: Tensor | None) -> Tensor:
    """Return head((M * W) h + b), (G, B, classes), for G masks (G, m, n).

    h: the same (B, n) for all masks, or (G, B, n), a batch for each. images: the normalised pixels of h, for
    a head that needs them.
    """
    z = h @ (masks * layer.weight).transpose(-1, -2)
    if layer.bias is not None:
        z = z + layer.bias
    if images is not None and h.ndim == 2:
        images = images.expand(len(masks), *images.shape)
    pixels = None if images is None else images.flatten(0, 1)
    logits = layer.head(z.flatten(0, 1).to(layer.weight.dtype), pixels)
    return logits.to(z.dtype).unflatten(0, z.shape[:2])


def log_prior(values: Tensor) -> Tensor:
    """Return log pi, pi_i = |v_i| / sum |v| clamped to at least 1e-7, of weights or gradients v.

    (..., m, n) -> (..., m n).
    """
    sizes = values.abs().flatten(-2)
    total = sizes.sum(-1, keepdim=True)
    return (sizes / torch.where(total > 0, total, 1.0)).clamp_min(SMALLEST_PRIOR).log()


def keep_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, q: Tensor, log_pi: Tensor, k: int, rho: float
) -> Tensor:
    """Return L_keep, the mean over graphs of

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
    """Return L_drop, the mean over graphs of

        mean over x of class c of -log(1 - p_c(x))  +  retain_weight * mean over the others of CE(x, y)

    logits (G, B, classes) of the same B images under each graph's drop mask, labels (B,), forgotten (G,)
    the class c of each graph. -log(1 - p_c) = logsumexp(z) - logsumexp over j != c.
    """
    graphs = len(logits)
    is_forgotten = labels == forgotten[:, None]
    # Few images are of a graph's class, and with many classes a pass over all logits is what a step costs.
    graph, image = is_forgotten.nonzero(as_tuple=True)
    own = logits[graph, image]
    others = own.scatter(-1, forgotten[graph][:, None], -torch.inf)
    forget = own.logsumexp(-1) - others.logsumexp(-1)
    of_graph = graph == torch.arange(graphs, device=graph.device)[:, None]
    retain = F.cross_entropy(logits.flatten(0, 1), labels.repeat(graphs), reduction="none").view(graphs, -1)
    forget_mean = (forget * of_graph).sum(1) / is_forgotten.sum(1).clamp_min(1)
    retain_mean = (retain * ~is_forgotten).sum(1) / (~is_forgotten).sum(1).clamp_min(1)
    return (forget_mean + retain_weight * retain_mean).mean()
