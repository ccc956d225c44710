"""The training loop of many models: as `training.loop.fit`, every step for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from training.loop import Progress
from training.many.batches import SharedImages
from training.recipe import Recipe, optimizer_of, schedule_of

History = list[dict[str, float]]


class Stack(Protocol):
    """K models in train mode as one: their parameters stacked, (K, ...) each."""

    parameters: list[Tensor]

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradients of each model's mean cross-entropy into the parameters' `grad`; images (K, N, ...), labels (K, N).

        Returns the mean losses (K,) and the numbers of right predictions (K,).
        """

    def write_back(self) -> None:
        """Put the stacked values into the models that they came from."""


def lockstep(
    stack: Stack,
    images: SharedImages,
    rows: Sequence[Tensor],
    recipe: Recipe,
    *,
    generators: Sequence[torch.Generator],
    progress: Progress,
    label: str,
) -> list[History]:
    """Train the models of a stack, model k on the images at rows[k] (as many for each) in generators[k]'s order; the history of each.

    Raises FloatingPointError as soon as the loss of an epoch is not finite, or where a weight is not in the end.
    """
    count = len(rows[0])
    optimizer = optimizer_of(stack.parameters, recipe)
    schedule = schedule_of(optimizer, recipe, count)
    histories: list[History] = [[] for _ in rows]
    for epoch in progress(range(recipe.epochs), label):
        total, correct = (torch.zeros(len(rows), device=images.device) for _ in range(2))
        for x, y in images.epoch(rows, generators, recipe.batch_size_for(count)):
            losses, right = stack.gradients(x, y)
            optimizer.step()
            schedule.step()
            total += losses * y.shape[1]
            correct += right
        for history, loss, score in zip(histories, total.tolist(), correct.tolist(), strict=True):
            history.append({"loss": loss / count, "score": 100 * score / count})
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch + 1}: the loss is {loss / count}. Choose a smaller --train_lr (it is {recipe.lr:g})"
                )
    if not all(parameter.isfinite().all() for parameter in stack.parameters):
        raise FloatingPointError(
            f"training diverged in epoch {recipe.epochs}: a weight is not finite after its last step. "
            f"Choose a smaller --train_lr (it is {recipe.lr:g})"
        )
    stack.write_back()
    return histories
