"""Train many models of one architecture at once, as `lethe.training.fit` does, at a fraction of the cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.system.threads import usable_cores
from lethe.training.loop import Progress, fit, silent, trial_batch
from lethe.training.many.batches import SharedImages
from lethe.training.many.linear_stack import LinearStack
from lethe.training.many.lockstep import History, Stack, lockstep
from lethe.training.many.module_stack import ModuleStack
from lethe.training.many.threads import side_by_side
from lethe.training.precision import deterministic, precision_of
from lethe.training.recipe import Recipe

__all__ = ["LinearStack", "ModuleStack", "fit_many", "models_at_once"]

CPU_STACK = (
    8  # perceptrons in one thread: more don't fit into the processor's cache (benchmarks/many_models.py)
)
GPU_MODELS = 8  # not measured on a GPU yet; the activations of all have to fit


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
    """Train K models in place, model k on the images at positions rows[k]; return each one's history.

        fit_many(models, images, rows, ...)[k] == fit(models[k], images.subset(rows[k]), recipe,
        generator=generators[k], ...)

    up to float noise and dropout, which uses the global random state. Batch order and augmentation of model k
    come from generators[k] alone. Every model has its own running statistics. The models end in eval mode.

    On a CPU a thread on each core trains a part of the models: perceptrons as `LinearStack`s, others one
    after another. On a GPU all models take each step at once, unless the recipe needs other than plain steps
    (label smoothing, bf16, ...). The images are in memory once, as floats unless they are augmented.

    Raises ValueError if the numbers of models, rows and generators differ, if a model has no images, another
    number of images than the first or another architecture; FloatingPointError if the loss of an epoch is not
    finite.
    """
    _check(models, rows, generators)
    place = torch.device(device)
    whole = slice(0, len(models))
    recipe = _settled(recipe, models[0], images, rows[0], place)
    stacked = LinearStack.takes(models[0]) and recipe.plain
    if not recipe.plain or (place.type == "cpu" and not stacked):
        plain = replace(recipe, deterministic=False)

        def alone(part: slice, ticking: Progress) -> list[History]:
            (model,), (chosen,), (generator,) = models[part], rows[part], generators[part]
            kept = images.subset(chosen)
            return [
                fit(
                    model,
                    kept,
                    plain,
                    generator=generator,
                    device=place,
                    progress=ticking,
                    own_random_state=False,
                )
            ]

        steps = recipe.epochs * math.ceil(len(rows[0]) / recipe.batch_size_for(len(rows[0])))
        with deterministic(recipe.deterministic):  # a setting of the process, so not set by each thread
            return side_by_side(alone, _parts(whole, 1), steps, progress, label)

    shared = SharedImages(images, place, augment=recipe.augment)

    def at_once(part: slice, ticking: Progress) -> list[History]:
        stack: Stack = (LinearStack if stacked else ModuleStack)(
            [model.to(place).train() for model in models[part]]
        )
        histories = lockstep(
            stack, shared, rows[part], recipe, generators=generators[part], progress=ticking, label=label
        )
        for model in models[part]:
            model.eval()
        return histories

    if place.type == "cpu":
        return side_by_side(at_once, _parts(whole, CPU_STACK), recipe.epochs, progress, label)
    return at_once(whole, progress)


def _settled(
    recipe: Recipe, model: nn.Module, images: ImageSet, rows: Tensor, device: torch.device
) -> Recipe:
    """Replace the recipe's `auto` settings, measured once for all models before the threads start."""
    if "auto" not in (recipe.precision, recipe.memory_format, recipe.compile):
        return recipe
    size = recipe.batch_size_for(len(rows))

    def batch() -> tuple[Tensor, Tensor]:
        return trial_batch(images.subset(rows), recipe, size, device)

    with deterministic(recipe.deterministic):
        steps = recipe.epochs * math.ceil(len(rows) / size)
        return precision_of(recipe, copy.deepcopy(model).to(device).train(), batch, steps).settled(
            recipe, device
        )


def models_at_once(model: nn.Module, device: torch.device | str) -> int:
    """Return how many models keep the device busy: more are no faster, and more are lost on a kill."""
    if torch.device(device).type != "cpu":
        return GPU_MODELS
    return usable_cores() * (CPU_STACK if LinearStack.takes(model) else 1)


def _parts(whole: slice, most: int) -> list[slice]:
    """Divide into equal parts of at most `most` models, with a part for each core if possible."""
    count = max(-(-whole.stop // most), min(usable_cores(), whole.stop))
    ends = [whole.stop * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _check(
    models: Sequence[nn.Module], rows: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> None:
    if not models or not len(models) == len(rows) == len(generators):
        raise ValueError(
            "training: expected equal numbers of models, sets of images and generators, at least one, got "
            f"{len(models)}, {len(rows)} and {len(generators)}. Give one of each for every model"
        )
    counts = {len(chosen) for chosen in rows}
    if len(counts) > 1:
        raise ValueError(
            f"training: expected the same number of images for every model, got {sorted(counts)}. Train them "
            "separately"
        )
    if counts == {0}:
        raise ValueError("training: expected at least one image, got none. Ask for a smaller forget set")
    if len({str(model) for model in models}) > 1 or len({_shapes(model) for model in models}) > 1:
        raise ValueError(
            "training: expected models of one architecture, got several. Train each architecture alone"
        )


def _shapes(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in model.state_dict().items())
