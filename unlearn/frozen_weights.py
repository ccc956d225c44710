"""Frozen entries: weights that an optimiser's steps do not move, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def freeze_outside(
    keep: Sequence[Tensor], parameters: Sequence[nn.Parameter], *optimizers: torch.optim.Optimizer
) -> None:
    """Reset each weight outside `keep` to its present value after every step of each optimiser.

    Neither decay nor momentum moves it. Exact for optimisers that treat each weight by itself (SGD, Adam).
    """
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def reset(*_: object) -> None:
        for parameter, start, kept in zip(parameters, initial, keep, strict=True):
            parameter.copy_(torch.where(kept, parameter, start))

    for optimizer in optimizers:
        optimizer.register_step_post_hook(reset)
