"""ESC and ESC_T: delete the directions of feature space in which the forgotten classes live."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.signature import Range, Search
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.features import Projected, check_classifier, features_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.settings import BatchSize, BetweenZeroAndOne, Epochs, LearningRate
from lethe.unlearn.whole_classes import only_whole_classes

SOURCE = "Lee et al. 2025, CVPR, arXiv:2504.02199"
ROUNDING = 1e-10  # of the largest squared length, of features in single precision

Percent = Annotated[float, Range(0, 100, "()"), Search("log", 0.5, 50)]


@register(
    "ESC",
    source=SOURCE,
    needs=("forget",),
    wraps=True,
    whole_class=True,
    resolve=(only_whole_classes("ESC"), check_classifier),
    augments=(),
)
def esc(model: nn.Module, data: ForgetData, *, removed_percent: Percent = 1.5) -> Unlearned:
    """Remove from the features the directions along which the forget images' features are largest.

        H (d, n_f) = penultimate features of the forget images, eval mode, not centred;  H = U S V'
        k = removed_percent of d, at least 1;  P = I - U_1..k U_1..k';  logits = W P h + b

    The result is a module around the model, with P between its features and its classifier: a linear probe
    finds the class in neither features nor logits. Folded into W, P would give the same logits and leave the
    features as they are. One direction a class is the least that can forget it. Labels are not used.

    Flags:
        removed_percent: percent of the features' directions that are removed

    Raises ValueError for a request that is not whole classes, and for a model whose logits do not come from a
    linear layer.

    Departures: at least one direction goes, and none along which no forget image has a feature; the source
    collects the features in train mode, where the running statistics drift to the forgotten class.
    """
    directions, lengths = principal_directions(features_of(model, data.forget, data))
    asked = max(1, int(removed_percent * len(lengths) / 100))
    present = int((lengths > ROUNDING * lengths[0]).sum())
    removed = directions[:, : min(asked, present)]
    projection = torch.eye(len(lengths), dtype=removed.dtype) - removed @ removed.T
    facts: dict[str, int | float | str] = {"removed_directions": removed.shape[1]}
    if not removed.shape[1]:
        facts["unchanged"] = "the features of all forget images are 0. Choose another method"
    return Unlearned(_with(model, data, projection), facts=facts)


@register(
    "ESC_T",
    "ESC-T",
    source=SOURCE,
    needs=("forget", "labels"),
    wraps=True,
    whole_class=True,
    resolve=(only_whole_classes("ESC_T"), check_classifier),
    augments=(),
)
def esc_t(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 50,
    unlearn_lr: LearningRate = 0.3,
    batch_size: BatchSize = 64,
    threshold: BetweenZeroAndOne = 0.7,
) -> Unlearned:
    """Learn which entries of the forget images' directions to remove from the features.

        U as in ESC;  Q = U * M, M (d, d) in [0, 1], entry by entry;  logits = W Q Q' h + b
        M = 1;  per forget batch: L = - CE over its images that are still classified right
                                  M <- clamp(M - unlearn_lr grad_M L, 0, 1)
        at the end M <- 1[M > threshold]

    The search ends after the epoch in which no forget image is classified right any more. The result is a
    module around the model, as ESC's, with Q Q' before the classifier: with an entrywise mask that is no
    projection, and can lengthen features. The features are computed once, so that an epoch costs no pass
    through the model.

    Flags:
        unlearn_epochs: passes over the forget images' features, at most
        unlearn_lr: learning rate of M
        threshold: least entry of M that is kept

    Raises ValueError as ESC does.

    Departures: the source's first epoch runs in train mode and multiplies by the transposed matrix. Its
    learning rate, 1e-3, moves no entry of a small set below the threshold: here it is .3, chosen on digits by
    validation images of seeds 101 and 102.
    """
    classifier = dict(model.get_submodule(classifier_of(model, data)).named_parameters())
    weight, bias = classifier["weight"].detach(), classifier.get("bias")
    h = features_of(model, data.forget, data)
    labels = data.forget.labels.to(data.device)
    directions = principal_directions(h)[0].to(h)
    mask = torch.ones_like(directions)
    order, history = data.generator("ESC_T", "order"), []

    def logits_of(h: Tensor, mask: Tensor) -> Tensor:
        q = directions * mask
        return F.linear(h @ q @ q.T, weight, bias)

    for epoch in data.progress(range(unlearn_epochs), "ESC_T"):
        losses = []
        for rows in torch.randperm(len(h), generator=order).split(batch_size):
            mask = mask.detach().requires_grad_(True)
            rows = rows.to(h.device)
            loss = remembered_loss(logits_of(h[rows], mask), labels[rows])
            (slope,) = torch.autograd.grad(loss, mask)
            mask = (mask - unlearn_lr * slope).clamp(0, 1).detach()
            losses.append(loss.detach())
        still = (logits_of(h, mask).argmax(1) == labels).double().mean()
        loss, score = torch.stack([torch.stack(losses).double().mean(), 100 * still]).tolist()
        history.append({"loss": loss, "forget_score": score})
        data.on_epoch(_with(model, data, _square(directions * mask)), epoch + 1)
        if not score:
            break
    kept = (mask > threshold).to(mask)
    removed = int((1 - kept).sum())
    facts: dict[str, int | float | str] = {"epochs_run": len(history), "removed_entries": removed}
    if not removed:
        facts["unchanged"] = "no entry fell to the threshold. Give a larger --unlearn_lr or --threshold"
    return Unlearned(_with(model, data, _square(directions * kept)), history=history, facts=facts)


def principal_directions(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return U (d, d) and the squared lengths (d,) of features (N, d) along its columns, largest first.

    They are the eigenvectors and eigenvalues of the sum of h h', in double precision on the CPU.
    """
    h = h.cpu().double()
    lengths, directions = torch.linalg.eigh(h.T @ h)
    return directions.flip(1), lengths.flip(0).clamp(min=0)


def remembered_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return minus the mean cross-entropy of the images that are classified right; 0 without any."""
    right = logits.argmax(1) == labels
    each = F.cross_entropy(logits, labels, reduction="none")
    return -(each * right).sum() / right.sum().clamp(min=1)


def _square(q: Tensor) -> Tensor:
    return q @ q.T


def _with(model: nn.Module, data: ForgetData, projection: Tensor) -> Projected:
    """Return a copy of the model with the projection before its classifier."""
    classifier = classifier_of(model, data)
    weight = model.get_submodule(classifier).get_parameter("weight")
    return Projected(copy_of(model), classifier, projection.to(weight)).eval()
