"""SalUn and SalUn_soft: learn random labels by the weights that matter most for the forget set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.flag_error import FlagError
from lethe.models import evaluating
from lethe.unlearn.dual_optimizer import DualOptimizer, forget_optimizer
from lethe.unlearn.frozen_weights import freeze_outside
from lethe.unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import fine_tune, sgd
from lethe.unlearn.random_label import random_label_passes
from lethe.unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, Share, WeightDecay
from lethe.unlearn.srl import check_classes
from lethe.unlearn.train_mode import without_a_last_single

SOURCE = "Fan et al. 2024, arXiv:2310.12508"


def check_density(model: nn.Module, data: ForgetData, *, density: float) -> None:
    """Raise ValueError for a density that leaves no weight to train."""
    total = sum(p.numel() for p in model.parameters())
    if round(density * total) < 1:
        raise FlagError(
            "density",
            f"expected a share in (0, 1] of at least one of {total} weights, got {density}. Give e.g. 0.5",
        )


@register(
    "SalUn",
    source=SOURCE,
    resolve=(check_classes, check_density),
    augments=("forget", "retain"),
    source_augments="crop and flip in every loader, the saliency's too",
    parallel=True,
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
    dual_optimizer: DualOptimizer | None = None,
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
    of_forget = forget_optimizer(student, dual_optimizer)
    freeze_outside(keep, list(student.parameters()), *filter(None, (optimizer, of_forget)))
    passes = random_label_passes(data, of_forget)
    done = fine_tune(student, data, "SalUn", passes, optimizer, unlearn_epochs, batch_size, streams="RL")
    done.facts["weights"] = sum(k.numel() for k in keep)
    done.facts["trained_weights"] = sum(int(k.sum()) for k in keep)
    return done


@register(
    "SalUn_soft",
    "RL_proximal",
    source=SOURCE,
    resolve=(check_classes, check_density),
    augments=("forget", "retain"),
    source_augments="crop and flip in every loader",
    parallel=True,
)
def salun_soft(
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
    """RL; after each step the weights' changes since the initial model are soft-thresholded.

        delta = theta - theta_0;  t = r-quantile of |delta| over all weights
        theta <- theta_0 + sign(delta) max(|delta| - t, 0)

    theta_0 is the initial model throughout; r falls linearly from 1 - density after the first step to 0 after
    the last.

    Departures: the source takes theta_0 anew in each epoch; random labels are never the true one, and batch
    norm keeps its running statistics on forget, see RL.

    Flags:
        unlearn_epochs: passes over the forget and the retain set
        unlearn_lr: learning rate of SGD
        density: share of the weights that the first step may move, in (0, 1]

    Raises ValueError for a single class, FloatingPointError if it diverges.
    """
    student = copy_of(model)
    optimizer = sgd(student, unlearn_lr, momentum, weight_decay)
    sizes = [
        (len(images), without_a_last_single(images, batch_size)) for images in (data.forget, data.retain)
    ]
    steps = unlearn_epochs * sum(math.ceil(count / size) for count, size in sizes)
    soft_threshold_changes(list(student.parameters()), optimizer, falling(1 - density, steps))
    passes = random_label_passes(data, None)
    return fine_tune(student, data, "SalUn_soft", passes, optimizer, unlearn_epochs, batch_size, streams="RL")


def saliency(model: nn.Module, batches: Iterable[Batch]) -> list[Tensor]:
    """Return |sum over all images of the gradient of the cross-entropy| per parameter, in eval mode."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    with evaluating(model):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient
    return [total.abs_() for total in sums]


def most_salient(scores: list[Tensor], density: float) -> list[Tensor]:
    """Mark the round(density N) largest of all N scores, over all tensors; of equal ones the first."""
    flat = torch.cat([score.flatten() for score in scores])
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[flat.argsort(descending=True, stable=True)[: round(density * len(flat))]] = True
    parts = keep.split([score.numel() for score in scores])
    return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]


def falling(start: float, steps: int) -> Iterator[float]:
    """Yield `steps` numbers that fall evenly from `start` to 0; `start` if it is one."""
    return (start * (1 - step / max(steps - 1, 1)) for step in range(steps))


def soft_threshold_changes(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, shares: Iterator[float]
) -> None:
    """After every step, soft-threshold the changes since now by their quantile at the next share."""
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def shrink(*_: object) -> None:
        changes = [p - start for p, start in zip(parameters, initial, strict=True)]
        threshold = quantile(torch.cat([change.abs().flatten() for change in changes]), next(shares))
        for parameter, start, change in zip(parameters, initial, changes, strict=True):
            parameter.copy_(start + change.sign() * (change.abs() - threshold).clamp_min(0))

    optimizer.register_step_post_hook(shrink)


def quantile(values: Tensor, share: float) -> Tensor:
    """Return the round(share N)-th smallest of N values >= 0, or 0 for the 0th.

    torch.quantile refuses more than 2^24 values.
    """
    rank = round(share * len(values))
    return values.kthvalue(rank).values if rank else values.new_zeros(())
