"""Relearning: the number of optimiser steps on the forget set that restore a model's score on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from lethe.data import ImageSet, forward_batch
from lethe.evaluation.model_outputs import outputs_of
from lethe.training import descend, generator_for
from lethe.training.optimizers import AdamW

SHARE = 0.95


@dataclass(frozen=True)
class Relearned:
    """The number of optimiser steps. censored: the score was not reached; steps is the cap, a lower bound."""

    steps: int
    censored: bool


def relearn_steps(
    model: nn.Module,
    forget: ImageSet,
    initial_score: float,
    *,
    seed: int = 1,
    lr: float = 1e-3,
    batch_size: int = 128,
    cap: int = 1000,
    judged_on: int = 1000,
    device: torch.device | str = "cpu",
) -> Relearned:
    """Count the optimiser steps on the forget set until a model reaches 95 % of a given score on it.

        min { t : forget_score(theta_t) >= 0.95 initial_score }
        theta_{t+1} = AdamW(theta_t, grad CE(batch t of forget))

    0 if the score is high enough already; censored if it is not reached after `cap` steps. initial_score: the
    initial model's forget_score, percent. The score is computed before the first and after every step, on
    `judged_on` images of forget drawn by `seed` (all, if forget is smaller). AdamW with betas (.9, .999),
    `lr` and no weight decay. Every epoch shuffles forget anew; no augmentation; the last batch may be
    smaller. Batches depend on `seed` alone, so two models see the same ones.

    Trains a copy of the model with all parameters trainable, including zeros that a mask wrote: the remaining
    weights may restore them, which is what this measures. (A mask that is applied but not written stays on.)

    The copy stays in eval mode, so the steps do not count the drift of batch-norm statistics towards a forget
    set of one class, nor dropout noise.

    Where one class is forgotten, a few steps can teach the model to predict it for every image: read the
    ratio to the ideal's steps (`anamnesis_index`).

    Raises ValueError for an empty forget set, a score outside (0, 100], a `batch_size`, `cap` or `judged_on`
    below 1, and logits that are not finite.
    Source: Chundawat et al. 2022, arXiv:2201.05629. Their code relearns on the whole training set, in train
    mode, and scores validation images; here both use the forget set, to measure what is left of it.
    """
    _check(forget, initial_score, batch_size=batch_size, cap=cap, judged_on=judged_on)
    student = copy.deepcopy(model).to(device).eval().requires_grad_(True)
    optimizer = AdamW(student.parameters(), lr=lr, weight_decay=0.0, fused=True)
    images = forget.to(device)
    judged = _drawn(images, judged_on, seed)
    exam = list(judged.batches(forward_batch(device), device=device))
    batches = _epochs(images, batch_size, generator_for(seed, "evaluation", "relearning", "batches"), device)
    needed = math.ceil(SHARE * initial_score / 100 * len(judged) - 1e-9)  # images; 1e-9 absorbs rounding
    steps = 0
    while int(outputs_of(student, exam).correct.sum()) < needed:
        if steps == cap:
            return Relearned(cap, censored=True)
        descend(student, islice(batches, 1), optimizer=optimizer)
        steps += 1
    return Relearned(steps, censored=False)


def anamnesis_index(steps: int, ideal_steps: int) -> float:
    """Return the ratio of the unlearned model's relearning steps to the ideal model's; 1 is best.

        (steps + .01) / (ideal_steps + .01)

    Below 1 the unlearned model relearns faster. The .01, absent in the source, keeps the ratio finite for an
    ideal model that needs no step. With censored steps it is a lower bound (the model's are censored), an
    upper one (the ideal's), or neither (both).
    Raises ValueError for a negative number of steps. Source: Chundawat et al. 2022, arXiv:2201.05629.
    """
    if min(steps, ideal_steps) < 0:
        raise ValueError(
            f"expected steps >= 0, got {steps} and the ideal's {ideal_steps}. Give what relearn_steps "
            "counted."
        )
    return (steps + 0.01) / (ideal_steps + 0.01)


def _drawn(images: ImageSet, number: int, seed: int) -> ImageSet:
    shuffled = torch.randperm(
        len(images), generator=generator_for(seed, "evaluation", "relearning", "judged")
    )
    return images.subset(shuffled[:number].to(images.labels.device))


def _epochs(
    images: ImageSet, size: int, generator: torch.Generator, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from images.batches(size, generator=generator, device=device)


def _check(forget: ImageSet, initial_score: float, **amounts: int) -> None:
    if not len(forget):
        raise ValueError("expected at least 1 forget image, got 0. Ask for a forget set that is not empty.")
    if not 0 < initial_score <= 100:
        raise ValueError(
            "expected the initial model's forget_score in percent, above 0 and at most 100, got "
            f"{initial_score}. Give the score of a model that knew the forget set."
        )
    for name, amount in amounts.items():
        if amount < 1:
            unit = "steps" if name == "cap" else "images"
            raise ValueError(f"expected {name} >= 1, got {amount}. Give a number of {unit}.")
