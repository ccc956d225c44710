"""Many models of one architecture at once: each as `training.fit` would train it alone, for a part of the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from training.loop import Progress, Recipe, optimizer_of, schedule_of, silent
from training.many.batches import Batches
from training.many.linear_stack import LinearStack
from training.many.module_stack import ModuleStack
from vision_data import ImageSet

__all__ = ["LinearStack", "ModuleStack", "fit_many", "stack_of", "stack_size"]

LINEAR_STACK, MODULE_STACK, GPU_STACK = 16, 4, 32  # benchmarks/many_models.py; the last is a guess that fits any GPU
History = list[dict[str, float]]


class Stack(Protocol):
    """K models as one: their parameters stacked, (K, ...) each."""

    parameters: list[Tensor]

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradients of each model's mean cross-entropy into the parameters' `grad`; images (K, N, ...), labels (K, N).

        Returns the mean losses (K,) and the numbers of right predictions (K,).
        """

    def write_back(self) -> None:
        """Put the stacked values into the models that they came from."""


def fit_many(
    models: Sequence[nn.Module],
    images: ImageSet,
    rows: Sequence[Tensor],
    recipe: Recipe,
    *,
    generators: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    label: str = "train",
) -> list[History]:
    """Train K models in place, in lockstep; model k on the images at positions rows[k]. Returns the history of each, as `fit` does.

        fit_many(models, images, rows, ...)[k] == fit(models[k], images.subset(rows[k]), recipe, generator=generators[k], ...)

    up to float noise: batch order and augmentation of model k come from generators[k] alone, in the order in which `fit` draws
    them, and every model has its own running statistics. Dropout comes from the global random state, and differs. All models
    are held at once, with their gradients and the optimiser's state; the images, which they share, once, as floats unless they are
    augmented. The models end in eval mode.

    Raises ValueError where numbers do not fit, where a model has no images, another number of them than the first or another
    architecture, and FloatingPointError, naming the model, as soon as a loss of an epoch is not finite.
    """
    _check(models, rows, generators)
    for model in models:
        model.to(device).train()
    batches = Batches(images, rows, generators, device, augment=recipe.augment)
    count = len(rows[0])
    stack = stack_of(models)
    optimizer = optimizer_of(stack.parameters, recipe)
    schedule = schedule_of(optimizer, recipe, count)
    histories: list[History] = [[] for _ in models]
    for epoch in progress(range(recipe.epochs), label):
        total, correct = (torch.zeros(len(models), device=device) for _ in range(2))
        for x, y in batches.epoch(recipe.batch_size_for(count)):
            losses, right = stack.gradients(x, y)
            optimizer.step()
            schedule.step()
            total += losses * y.shape[1]
            correct += right
        for history, loss, right_ones in zip(histories, total.tolist(), correct.tolist(), strict=True):
            history.append({"loss": loss / count, "score": 100 * right_ones / count})
        _check_finite(histories, epoch)
    stack.write_back()
    for model in models:
        model.eval()
    return histories


def stack_of(models: Sequence[nn.Module]) -> Stack:
    """The models as one: by products of stacked matrices where they are nothing but linear maps and relus, else by vmap."""
    return LinearStack(models) if LinearStack.takes(models[0]) else ModuleStack(models)


def stack_size(model: nn.Module, device: torch.device | str) -> int:
    """How many models like this one to train at once, where nothing is known but the device: what measured fastest per model.

    On a CPU a stack should stay in the processor's cache; on a GPU the more the better, up to its memory.
    """
    if torch.device(device).type != "cpu":
        return GPU_STACK
    return LINEAR_STACK if LinearStack.takes(model) else MODULE_STACK


def _check(models: Sequence[nn.Module], rows: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
    if not models or not len(models) == len(rows) == len(generators):
        raise ValueError(
            f"training: expected as many models, sets of images and generators, at least one, got {len(models)}, {len(rows)} and "
            f"{len(generators)}. Give one of each for every model"
        )
    counts = {len(chosen) for chosen in rows}
    if len(counts) > 1:
        raise ValueError(f"training: expected as many images for every model, got {sorted(counts)}. Train those of one number at once")
    if counts == {0}:
        raise ValueError("training: expected at least one image, got none. Ask for a smaller forget set")
    if len({str(model) for model in models}) > 1 or len({_shapes(model) for model in models}) > 1:
        raise ValueError("training: expected models of one architecture, got several. Train each architecture alone")


def _shapes(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in model.state_dict().items())


def _check_finite(histories: Sequence[History], epoch: int) -> None:
    for number, history in enumerate(histories):
        if not math.isfinite(history[-1]["loss"]):
            loss = history[-1]["loss"]
            raise FloatingPointError(
                f"training diverged in epoch {epoch + 1}: the loss of model {number + 1} of {len(histories)} is {loss}"
            )
