"""Direct refinement: the mask of one request, optimised itself. From the network's answer, or from nothing:
then it is the bound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models import MaskedLayer
from unlearn.impl import ForgetData
from unlearn.mimu.graph import Factors, factors_of
from unlearn.mimu.objective import masked_logits
from unlearn.mimu.topk import hard_topk, soft_topk, straight_through
from vision_data import ImageSet


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

        mean over forgotten classes' images of -log(1 - p_y(x))                 where classes go whole
        + mean over levels u of |Q_forget(u) - Q_validation(u)|                 where images go whose class stays
        + retain_weight * mean over retain of CE(x, y)

    under the hard mask that switches off the kappa largest, the gradient of the soft one; batches of `batch`
    images of each kind. Q are quantiles, at 99 levels, of the margins (nats) of forget images and of
    validation images of the same classes: the 1-Wasserstein distance from what the model, masked, says of
    images that it never saw. Needs no test image.
    """
    if steps < 1 or kappa == layer.size:
        return scores
    sets = {
        "gone": data.forget.of_classes(*data.forget_classes),
        "images": data.forget.without_classes(*data.forget_classes),
        "unseen": unseen_of(data),
        "retain": data.retain,
    }
    factors = {
        name: factors_of(layer, images, "logit", data.device) for name, images in sets.items() if len(images)
    }
    generator = data.generator("MIMU", "refine")
    scores = scores.float()  # binary ones are ranks in doubles
    spread = scores.std()
    refined_scores = ((scores - scores.mean()) / torch.where(spread > 0, spread, 1.0)).requires_grad_(True)
    optimizer = torch.optim.Adam([refined_scores], lr=lr)
    for _ in data.progress(range(steps), "MIMU refinement"):
        drop = straight_through(
            soft_topk(refined_scores, kappa, tau), hard_topk(refined_scores.detach(), kappa)
        )
        mask = (1 - drop).view(1, *layer.shape)
        seen = {
            name: _Logits.of(layer, mask, images.drawn(batch, generator)) for name, images in factors.items()
        }
        loss = retain_weight * seen["retain"].cross_entropy()
        if "gone" in seen:
            loss = loss + seen["gone"].reached()
        if "images" in seen:
            loss = loss + (seen["images"].margin_quantiles() - seen["unseen"].margin_quantiles()).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=[refined_scores])
        optimizer.step()
    return refined_scores.detach()


def unseen_of(data: ForgetData) -> ImageSet:
    """Validation images of the classes of which only images are forgotten: what these should look like
    afterwards.

    All of them, in the proportions that validation has: a request with many images of one class and few of
    another is likened to their mixture.

    Raises ValueError if one of these classes has none.
    """
    classes = data.forget.without_classes(*data.forget_classes).classes
    unseen = data.validation.of_classes(*classes)
    missing = sorted(set(classes) - set(unseen.classes))
    if missing:
        raise ValueError(
            f"--refine_steps: expected validation images of the classes {classes}, to which forgotten images "
            "are likened, "
            f"got none of {missing}. Give 0 steps, or data with validation images"
        )
    return unseen


class _Logits(NamedTuple):
    """Logits (N, classes) of images under a mask, and their labels."""

    logits: Tensor
    labels: Tensor

    @classmethod
    def of(cls, layer: MaskedLayer, mask: Tensor, images: Factors) -> _Logits:
        return cls(masked_logits(layer, mask, images.h, images.images)[0], images.labels)

    def cross_entropy(self) -> Tensor:
        return F.cross_entropy(self.logits, self.labels)

    def reached(self) -> Tensor:
        """mean -log(1 - p_y) = logsumexp(z) - logsumexp over j != y."""
        return (self.logits.logsumexp(-1) - self._others()).mean()

    def margin_quantiles(self) -> Tensor:
        """Quantiles (99,) of z_y - logsumexp over j != y, at 0.01, ..., 0.99."""
        margins = self.logits.gather(1, self.labels[:, None])[:, 0] - self._others()
        return margins.quantile(torch.linspace(0.01, 0.99, 99, dtype=margins.dtype, device=margins.device))

    def _others(self) -> Tensor:
        true = F.one_hot(self.labels, self.logits.shape[-1]).bool()
        return self.logits.masked_fill(true, -torch.inf).logsumexp(-1)
