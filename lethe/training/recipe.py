"""The settings of a training, and its optimiser and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from lethe.data.augmentation import Augmentation, augmentations, augmentations_of_flag
from lethe.flag_error import FlagError
from lethe.registry import Entry
from lethe.signature import Help, Range, Search
from lethe.training.optimizers import SGD, AdamW

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "cosine"]
Dtype = Literal["float32", "bf16", "auto"]
MemoryFormat = Literal["contiguous", "channels_last", "auto"]
Compile = Literal["no", "yes", "auto"]
PREFIX = "train_"

LearningRate = Annotated[
    float, Range(0, ends="(]"), Search("log", 1e-5, 1), Help("learning rate of the optimiser")
]
WeightDecay = Annotated[float, Range(0), Search("log", 1e-6, 1e-1), Help("weight decay of the optimiser")]
BatchSize = Annotated[int, Range(1), Search("log", 16, 1024), Help("images a step")]
LabelSmoothing = Annotated[float, Range(0, 1, "[)"), Search("linear", 0, 0.3)]


@dataclass(frozen=True)
class Recipe:
    """The settings of a training: SGD (Nesterov momentum .9) or AdamW with a schedule; see `changed`."""

    epochs: int
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    augment: Augmentation = False
    schedule: Schedule = "one_cycle"
    label_smoothing: float = 0.0
    precision: Dtype = "float32"
    memory_format: MemoryFormat = "contiguous"
    compile: Compile = "no"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise FlagError(
                "epochs", f"expected an integer >= 1, got {self.epochs}. Give the number of epochs"
            )
        for name, flag in FLAGS.hyperparameters.items():
            if flag.range is not None:
                flag.check(getattr(self, name.removeprefix(PREFIX)))
        try:
            augmentations(self.augment)
        except ValueError as error:
            raise FlagError(f"{PREFIX}augment", error) from error

    def batch_size_for(self, images: int, processes: int = 1) -> int:
        """Return a batch size that gives batch norm two images of the last batch in every process."""
        fewest = 2 * processes
        size = self.batch_size if processes == 1 else max(self.batch_size, fewest)
        while images >= fewest and 0 < images % size < fewest:
            size += 1
        return size

    @property
    def plain(self) -> bool:
        """Whether a step is plain: float32 and cross-entropy, the only one that stacked models can take."""
        default = Recipe(self.epochs)
        names = ("label_smoothing", "precision", "memory_format", "compile", "deterministic")
        return all(getattr(self, name) == getattr(default, name) for name in names)


def changed(
    recipe: Recipe,
    *,
    train_optimizer: Optimizer | None = None,
    train_lr: LearningRate | None = None,
    train_batch_size: BatchSize | None = None,
    train_weight_decay: WeightDecay | None = None,
    train_augment: tuple[Literal["crop", "flip", "cutout", "none"], ...] | None = None,
    train_schedule: Schedule = "one_cycle",
    train_label_smoothing: LabelSmoothing = 0.0,
    train_precision: Dtype = "float32",
    train_memory_format: MemoryFormat = "contiguous",
    train_compile: Compile = "no",
    train_deterministic: bool = False,
) -> Recipe:
    """Replace settings of a recipe; None keeps the architecture's or the dataset's default.

    Flags:
        train_optimizer: SGD with Nesterov momentum 0.9, or AdamW
        train_lr: highest learning rate of the schedule
        train_batch_size: images of a step, of all processes together
        train_augment: augmentations of each training image, or none
        train_schedule: one_cycle rises for a quarter of the steps and falls, cosine falls from the first step
            on
        train_label_smoothing: share of the target spread over all classes
        train_precision: of forward and backward passes; auto measures which is clearly faster, or takes the
            initial model's
        train_memory_format: of images and weights; auto as above
        train_compile: torch.compile; auto where it saves more seconds than it takes
        train_deterministic: operations that give the same bits on a GPU each time; an error for one without
            such a form

    Raises ValueError for a value that makes no sense.
    """
    given = {name: value for name, value in locals().items() if name.startswith(PREFIX) and value is not None}
    settings: dict[str, Any] = {name.removeprefix(PREFIX): value for name, value in given.items()}
    if "augment" in settings:
        try:
            settings["augment"] = augmentations_of_flag(settings["augment"])
        except ValueError as error:
            raise FlagError(f"{PREFIX}augment", error) from error
    return replace(recipe, **settings)


FLAGS: Entry[None] = Entry("recipe", changed, (), None)


def differences(recipe: Recipe, default: Recipe) -> dict[str, Any]:
    """Return the settings, by flag, in which a recipe differs from another; the epochs aside."""

    def value(of: Recipe, name: str) -> Any:
        return (augmentations(of.augment) or ("none",)) if name == "augment" else getattr(of, name)

    names = [each.name for each in fields(Recipe) if each.name != "epochs"]
    return {
        f"{PREFIX}{name}": value(recipe, name)
        for name in names
        if value(recipe, name) != value(default, name)
    }


def divergence(recipe: Recipe, epoch: int, how: str) -> str:
    """Return the message of a training that diverged."""
    return f"training diverged in epoch {epoch}: {how}. Choose a smaller --train_lr (it is {recipe.lr:g})"


def optimizer_of(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of these parameters."""
    if recipe.optimizer == "adamw":
        return AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return SGD(
        parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )


def schedule_of(
    optimizer: torch.optim.Optimizer, recipe: Recipe, images: int, processes: int = 1
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule over the recipe's steps: one cycle, or half a cosine from `lr` to 0."""
    steps = math.ceil(images / recipe.batch_size_for(images, processes)) * recipe.epochs
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=max(steps + 1, 5), pct_start=0.25, cycle_momentum=False
    )
