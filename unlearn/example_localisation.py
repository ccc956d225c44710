"""DEL: reset the output channels in which the forget set is stored, and train only those on retain."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.features import check_classifier
from lethe.unlearn.fresh_weights import redrawn
from lethe.unlearn.frozen_weights import freeze_outside
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.salun import check_density, most_salient, saliency
from lethe.unlearn.schedules import fall_by_cosine
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, Share
from lethe.unlearn.train_mode import without_a_last_single

TOP = 0.1  # of a channel's scores, those that are averaged
LOWEST = 0.01  # of the learning rate, at the end


@register(
    "DEL",
    "deletion_by_example_localisation",
    source="Torkzadehmahani et al. 2025, TMLR, OpenReview zXAVdHYPIB",
    resolve=(check_classifier, check_density),
    augments=("retain",),
    parallel=True,
)
def example_localisation(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 30,
    unlearn_lr: LearningRate = 0.015,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    density: Share = 0.3,
) -> Unlearned:
    """Draw the channels anew to which the forget set matters most, and fine-tune only them on retain.

        s = |theta * sum of grad CE(f_theta_0(x), y)|    (x, y) in forget, theta_0 in eval mode
        of tensors with two dimensions or more every entry of output channel o gets the mean of the largest
        10 % of channel o's scores; biases and batch norm's weights keep their own
        mask = the density of all weights with the largest s
        theta <- initial random weights where mask;    then theta <- SGD(theta, g_r) where mask

    The classifier is trained whole. All other weights keep the initial model's values, bit for bit. The
    learning rate falls to 1 % by a cosine. The gradients are added with their signs, so that opposite images
    cancel, as in SalUn.

    Flags:
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD at the start
        density: share of the weights that are drawn anew and trained

    Raises ValueError for a density that leaves no weight to train, and for a model whose logits do not come
    from a linear layer; FloatingPointError if it diverges.

    Departure: the source takes 10 % of the number of channels, not of a channel's length, and draws the
    random weights without a seed.
    """
    student = copy_of(model)
    batches = data.forget.to(data.device).batches(batch_size, device=data.device)
    parameters = list(student.parameters())
    slopes = saliency(student, batches)
    scores = [by_channel(s * p.detach().abs()) for s, p in zip(slopes, parameters, strict=True)]
    mask = most_salient(scores, density)
    put_initial_weights(student, mask, data)
    of_classifier = {id(p) for p in student.get_submodule(classifier_of(model, data)).parameters()}
    trained = [m | (id(p) in of_classifier) for m, p in zip(mask, parameters, strict=True)]
    optimizer = sgd(student, unlearn_lr, momentum, 0.0)
    freeze_outside(trained, parameters, optimizer)
    steps = math.ceil(len(data.retain) / without_a_last_single(data.retain, batch_size))
    fall_by_cosine(optimizer, unlearn_epochs * steps, LOWEST * unlearn_lr)
    passes = [Pass("retain", data.retain.to(data.device))]
    done = fine_tune(student, data, "DEL", lambda _: passes, optimizer, unlearn_epochs, batch_size)
    done.facts["weights"] = sum(m.numel() for m in mask)
    done.facts["redrawn_weights"] = sum(int(m.sum()) for m in mask)
    return done


def by_channel(scores: Tensor) -> Tensor:
    """Return for every entry the mean of the largest tenth of its output channel; a vector as it is."""
    if scores.ndim < 2:
        return scores
    rows = scores.flatten(1)
    count = max(1, round(TOP * rows.shape[1]))
    means = rows.topk(count, dim=1).values.mean(1)
    return means.view(-1, *(1 for _ in scores.shape[1:])).expand_as(scores)


@torch.no_grad()
def put_initial_weights(student: nn.Module, mask: list[Tensor], data: ForgetData) -> None:
    """Draw the masked weights from their layers' initial distributions; a layer without one keeps them."""
    fresh = redrawn(student, data.generator("DEL", "initial weights"))
    for parameter, new, chosen in zip(student.parameters(), fresh.parameters(), mask, strict=True):
        parameter.copy_(torch.where(chosen, new.to(parameter.device), parameter))
