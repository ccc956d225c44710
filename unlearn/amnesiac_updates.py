"""amnesiac_updates: take back the training steps whose batch held a forget image, then repair on retain."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from lethe.signature import Range, Search
from lethe.training.optimizers import Adam
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.retain_tuning import tune_on_retain
from lethe.unlearn.settings import BatchSize, LearningRate

Repair = Annotated[int, Range(0), Search("linear", 0, 10)]


def check_log(model: nn.Module, data: ForgetData) -> None:
    """Raise FileNotFoundError if the files of the training log are missing."""
    if data.updates is not None:
        data.updates(model)


@register(
    "amnesiac_updates",
    "amnesiac_unlearning",
    source="Graves, Nagisetty, Ganesh 2021, arXiv:2010.10981",
    needs=("forget", "retain", "labels", "updates"),
    resolve=(check_log,),
    augments=("retain",),
    parallel=True,
)
def amnesiac_updates(
    model: nn.Module,
    data: ForgetData,
    *,
    repair_epochs: Repair = 10,
    repair_lr: LearningRate = 3e-3,
    batch_size: BatchSize = 64,
) -> Unlearned:
    """Subtract the updates of the training steps whose batch held a forget image, then fine-tune on retain.

        theta = theta_T - sum of delta_t over the steps t whose batch holds a forget image
        delta_t = theta_t+1 - theta_t, of step t of the initial model's training, from its log
        then theta <- Adam(theta, g_r)

    The source calls this "Amnesiac Unlearning", and `amnesiac` "Unlearning". It is for very few images: of n
    images, with batches of B, forgetting n_f of them takes back a share 1 - (1 - n_f / n)^B of all steps; one
    class of ten takes back nearly all, and the repair is then a new training. What other images of these
    batches taught is taken back too, and what forget images did to later steps by momentum is not. Batch
    norm's statistics stay until the repair moves them. `main_baseline.py --training_log` makes the log.

    Flags:
        repair_epochs: passes over the retain set
        repair_lr: learning rate of Adam

    Raises ValueError without a log and for that of another model, FileNotFoundError for one that was not
    made; FloatingPointError if the repair diverges.

    Departures: the source logs only the batches of a class that is chosen before training. It says nothing
    of the repair: this one is chosen on digits by the retain score of seed 101.
    """
    student = copy_of(model)
    change, taken_back, steps = updates_of(model, data)
    take_back(student, change)
    facts: dict[str, int | float | str] = {"steps": steps, "steps_taken_back": taken_back}
    if not repair_epochs:
        if not taken_back:
            facts["unchanged"] = (
                "no training step held a forget image. Compare the log's images with the request"
            )
        return Unlearned(student, facts=facts)
    done = tune_on_retain(
        student,
        data,
        "amnesiac_updates",
        optimizer=Adam(student.parameters(), lr=repair_lr),
        unlearn_epochs=repair_epochs,
        batch_size=batch_size,
    )
    done.facts.update(facts)
    return done


def updates_of(model: nn.Module, data: ForgetData) -> tuple[Tensor, int, int]:
    """Return the sum of the updates that met the forget set, in double precision, their number, and of all.

    The log is read step by step. Raises ValueError without one.
    """
    if data.updates is None:
        raise ValueError(
            "amnesiac_updates: expected the log of the model's training, got none. Give ForgetData `updates`"
        )
    weights = sum(p.numel() for p in model.parameters())
    total = torch.zeros(weights, dtype=torch.float64)
    forget = data.forget.indexes.cpu()
    hits = steps = 0
    for indexes, change in data.updates(model):
        steps += 1
        if torch.isin(indexes, forget).any():
            total += change
            hits += 1
    return total, hits, steps


@torch.no_grad()
def take_back(student: nn.Module, change: Tensor) -> None:
    """Subtract the change (weights,) from the student's parameters, in place."""
    parameters = list(student.parameters())
    parts = change.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        before = parameter.double()
        parameter.copy_(before - part.view_as(parameter).to(parameter.device))
