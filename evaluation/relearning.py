"""Relearning: how many optimiser steps on the forget set bring back what a model forgot."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from evaluation.model_outputs import outputs_of
from training import descend, generator_for
from vision_data import ImageSet, forward_batch

SHARE = 0.95


@dataclass(frozen=True)
class Relearned:
    """The optimiser steps that relearning took. censored: the score was not reached, and steps is the cap, a lower bound."""

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
    """Optimiser steps on the forget set until a model knows it again as well as 95 % of a given score says.

        min { t : forget_score(theta_t) >= 0.95 initial_score },    theta_{t+1} = AdamW(theta_t, grad CE(batch t of forget))

    0 if the model is there already; censored if it is not there after `cap` steps. initial_score is the initial model's
    forget_score, percent. The score is taken before the first and after every step, on `judged_on` images of forget drawn
    by `seed`, or on all where they are fewer. AdamW has betas (.9, .999), `lr` and no weight decay. Batches are a new random
    order of forget in every epoch, not augmented, the last of an epoch may be smaller; they depend on `seed` alone, so that
    two models see the same ones.

    A copy of the model is trained, with all its parameters trainable, zeros that a mask wrote included: where a mask
    switched weights off for good, what the other weights still hold can bring them back, and that is what is asked. (A mask
    that is only applied, not written, stays on while the copy learns.)

    The copy stays in eval mode: the model that is judged is the one that takes the step. In train mode the steps would
    also count how long the running means of batch norm take to drift towards a forget set of one class, and dropout
    would add its noise.

    Where one class is forgotten, preferring it for every image is enough, and a few steps can do that: it is the ratio to
    the ideal's steps that says something (see `anamnesis_index`).

    Raises ValueError for an empty forget set, a score outside (0, 100], a `batch_size`, `cap` or `judged_on` below 1, and a
    model whose logits are not finite, from the start or because relearning diverged.
    Source: Chundawat et al. 2022, arXiv:2201.05629. Their code relearns on the whole training set, in train mode, and judges
    on validation images; here it is the forget set, so that the steps count what is left of it.
    """
    _check(forget, initial_score, batch_size=batch_size, cap=cap, judged_on=judged_on)
    student = copy.deepcopy(model).to(device).eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0, fused=True)
    images = forget.to(device)
    judged = _drawn(images, judged_on, seed)
    exam = list(judged.batches(forward_batch(device), device=device))
    batches = _epochs(images, batch_size, generator_for(seed, "evaluation", "relearning", "batches"), device)
    needed = math.ceil(SHARE * initial_score / 100 * len(judged) - 1e-9)  # images; products may be a rounding above a whole number
    steps = 0
    while int(outputs_of(student, exam).correct.sum()) < needed:
        if steps == cap:
            return Relearned(cap, censored=True)
        descend(student, islice(batches, 1), optimizer=optimizer)
        steps += 1
    return Relearned(steps, censored=False)


def anamnesis_index(steps: int, ideal_steps: int) -> float:
    """The unlearned model's relearning steps over the ideal model's: 1 is best, below 1 something was still there.

        (steps + .01) / (ideal_steps + .01)

    The .01, which the source has not, keeps it finite for an ideal model that needs no step. Censored steps are lower
    bounds: the index is then a lower bound (the model's are censored), an upper one (the ideal's), or none (both).
    Raises ValueError for a negative number of steps. Source: Chundawat et al. 2022, arXiv:2201.05629.
    """
    if min(steps, ideal_steps) < 0:
        raise ValueError(f"expected steps >= 0, got {steps} and the ideal's {ideal_steps}. Give what relearn_steps counted.")
    return (steps + 0.01) / (ideal_steps + 0.01)


def _drawn(images: ImageSet, number: int, seed: int) -> ImageSet:
    shuffled = torch.randperm(len(images), generator=generator_for(seed, "evaluation", "relearning", "judged"))
    return images.subset(shuffled[:number].to(images.labels.device))


def _epochs(images: ImageSet, size: int, generator: torch.Generator, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from images.batches(size, generator=generator, device=device)


def _check(forget: ImageSet, initial_score: float, **amounts: int) -> None:
    if not len(forget):
        raise ValueError("expected at least 1 forget image, got 0. Ask for a forget set that is not empty.")
    if not 0 < initial_score <= 100:
        raise ValueError(
            f"expected the initial model's forget_score in percent, above 0 and at most 100, got {initial_score}. "
            "Give the score of a model that knew the forget set."
        )
    for name, amount in amounts.items():
        if amount < 1:
            raise ValueError(f"expected {name} >= 1, got {amount}. Give a number of {'steps' if name == 'cap' else 'images'}.")
