"""SalUn_soft: random labels, with a threshold on how far each weight goes instead of a mask from the outset."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unlearn.impl import ForgetData, Unlearned, copy_of, register
from unlearn.passes import fine_tune, sgd
from unlearn.random_label import random_label_passes
from unlearn.salun import check_density
from unlearn.settings import BatchSize, Epochs, LearningRate, Momentum, Share, WeightDecay
from unlearn.srl import check_classes
from unlearn.train_mode import without_a_last_single


@register(
    "SalUn_soft",
    "RL_proximal",
    source="Fan et al. 2024, arXiv:2310.12508",
    resolve=(check_classes, check_density),
    augments=("forget", "retain"),
    source_augments="crop and flip in every loader",
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
    """RL; after each step every weight's way from the initial model is shortened, and the shortest ways end
    at 0.

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
    steps = unlearn_epochs * sum(
        math.ceil(len(s) / without_a_last_single(s, batch_size)) for s in (data.forget, data.retain)
    )
    shorten_ways(list(student.parameters()), optimizer, falling(1 - density, steps))
    passes = random_label_passes(data)
    return fine_tune(student, data, "SalUn_soft", passes, optimizer, unlearn_epochs, batch_size, streams="RL")


def falling(start: float, steps: int) -> Iterator[float]:
    """`steps` numbers, evenly from `start` to 0; of a single one, `start`."""
    return (start * (1 - step / max(steps - 1, 1)) for step in range(steps))


def shorten_ways(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, shares: Iterator[float]
) -> None:
    """After each of the optimiser's steps, soft-threshold the way from the present values by the next share's
    quantile.
    """
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def shorten(*_: object) -> None:
        ways = [p - start for p, start in zip(parameters, initial, strict=True)]
        threshold = quantile(torch.cat([way.abs().flatten() for way in ways]), next(shares))
        for parameter, start, way in zip(parameters, initial, ways, strict=True):
            parameter.copy_(start + way.sign() * (way.abs() - threshold).clamp_min(0))

    optimizer.register_step_post_hook(shorten)


def quantile(values: Tensor, share: float) -> Tensor:
    """The round(share N)-th smallest of N values >= 0, or 0 for the 0th. (torch.quantile refuses more than
    2^24 values.)
    """
    rank = round(share * len(values))
    return values.kthvalue(rank).values if rank else values.new_zeros(())
