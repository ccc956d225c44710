"""AMUN: learn the images near the forget images that the initial model already calls something else."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.training import descend
from lethe.unlearn.attacks import Box, nearest_flips
from lethe.unlearn.impl import Batch, ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite, sgd
from lethe.unlearn.settings import BatchSize, Count, Epochs, LearningRate, Momentum, Positive, WeightDecay
from lethe.unlearn.train_mode import train_mode

AT_ONCE = 256  # images that are attacked together
DECLARED: dict[str, Any] = {
    "source": "Ebrahimpour-Boroojeny, Sundaram, Chandrasekaran 2025, arXiv:2503.00917",
    "augments": (),
    "source_augments": "",
    "parallel": True,
}


class Attack(NamedTuple):
    """The settings of the attack."""

    radius: float
    steps: int


class Tuning(NamedTuple):
    """The settings of the fine-tuning."""

    epochs: int
    rate: float
    decay_every: int
    batch_size: int
    momentum: float
    weight_decay: float


class Adversarial(NamedTuple):
    """The images A near forget images, normalised, with the classes y' that the initial model says there."""

    images: Tensor  # (M, ...)
    labels: Tensor  # (M,)
    failed: int  # forget images without one


@register("AMUN", "adversarial_unlearning", **DECLARED)
def amun(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 0.01,
    decay_every: Count = 5,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    attack_radius: Positive = 0.04,
    attack_steps: Count = 50,
) -> Unlearned:
    """Fine-tune on all training images, and on images near the forget images with the wrong label they have.

        x' the first image on the way up grad_x CE(f_0(x), y) with y' = argmax f_0(x') != y
        theta <- SGD(theta, grad CE(f_theta(x), y))        (x, y) in retain, forget, and A = {(x', y')}

    The forget images keep their true labels, so that the forget score stays near that of unseen images: it is
    made for random images. The model believes y' already: what moves is the boundary there, and its
    confidence on the forget image, down to that on unseen images. The way is in pixels of [0, 1]: up
    to attack_steps steps of a tenth of the radius (L2), within the radius; where that flips no label the
    radius is doubled, up to the diagonal of all images. `facts` counts the images that nothing flips: they
    have no place in A. An image that f_0 gets wrong is its own x'.

    Flags:
        unlearn_epochs: passes over all images of the three sets, mixed
        unlearn_lr: learning rate of SGD in the first epochs
        decay_every: epochs after which the learning rate falls to a tenth
        attack_radius: first radius of the attack, in pixels of [0, 1]
        attack_steps: most steps of the attack at each radius

    Raises FloatingPointError if it diverges.

    Departures: published code has no end to the doubling; nothing is augmented. It was tuned over learning
    rates from 1e-5 to .1 and decays after 1, 5 or 10 epochs.
    """
    tuning = Tuning(unlearn_epochs, unlearn_lr, decay_every, batch_size, momentum, weight_decay)
    return learned(model, data, "AMUN", data.train, Attack(attack_radius, attack_steps), tuning)


@register("AMUN_no_retain", needs=("forget", "labels"), **DECLARED)
def amun_no_retain(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 0.01,
    decay_every: Count = 5,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    attack_radius: Positive = 0.04,
    attack_steps: Count = 50,
) -> Unlearned:
    """AMUN without a retain set: fine-tune on the forget images and on their adversarial images.

        theta <- SGD(theta, grad CE(f_theta(x), y))        (x, y) in forget, and A of AMUN

    The forget images keep their true labels.

    Flags:
        unlearn_epochs: passes over the forget images and A, mixed
        unlearn_lr: learning rate of SGD in the first epochs
        decay_every: epochs after which the learning rate falls to a tenth
        attack_radius: first radius of the attack, in pixels of [0, 1]
        attack_steps: most steps of the attack at each radius

    Raises FloatingPointError if it diverges.

    Departures: those of AMUN; batch norm keeps its running statistics, see NegGrad.
    """
    tuning = Tuning(unlearn_epochs, unlearn_lr, decay_every, batch_size, momentum, weight_decay)
    attack = Attack(attack_radius, attack_steps)
    return learned(model, data, "AMUN_no_retain", data.forget, attack, tuning, keep_statistics=True)


@register("AMUN_only", "advonly", **DECLARED)
def amun_only(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 0.1,
    decay_every: Count = 5,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 5e-4,
    attack_radius: Positive = 0.04,
    attack_steps: Count = 50,
) -> Unlearned:
    """AMUN without the forget images: fine-tune on retain, and on images near the forget images.

        theta <- SGD(theta, grad CE(f_theta(x), y))        (x, y) in retain, and A of AMUN

    Flags:
        unlearn_epochs: passes over the retain images and A, mixed
        unlearn_lr: learning rate of SGD in the first epochs
        decay_every: epochs after which the learning rate falls to a tenth
        attack_radius: first radius of the attack, in pixels of [0, 1]
        attack_steps: most steps of the attack at each radius

    Raises FloatingPointError if it diverges.

    Departures: those of AMUN. The learning rate is of digits, by training and validation images of the tuning
    seeds 101 and 102.
    """
    tuning = Tuning(unlearn_epochs, unlearn_lr, decay_every, batch_size, momentum, weight_decay)
    return learned(model, data, "AMUN_only", data.retain, Attack(attack_radius, attack_steps), tuning)


def adversarial(model: nn.Module, data: ForgetData, attack: Attack) -> Adversarial:
    """Return A: for each forget image one near it that the model, in eval mode, calls something else."""
    images, labels, failed = [], [], 0
    for x, y in data.forget.to(data.device).batches(AT_ONCE, device=data.device):
        box = Box(data.forget.normalisation, x)
        found, classes = nearest_flips(model, x, y, box, radius=attack.radius, steps=attack.steps)
        flipped = classes != y
        images.append(found[flipped])
        labels.append(classes[flipped])
        failed += int((~flipped).sum())
    return Adversarial(torch.cat(images), torch.cat(labels), failed)


def learned(
    model: nn.Module,
    data: ForgetData,
    name: str,
    originals: ImageSet,
    attack: Attack,
    tuning: Tuning,
    *,
    keep_statistics: bool = False,
) -> Unlearned:
    """Fine-tune a copy on the originals and A, mixed anew in each epoch. keep_statistics: as in `Pass`."""
    student = copy_of(model)
    found = adversarial(student, data, attack)
    originals = originals.to(data.device)
    optimizer = sgd(student, tuning.rate, tuning.momentum, tuning.weight_decay)
    order, noise = data.generator(name, "order"), data.generator(name, "dropout")
    single = keep_statistics or min(tuning.batch_size, len(originals) + len(found.labels)) == 1
    history = []
    for epoch in data.progress(range(tuning.epochs), name):
        for group in optimizer.param_groups:
            group["lr"] = tuning.rate * 0.1 ** (epoch // tuning.decay_every)
        batches = mixed(originals, found, tuning.batch_size, order)
        with train_mode(student, noise, data.device, single_images=single):
            losses = descend(student, batches, optimizer=optimizer, group=data.group)
        history.append({"loss": fmean(losses)})
        check_finite(student, history[-1], f"{name} diverged in epoch {epoch + 1}")
        data.on_epoch(student, epoch + 1)
    optimizer.zero_grad(set_to_none=True)
    facts = {"adversarial_images": len(found.labels), "attack_failed": found.failed}
    return Unlearned(student, history=history, facts=dict(facts))


def mixed(originals: ImageSet, found: Adversarial, size: int, order: torch.Generator) -> Iterator[Batch]:
    """Yield one pass over the originals and A, shuffled together; no batch is a single image."""
    first = len(originals)
    place = originals.labels.device
    shuffled = torch.randperm(first + len(found.labels), generator=order)
    while len(shuffled) > 1 and len(shuffled) % size == 1:
        size += 1
    for chosen in shuffled.split(size):
        own, near = (part.to(place) for part in (chosen[chosen < first], chosen[chosen >= first] - first))
        x = torch.cat([originals.normalisation(originals.images[own]), found.images[near]])
        yield x, torch.cat([originals.labels[own], found.labels[near]])
