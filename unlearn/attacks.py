"""Attacks: steps on images that raise or lower a loss of the model, in pixels of [0, 1], within a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import Normalisation

SMALL = 1e-10  # beside a norm that may be 0


class Box:
    """The pixels of normalised images (N, C, H, W): a pixel p of [0, 1] is (p - mean) / std in them.

    The pixels of images without channels (mean = (), your own tensors) are their values, without bounds.
    """

    def __init__(self, normalisation: Normalisation, x: Tensor) -> None:
        self.bounded = bool(normalisation.mean)
        values = (normalisation.mean, normalisation.std) if self.bounded else ((0.0,), (1.0,))
        self.mean, self.std = (x.new_tensor(value).view(1, -1, 1, 1) for value in values)
        if not self.bounded:
            self.mean, self.std = self.mean.squeeze(), self.std.squeeze()

    def clamped(self, x: Tensor) -> Tensor:
        """Return normalised images with their pixels clamped to [0, 1]."""
        if not self.bounded:
            return x
        return x.clamp(-self.mean / self.std, (1 - self.mean) / self.std)

    def moved(self, x: Tensor, change: Tensor) -> Tensor:
        """Return normalised images whose pixels are changed and clamped."""
        return self.clamped(x + change / self.std)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the change of the pixels from the one to the other, both normalised."""
        return (other - one) * self.std

    def diagonal(self, x: Tensor) -> float:
        """Return the distance (L2) of the box's corners; without bounds, of the box around x."""
        side = 1.0 if self.bounded else float(x.max() - x.min())
        return side * math.sqrt(x[0].numel())


@dataclass(frozen=True)
class Ball:
    """Changes of pixels of at most `radius`, which is their Euclidean norm, or with linf the largest one."""

    radius: float
    norm: Literal["l2", "linf"] = "l2"

    def uphill(self, slope: Tensor, size: float) -> Tensor:
        """Return the change of this size along which slopes (N, ...) rise most."""
        if self.norm == "linf":
            return size * slope.sign()
        return size * slope / (norms(slope) + SMALL)

    def projected(self, change: Tensor) -> Tensor:
        """Return the change, within the ball."""
        if self.norm == "linf":
            return change.clamp(-self.radius, self.radius)
        return change * (self.radius / norms(change).clamp(min=SMALL)).clamp(max=1)

    def drawn(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return random changes (N, ...), uniform in the ball."""
        if self.norm == "linf":
            return self.radius * (2 * torch.rand(like.shape, generator=generator) - 1).to(like)
        direction = torch.randn(like.shape, generator=generator)
        length = torch.rand(norms(direction).shape, generator=generator) ** (1 / like[0].numel())
        return (self.radius * length * direction / norms(direction)).to(like)


def norms(images: Tensor) -> Tensor:
    """Return the Euclidean norm of each of N images, in a shape that divides them."""
    return images.flatten(1).norm(dim=1).view(-1, *(1 for _ in images.shape[1:]))


def slopes(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives by x of each image's cross-entropy with its label, and the logits (N, C)."""
    x = x.detach().clone().requires_grad_(True)  # a model may write into its input
    logits = model(x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    return gradient, logits.detach()


def stepped(x: Tensor, start: Tensor, slope: Tensor, size: float, ball: Ball, box: Box) -> Tensor:
    """Return x after a step of `size` pixels up the slope by x, within the ball around start and the box."""
    change = box.distance(start, x) + ball.uphill(slope / box.std, size)
    return box.moved(start, ball.projected(change))


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """Return the predicted classes (N,)."""
    classes: Tensor = model(x.clone()).argmax(1)
    return classes


def nearest_flips(
    model: nn.Module, x: Tensor, labels: Tensor, box: Box, *, radius: float = 0.04, steps: int = 50
) -> tuple[Tensor, Tensor]:
    """Return images near x that the model predicts as another class, and those classes (N,).

    As long as an image is predicted as its label: up to `steps` steps of a tenth of the radius up its
    cross-entropy, within the radius (L2, pixels) around x; then the radius is doubled, and the steps go on.
    An image that is mispredicted stays as it is. The class of one that no radius up to the diagonal of the
    box flips is its label. The model has to be in eval mode.
    """
    found, classes = x.clone(), predicted(model, x)
    rows = (classes == labels).nonzero().squeeze(1)
    diagonal = box.diagonal(x)
    while len(rows):
        radius = min(radius, diagonal)
        found[rows] = _climbed(model, found[rows], x[rows], labels[rows], Ball(radius), steps, box)
        # Kept as they are said here: in a batch of other images, rounding may flip one back.
        classes[rows] = predicted(model, found[rows])
        rows = rows[classes[rows] == labels[rows]]
        if radius == diagonal:
            break
        radius *= 2
    return found, classes


def _climbed(
    model: nn.Module, x: Tensor, start: Tensor, labels: Tensor, ball: Ball, steps: int, box: Box
) -> Tensor:
    """Return x after up to `steps` steps, each image's until it is predicted as another class."""
    for _ in range(steps):
        slope, logits = slopes(model, x, labels)
        stays = (logits.argmax(1) == labels).view(-1, *(1 for _ in x.shape[1:]))
        if not stays.any():
            break
        x = torch.where(stays, stepped(x, start, slope, ball.radius / 10, ball, box), x)
    return x


def targeted(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    box: Box,
    ball: Ball,
    *,
    size: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return x after `steps` steps of projected gradient descent on the cross-entropy with the targets (N,).

    It starts at a random place in the ball; a step has `size` pixels. The model has to be in eval mode.
    """
    found = box.moved(x, ball.drawn(x, generator))
    for _ in range(steps):
        slope, _ = slopes(model, found, targets)
        found = stepped(found, x, -slope, size, ball, box)
    return found
