"""Tune a network's answers for one kappa: all classes of a model, on the layer's inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.models import MaskedLayer
from lethe.training.optimizers import Adam
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.mimu.graph import Factors, drawn_by_class
from lethe.unlearn.mimu.objective import Objective, drop_loss, masked_logits
from lethe.unlearn.mimu.ranking import every_class
from lethe.unlearn.mimu.topk import sampled_topk

PASSES = 30  # steps for each class
CLASSES_A_STEP = 10
LR = 0.1  # of scores whose standard deviation is 1
SHARE_OF_CLASSES = 0.25  # so many of a step's images are of its classes, the others of all


def tuned(
    q: Tensor, layer: MaskedLayer, factors: Factors, objective: Objective, batch: int, data: ForgetData
) -> Tensor:
    """Return logits q (C, N) of the training images' classes after Adam on L_drop, in which each q is free.

        s_f = q_f - mean over the other classes c of q_c
        L_drop = mean over f of -log(1 - p_f(x_f; (1 - D_f) * W)) + retain_weight CE(x_r, y_r; (1 - D_f) * W)

    D_f switches off the kappa largest of s_f. A step draws ten classes and `batch` training images, and
    changes the q of these classes alone: each class has `PASSES` steps, so that the seconds grow as the
    number of classes. For fewer than two classes or weights, and where the objective has no L_drop, q is
    returned.
    """
    if not objective.contrast or min(q.shape) < 2:
        return q
    generator = data.generator("MIMU", "tuning")
    free = [row.requires_grad_(True) for row in _standardised(q)]
    total = torch.stack(free).detach().sum(0)
    optimizer = Adam(free, lr=LR)
    classes, labels = torch.tensor(data.train.classes), factors.labels.cpu()
    for _ in data.progress(range(PASSES), "MIMU answers"):
        for group in torch.randperm(len(q), generator=generator).split(CLASSES_A_STEP):
            own = [free[row] for row in group.tolist()]
            rows = torch.stack(own)
            others = total - rows.detach().sum(0)
            scores = rows - (others + rows.sum(0) - rows) / (len(q) - 1)
            images = factors[_drawn(labels, classes[group], batch, generator).to(factors.labels.device)]
            loss = _loss(scores, classes[group], layer, images, objective, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=own)
            optimizer.step()
            total = others + torch.stack(own).detach().sum(0)
    return torch.stack(free).detach()


def _standardised(q: Tensor) -> Tensor:
    """Return q with scores of standard deviation 1, on the mean over the classes."""
    centred = q.float() - q.float().mean(-1, keepdim=True)
    spread = every_class(centred).std(-1).mean()
    return centred / torch.where(spread > 0, spread, 1.0)


def _drawn(labels: Tensor, classes: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Return positions of a step's images."""
    count = max(1, round(SHARE_OF_CLASSES * batch / len(classes)))
    of_classes = drawn_by_class(labels, tuple(classes.tolist()), count, generator).flatten()
    of_all = torch.randperm(len(labels), generator=generator)[: max(1, batch - len(of_classes))]
    return torch.cat([of_classes, of_all])


def _loss(
    scores: Tensor,
    classes: Tensor,
    layer: MaskedLayer,
    images: Factors,
    objective: Objective,
    generator: torch.Generator,
) -> Tensor:
    drop = sampled_topk(objective.sampler, scores, objective.kappa, objective.tau, generator)
    logits = masked_logits(layer, (1 - drop).view(-1, *layer.shape), images.h, images.images)
    return drop_loss(logits, images.labels, classes.to(logits.device), objective.retain_weight)
