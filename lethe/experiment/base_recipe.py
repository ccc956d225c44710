"""The recipe of the base models: as asked for, else as in the checkpoint of --mask, else the default."""

from __future__ import annotations

from typing import Any

from lethe.data.augmentation import augmentations, check_augmentable
from lethe.experiment.base_config import BaseConfig
from lethe.flag_error import FlagError
from lethe.registry import Entry
from lethe.training import Metadata, Recipe
from lethe.training.recipe import FLAGS, changed


def epochs_of(config: BaseConfig, default: int, found: Metadata | None) -> int:
    """Return the epochs of training. found: the metadata of the checkpoint of --mask, if it exists.

    The ideal model is trained for as many epochs as the initial one. Raises ValueError for other epochs than
    the checkpoint's.
    """
    if found is None:
        return default if config.epochs is None else config.epochs
    if config.epochs not in (None, found.epochs):
        raise FlagError(
            "epochs",
            f"{config.mask} was trained for {found.epochs}, got {config.epochs}. Leave out --epochs or "
            "--mask",
        )
    return found.epochs


def default_recipe(epochs: int, architecture: Entry[Any], dataset: Entry[Any]) -> Recipe:
    """Return the recipe of an architecture on a dataset."""
    facts = architecture.facts
    return Recipe(
        epochs, facts.optimizer, facts.lr, facts.batch_size, facts.weight_decay, dataset.facts.augment
    )


def recipe_of(config: BaseConfig, default: Recipe, found: Metadata | None) -> Recipe:
    """Return the recipe with the settings that are asked for, or without any, with the checkpoint's."""
    if found is not None and not config.training:
        return changed(default, **found.training)
    return changed(default, **FLAGS.settings(config.training))


def check_recipe_augments(recipe: Recipe, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError for an augmentation that would leave images of this shape unchanged."""
    try:
        check_augmentable(augmentations(recipe.augment), image_shape)
    except ValueError as error:
        raise FlagError("train_augment", error) from error
