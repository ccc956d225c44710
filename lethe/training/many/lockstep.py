"""The training loop of many models that take each step together, as `lethe.training.loop.fit` for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lethe.training.loop import Progress
from lethe.training.many.batches import SharedImages
from lethe.training.recipe import Recipe, divergence, optimizer_of, schedule_of

History = list[dict[str, float]]


class Stack(Protocol):
    """K models in train mode with stacked parameters, (K, ...) each."""

    parameters: list[Tensor]

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Set `grad` to each model's gradient of its mean cross-entropy; images (K, N, ...), labels (K, N).

        Return the mean losses (K,) and the numbers of correct predictions (K,).
        """

    def write_back(self) -> None:
        """Copy the stacked values back into the models."""


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
    """Train a stack's models, model k on the images at rows[k] in generators[k]'s order.

    All models have the same number of images. Raises FloatingPointError if a loss of an epoch or a final
    weight is not finite.
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
                raise FloatingPointError(divergence(recipe, epoch + 1, f"the loss is {loss / count}"))
    if not all(parameter.isfinite().all() for parameter in stack.parameters):
        how = "a weight is not finite after its last step"
        raise FloatingPointError(divergence(recipe, recipe.epochs, how))
    stack.write_back()
    return histories
