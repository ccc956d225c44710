"""The one training loop: epochs over batches, a loss, an optimiser, a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision_data import ImageSet

Loss = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[..., Iterable[Any]]


def silent(steps: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Progress that shows nothing: what library code uses unless it is given another."""
    return steps


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the settings of SGD (with Nesterov momentum .9) or AdamW under a one-cycle schedule."""

    epochs: int
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    augment: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"--epochs: expected an integer >= 1, got {self.epochs}. Give the number of epochs")

    def batch_size_for(self, images: int) -> int:
        """The batch size, or a little more where the last batch would be a single image: batch norm can't train on one."""
        size = self.batch_size
        while images > 1 and images % size == 1:
            size += 1
        return size


def fit(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    label: str = "train",
) -> list[dict[str, float]]:
    """Train `model` in place on the mean cross-entropy; returns loss (nats) and score (percent) of each epoch.

    The batch order and the augmentation come from `generator` alone. The model ends in eval mode. Raises ValueError on
    an empty set and FloatingPointError as soon as the loss of an epoch is not finite.
    """
    if not len(images):
        raise ValueError("training: expected at least one image, got none. Ask for a smaller forget set")
    model.to(device).train()
    images = images.to(device)
    size = recipe.batch_size_for(len(images))
    optimizer = optimizer_of(list(model.parameters()), recipe)
    schedule = schedule_of(optimizer, recipe, len(images))
    history = []
    for epoch in progress(range(recipe.epochs), label):
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for x, y in images.batches(size, generator=generator, device=device, augment=recipe.augment):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(y)
            correct += (logits.detach().argmax(1) == y).sum()
        history.append({"loss": total.item() / len(images), "score": 100 * correct.item() / len(images)})
        if not math.isfinite(history[-1]["loss"]):
            raise FloatingPointError(f"training diverged in epoch {epoch + 1}: the loss is {history[-1]['loss']}")
    model.eval()
    return history


def descend(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: torch.optim.Optimizer,
    loss: Loss = F.cross_entropy,
) -> list[float]:
    """One optimiser step per batch on `loss(logits, labels)`; returns the losses. The model keeps the mode it is in."""
    losses = []
    for x, y in batches:
        value = loss(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses).tolist() if losses else []


def warm_up() -> None:
    """Step an optimiser once. torch imports what that needs on the first step of a process, seconds that no method has spent."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], lr=0.0).step()


def optimizer_of(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over these parameters."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True)


def schedule_of(optimizer: torch.optim.Optimizer, recipe: Recipe, images: int) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle of the learning rate over the steps that the recipe takes on so many images."""
    steps = math.ceil(images / recipe.batch_size_for(images)) * recipe.epochs
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=max(steps + 1, 5), pct_start=0.25, cycle_momentum=False)
