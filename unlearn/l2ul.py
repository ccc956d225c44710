"""L2UL: misclassify a few images, with images adversarial to them in place of the retain set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.models import evaluating
from lethe.training import descend
from lethe.unlearn.attacks import Ball, Box, targeted
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.importance import over_images
from lethe.unlearn.lotus import accuracy
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import (
    RESOLVED,
    BatchSize,
    Count,
    CountFromZero,
    Epochs,
    LearningRate,
    Momentum,
    Positive,
    Weight,
    WeightDecay,
)
from lethe.unlearn.srl import check_classes, other_labels
from lethe.unlearn.streams import endless
from lethe.unlearn.train_mode import train_mode

SOURCE = "Cha et al. 2024, AAAI, arXiv:2301.11578"
RADIUS = 4 / math.sqrt(3 * 32 * 32)  # for each square root of a pixel: 4 for images of CIFAR
AT_ONCE = 512  # images that are attacked together

Penalty = Callable[[], Tensor | float]  # of a model's present weights


def resolve(model: nn.Module, data: ForgetData, *, attack_radius: float | None) -> dict[str, float]:
    """Return the radius: that of the source for images of CIFAR, scaled by the root of the pixels."""
    if attack_radius is not None:
        return {"attack_radius": attack_radius}
    return {"attack_radius": RADIUS * math.sqrt(math.prod(data.forget.images.shape[1:]))}


@register(
    "L2UL_adv",
    source=SOURCE,
    needs=("forget", "labels"),
    resolve=(check_classes, resolve),
    augments=("forget",),
    parallel=True,
)
def l2ul_adv(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 100,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 256,
    forget_batch_size: BatchSize = 32,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    adversarial_images: CountFromZero = 20,
    attack_steps: Count = 100,
    attack_radius: Positive = RESOLVED,
) -> Unlearned:
    """Misclassify the forget images; stay with images adversarial to them, which stand in for retain.

        A: for each forget image and each of adversarial_images: a wrong class y' at random,
           x' = targeted projected gradient descent from x to y' against f_0, |x' - x|_2 <= attack_radius
        per step, s_a images of A and s_f forget images:
           L = - s_f / (s_f + s_a) CE(f_theta(x), y) + s_a / (s_f + s_a) CE(f_theta(x'), y')
           theta <- SGD(theta, grad L)

    An epoch is a pass over A; forget is cycled. It ends after the epoch in which no forget image is
    classified right. The images of A carry the features of the other classes. It is made for tens of images:
    each costs adversarial_images times attack_steps passes. Distances are in pixels of [0, 1]; a step of the
    attack is a fortieth of the radius.

    Flags:
        unlearn_epochs: passes over the adversarial images, at most
        unlearn_lr: learning rate of SGD
        batch_size: adversarial images a step
        forget_batch_size: forget images a step
        adversarial_images: number of images that are made of each forget image
        attack_steps: steps that make such an image
        attack_radius: largest distance of such an image from its forget image (4 for 3 x 32 x 32 pixels, and
            as the square root of their number for others)

    Raises ValueError for a single class, FloatingPointError if it diverges.

    Departures: wrong classes are drawn evenly from the others, where the source's may be the true one; batch
    norm keeps its running statistics; the end is looked for once an epoch.
    """
    return _unlearned(
        model,
        data,
        "L2UL_adv",
        lambda student: no_penalty,
        adversarial_images=adversarial_images,
        attack_steps=attack_steps,
        attack_radius=attack_radius,
        unlearn_epochs=unlearn_epochs,
        sizes=(batch_size, forget_batch_size),
        optimizer_of=lambda student: sgd(student, unlearn_lr, momentum, weight_decay),
    )


@register(
    "L2UL",
    "L2UL_imp",
    source=SOURCE,
    needs=("forget", "labels"),
    resolve=(check_classes, resolve),
    augments=("forget",),
    parallel=True,
)
def l2ul(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 100,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = 256,
    forget_batch_size: BatchSize = 32,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    adversarial_images: CountFromZero = 20,
    attack_steps: Count = 100,
    attack_radius: Positive = RESOLVED,
    reg_lambda: Weight = 1.0,
) -> Unlearned:
    """L2UL_adv, with the weights held that do not matter to the forget images.

        I = mean over forget of | grad |f_0(x)|_2 |;    per tensor I <- 1 - (I - min I) / (max I - min I)
        L = as L2UL_adv + reg_lambda sum_j I_j (theta_j - theta_0j)^2 / 2

    I is taken in eval mode, image by image. A tensor whose entries all matter alike is held whole.

    Flags:
        unlearn_epochs: passes over the adversarial images, at most
        unlearn_lr: learning rate of SGD
        batch_size: adversarial images a step
        forget_batch_size: forget images a step
        adversarial_images: number of images that are made of each forget image
        attack_steps: steps that make such an image
        attack_radius: largest distance of such an image from its forget image (4 for 3 x 32 x 32 pixels, and
            as the square root of their number for others)
        reg_lambda: weight of the distance from the initial weights

    Raises ValueError for a single class, FloatingPointError if it diverges.

    Departures: those of L2UL_adv; the source takes I in train mode, of the gradients of batches.
    """

    def held(student: nn.Module) -> Penalty:
        importances = held_importances(student, data.forget, data.device)
        start = {name: p.detach().clone() for name, p in student.named_parameters()}

        def distance() -> Tensor:
            parts = [
                (importances[name] * (p - start[name]).square()).sum()
                for name, p in student.named_parameters()
            ]
            return reg_lambda * torch.stack(parts).sum() / 2

        return distance

    return _unlearned(
        model,
        data,
        "L2UL",
        held,
        adversarial_images=adversarial_images,
        attack_steps=attack_steps,
        attack_radius=attack_radius,
        unlearn_epochs=unlearn_epochs,
        sizes=(batch_size, forget_batch_size),
        optimizer_of=lambda student: sgd(student, unlearn_lr, momentum, weight_decay),
    )


def _unlearned(
    model: nn.Module,
    data: ForgetData,
    name: str,
    penalty_of: Callable[[nn.Module], Penalty],
    *,
    adversarial_images: int,
    attack_steps: int,
    attack_radius: float,
    unlearn_epochs: int,
    sizes: tuple[int, int],
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
) -> Unlearned:
    """Train a copy of the model on forget and adversarial images, and on the penalty of its weights.

    sizes: adversarial images and forget images a step.
    """
    student = copy_of(model)
    made = adversarial(copy_of(model), data, adversarial_images, attack_radius, attack_steps)
    penalty, optimizer = penalty_of(student), optimizer_of(student)
    size, forget_size = sizes
    order, noise = data.generator("L2UL", "order"), data.generator("L2UL", "dropout")
    moves = data.generator("L2UL", "augmentation")
    forget = endless(data, data.forget, forget_size, "L2UL", "forget")

    def batches() -> Iterator[tuple[Tensor, tuple[Tensor, int]]]:
        """Yield forget and adversarial images in one batch, their labels and the former's number."""
        if not len(made):
            for x, y in data.training_batches(data.forget.to(data.device), forget_size, order, moves):
                yield x, (y, len(x))
            return
        for (x_a, y_a), (x_f, y_f) in zip(
            made.batches(size, generator=order, device=data.device), forget, strict=False
        ):
            yield torch.cat([x_f, x_a]), (torch.cat([y_f, y_a]), len(x_f))

    def loss(logits: Tensor, target: tuple[Tensor, int]) -> Tensor:
        labels, count = target
        return signed_cross_entropy(logits, labels, count) + penalty()

    history: list[dict[str, float]] = []
    for epoch in data.progress(range(unlearn_epochs), name):
        with train_mode(student, noise, data.device, single_images=True):
            losses = descend(student, batches(), optimizer=optimizer, loss=loss, group=data.group)
        means = {"loss": fmean(losses)}
        check_finite(student, means, f"{name} diverged in epoch {epoch + 1}")
        history.append({**means, "forget_score": 100 * accuracy(student, data.forget, data)})
        data.on_epoch(student, epoch + 1)
        if not history[-1]["forget_score"]:
            break
    optimizer.zero_grad(set_to_none=True)
    facts: dict[str, int | float | str] = {"adversarial_images_made": len(made), "epochs_run": len(history)}
    return Unlearned(student, history=history, facts=facts)


def no_penalty() -> float:
    """Return 0: the weights are free."""
    return 0.0


def adversarial(model: nn.Module, data: ForgetData, count: int, radius: float, steps: int) -> ImageSet:
    """Return `count` images adversarial to each forget image, normalised, with their wrong labels."""
    draws = data.generator("L2UL", "adversarial images")
    images, labels = [], []
    forget, ball = data.forget.to(data.device), Ball(radius)
    for _ in data.progress(range(count), "L2UL, adversarial images"):
        for x, y in forget.batches(AT_ONCE, device=data.device):
            box, targets = Box(forget.normalisation, x), other_labels(y, data.classes, draws)
            with evaluating(model):
                found = targeted(model, x, targets, box, ball, size=radius / 40, steps=steps, generator=draws)
            images.append(found)
            labels.append(targets)
    if not images:
        images, labels = [forget.normalisation(forget.images[:0])], [forget.labels[:0]]
    made = torch.cat(images)
    return ImageSet(made, torch.cat(labels), torch.arange(len(made)), Normalisation((), ()))


def signed_cross_entropy(logits: Tensor, labels: Tensor, forget: int) -> Tensor:
    """Return the mean cross-entropy of a batch, in which that of the first `forget` images counts negative.

    It is - s_f / (s_f + s_a) CE_f + s_a / (s_f + s_a) CE_a, each CE a mean over its own images.
    """
    each = F.cross_entropy(logits, labels, reduction="none")
    return (each[forget:].sum() - each[:forget].sum()) / len(each)


def held_importances(model: nn.Module, images: ImageSet, device: torch.device) -> dict[str, Tensor]:
    """Return how much each weight is held, 0 to 1 in each tensor: 0 for what matters most to the images."""
    with evaluating(model):
        found = over_images(model, images, device, loss=summed_lengths, of=torch.abs)
    return {name: reversed_scale(importance) for name, importance in found.items()}


def reversed_scale(values: Tensor) -> Tensor:
    """Return 1 - (values - min) / (max - min); 1 where all are equal."""
    low, span = values.min(), values.max() - values.min()
    return 1 - (values - low) / torch.where(span > 0, span, torch.ones_like(span))


def summed_lengths(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over images of |f(x)|_2."""
    return logits.norm(dim=1).sum()
