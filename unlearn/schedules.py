"""Learning rates that change from step to step within a method's run."""

from __future__ import annotations

import math

import torch


def fall_by_cosine(optimizer: torch.optim.Optimizer, steps: int, lowest: float = 0.0) -> None:
    """Let the learning rate fall from its present value to `lowest` over `steps` steps of the optimiser.

        rate after t steps = lowest + (start - lowest) (1 + cos(pi t / steps)) / 2

    It stays at `lowest` afterwards.
    """
    starts = [group["lr"] for group in optimizer.param_groups]
    done = 0

    def fall(*_: object) -> None:
        nonlocal done
        done = min(done + 1, steps)
        share = (1 + math.cos(math.pi * done / steps)) / 2
        for group, start in zip(optimizer.param_groups, starts, strict=True):
            group["lr"] = lowest + (start - lowest) * share

    optimizer.register_step_post_hook(fall)
