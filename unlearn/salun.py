"""SalUn: random labels, learned by the weights that matter most for what is to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import evaluating
from unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from unlearn.passes import fine_tune, sgd
from unlearn.random_label import random_label_passes
from unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, Share, WeightDecay
from unlearn.srl import check_classes


def check_density(model: nn.Module, data: ForgetData, *, density: float) -> None:
    """ValueError for a density that leaves no weight to train."""
    total = sum(p.numel() for p in model.parameters())
    if round(density * total) < 1:
        raise ValueError(
            f"--density: expected a share in (0, 1] of at least one of {total} weights, got {density}. Give "
            "e.g. 0.5"
        )


@register(
    "SalUn",
    source="Fan et al. 2024, arXiv:2310.12508",
    resolve=(check_classes, check_density),
    augments=("forget", "retain"),
    source_augments="crop and flip in every loader, the saliency's too",
)
def salun(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 1.3e-2,
    batch_size: BatchSize = 256,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    density: Share = 0.5,
) -> Unlearned:
    """RL on the most salient weights; the others keep the initial model's values, bit for bit.

        S = |sum of grad CE(f_theta_0(x), y)|        (x, y) in forget, theta_0 the initial model in eval mode
        keep = the density of all weights with the largest S
        theta <- theta_0 where not keep, after each step of RL

    All parameters are ranked together, biases and batch norm's among them. Where the run augments, the images
    that S is summed over are augmented too.

    Departures: random labels are never the true one, and batch norm keeps its running statistics on forget,
    see RL. S sums the gradients of single images at one model; the source sums those of batch means, with a
    step of ascent after each batch.

    Flags:
        unlearn_epochs: passes over the forget and the retain set
        unlearn_lr: learning rate of SGD
        density: share of the weights that are trained, in (0, 1]

    Raises ValueError for a single class, FloatingPointError if it diverges.
    """
    student = copy_of(model)
    forget, moves = data.forget.to(data.device), data.generator("SalUn", "saliency", "augmentation")
    batches = forget.batches(batch_size, device=data.device, augment=data.augment, moves_from=moves)
    keep = most_salient(saliency(student, batches), density)
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    freeze_outside(keep, list(student.parameters()), optimizer)
    passes = random_label_passes(data)
    unlearned = fine_tune(student, data, "SalUn", passes, optimizer, unlearn_epochs, batch_size, streams="RL")
    counts: dict[str, int | float | str] = {
        "weights": sum(k.numel() for k in keep),
        "trained_weights": sum(int(k.sum()) for k in keep),
    }
    return Unlearned(unlearned.model, history=unlearned.history, facts=counts)


def saliency(model: nn.Module, batches: Iterable[Batch]) -> list[Tensor]:
    """|sum over all images of the gradient of the cross-entropy| per parameter, in eval mode."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    with evaluating(model):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y, reduction="sum")
            for total, gradient in zip(
                sums, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
            ):
                if gradient is not None:
                    total += gradient
    return [total.abs_() for total in sums]


def most_salient(scores: list[Tensor], density: float) -> list[Tensor]:
    """True for the round(density N) largest of all N scores, whatever tensor they are in; of equal ones the
    first.
    """
    flat = torch.cat([score.flatten() for score in scores])
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[flat.argsort(descending=True, stable=True)[: round(density * len(flat))]] = True
    parts = keep.split([score.numel() for score in scores])
    return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]


def freeze_outside(
    keep: list[Tensor], parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Put each weight that is not kept back to its present value after every step, so that neither decay nor
    momentum moves it.

    Exact for optimisers that treat each weight by itself (SGD, Adam).
    """
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def put_back(*_: object) -> None:
        for parameter, start, kept in zip(parameters, initial, keep, strict=True):
            parameter.copy_(torch.where(kept, parameter, start))

    optimizer.register_step_post_hook(put_back)
