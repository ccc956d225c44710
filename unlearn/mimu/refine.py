"""Direct refinement: the mask of one request, optimised itself. From the network's answer, or from nothing: then it is the bound."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models import MaskedLayer
from unlearn.impl import ForgetData
from unlearn.mimu.graph import Factors, factors_of
from unlearn.mimu.objective import masked_logits
from unlearn.mimu.topk import hard_topk, soft_topk, straight_through


def refined(
    scores: Tensor,
    layer: MaskedLayer,
    data: ForgetData,
    kappa: int,
    *,
    steps: int,
    lr: float,
    retain_weight: float,
    tau: float,
    batch: int,
) -> Tensor:
    """Scores (N,) after `steps` of Adam on the request's own objective, the scores standardised first.

        mean over forget of -log(1 - p_y(x))  +  retain_weight * mean over retain of CE(x, y)

    under the hard mask that switches off the kappa largest, the gradient of the soft one; batches of `batch` retain images.
    Training images only.
    """
    if steps < 1 or kappa == layer.size:
        return scores
    forget, retain = (factors_of(layer, images, "logit", data.device) for images in (data.forget, data.retain))
    generator = data.generator("MIMU", "refine")
    spread = scores.std()
    refined_scores = ((scores - scores.mean()) / torch.where(spread > 0, spread, 1.0)).requires_grad_(True)
    optimizer = torch.optim.Adam([refined_scores], lr=lr)
    for _ in data.progress(range(steps), "MIMU refinement"):
        drop = straight_through(soft_topk(refined_scores, kappa, tau), hard_topk(refined_scores.detach(), kappa))
        mask = (1 - drop).view(1, *layer.shape)
        lost = _reached(layer, mask, forget.drawn(batch, generator))
        kept = _cross_entropy(layer, mask, retain.drawn(batch, generator))
        optimizer.zero_grad(set_to_none=True)
        (lost + retain_weight * kept).backward(inputs=[refined_scores])
        optimizer.step()
    return refined_scores.detach()


def _reached(layer: MaskedLayer, mask: Tensor, images: Factors) -> Tensor:
    """mean -log(1 - p_y) = logsumexp(z) - logsumexp over j != y."""
    logits = masked_logits(layer, mask, images.h, images.images)[0]
    true = F.one_hot(images.labels, logits.shape[-1]).bool()
    return (logits.logsumexp(-1) - logits.masked_fill(true, -torch.inf).logsumexp(-1)).mean()


def _cross_entropy(layer: MaskedLayer, mask: Tensor, images: Factors) -> Tensor:
    return F.cross_entropy(masked_logits(layer, mask, images.h, images.images)[0], images.labels)
