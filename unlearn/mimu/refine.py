"""Direct refinement: optimise the scores of one request, from the network's scores or from random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.flag_error import FlagError
from lethe.models import MaskedLayer
from lethe.training import Progress, silent
from lethe.training.optimizers import Adam
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.mimu.inputs import LayerInputs, inputs_of
from lethe.unlearn.mimu.objective import masked_logits
from lethe.unlearn.mimu.topk import hard_topk, soft_topk, straight_through


@dataclass(frozen=True)
class RefineSettings:
    """Weight of retained images, temperature of the soft mask, learning rate, images of each kind a step."""

    retain_weight: float
    tau: float
    lr: float
    batch: int


def refined(
    scores: Tensor,
    layer: MaskedLayer,
    data: ForgetData,
    kappa: int,
    retain_weight: float,
    tau: float,
    *,
    steps: int,
    lr: float,
    batch: int,
) -> Tensor:
    """Return scores (N,) after `steps` of Adam on the request's objective. They are standardised first.

        mean over the images of forgotten classes of -log(1 - p_y(x))
        + mean over levels u of |Q_forget(u) - Q_validation(u)|       for forgotten images of other classes
        + retain_weight * mean over retain of CE(x, y)

    The mask switches off the kappa largest scores and has the gradient of the soft mask; `batch` images of
    each kind a step. Q(u) are quantiles, at 99 levels, of the masked model's margins (nats) on forget images
    and on validation images of the same classes: their difference is the 1-Wasserstein distance between the
    two. Needs no test image.
    """
    if steps < 1:
        return scores
    sets = {
        "gone": data.forget.of_classes(*data.forget_classes),
        "images": data.forget.without_classes(*data.forget_classes),
        "unseen": unseen_of(data),
        "retain": data.retain,
    }
    given = {name: inputs_of(layer, images, data.device) for name, images in sets.items()}
    settings = RefineSettings(retain_weight, tau, lr, batch)
    generator, progress = data.generator("MIMU", "refine"), data.progress
    return refined_on(
        given, scores, layer, kappa, settings, steps=steps, generator=generator, progress=progress
    )


def refined_on(
    inputs: Mapping[str, LayerInputs],
    scores: Tensor,
    layer: MaskedLayer,
    kappa: int,
    settings: RefineSettings,
    *,
    steps: int,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Tensor:
    """Return scores (N,) refined as by `refined`, on inputs of the layer.

    inputs: of `gone`, forgotten images of classes that go whole, and `images`, those of other classes, with
    `unseen`, validation images of the latter; of `retain`.
    """
    if kappa == layer.size:  # nothing to choose
        return scores
    given = {name: part for name, part in inputs.items() if len(part)}
    scores = scores.float()  # binary scores are ranks in float64
    spread = scores.std()
    refined_scores = ((scores - scores.mean()) / torch.where(spread > 0, spread, 1.0)).requires_grad_(True)
    optimizer = Adam([refined_scores], lr=settings.lr)
    for _ in progress(range(steps), "MIMU refinement"):
        soft, hard = soft_topk(refined_scores, kappa, settings.tau), hard_topk(refined_scores.detach(), kappa)
        mask = (1 - straight_through(soft, hard)).view(1, *layer.shape)
        batches = {name: images.drawn(settings.batch, generator) for name, images in given.items()}
        seen = {name: _Logits.of(layer, mask, images) for name, images in batches.items()}
        loss = settings.retain_weight * seen["retain"].cross_entropy()
        if "gone" in seen:
            loss = loss + seen["gone"].unreachability()
        if "images" in seen:
            loss = loss + (seen["images"].margin_quantiles() - seen["unseen"].margin_quantiles()).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=[refined_scores])
        optimizer.step()
    return refined_scores.detach()


def unseen_of(data: ForgetData) -> ImageSet:
    """Return the validation images of every class of which some images are forgotten and some retained.

    Their margins are the target for the forgotten images. All of them are returned, in validation's class
    proportions, whatever those of the forgotten images are.

    Raises ValueError if one of these classes has no validation image.
    """
    classes = data.forget.without_classes(*data.forget_classes).classes
    unseen = data.validation.of_classes(*classes)
    missing = sorted(set(classes) - set(unseen.classes))
    if missing:
        raise FlagError(
            "refine_steps",
            f"expected validation images of the classes {classes}, to compare forgotten "
            f"images with, got none of {missing}. Give 0 steps, or data with validation images",
        )
    return unseen


class _Logits(NamedTuple):
    """Logits (N, classes) and labels (N,) of images of a masked model."""

    logits: Tensor
    labels: Tensor

    @classmethod
    def of(cls, layer: MaskedLayer, mask: Tensor, images: LayerInputs) -> _Logits:
        return cls(masked_logits(layer, mask, images.h, images.images)[0], images.labels)

    def cross_entropy(self) -> Tensor:
        return F.cross_entropy(self.logits, self.labels)

    def unreachability(self) -> Tensor:
        """Return the mean of -log(1 - p_y) = logsumexp(z) - logsumexp over j != y."""
        return (self.logits.logsumexp(-1) - self._others()).mean()

    def margin_quantiles(self) -> Tensor:
        """Return the quantiles (99,) of z_y - logsumexp over j != y, at 0.01, ..., 0.99."""
        margins = self.logits.gather(1, self.labels[:, None])[:, 0] - self._others()
        return margins.quantile(torch.linspace(0.01, 0.99, 99, dtype=margins.dtype, device=margins.device))

    def _others(self) -> Tensor:
        true = F.one_hot(self.labels, self.logits.shape[-1]).bool()
        return self.logits.masked_fill(true, -torch.inf).logsumexp(-1)
