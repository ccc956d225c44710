"""NegMerge: subtract from the weights what fine-tunings on the forget set agree to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor, nn

from lethe.flag_error import FlagError
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register, unwatched
from lethe.unlearn.lotus import accuracy
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.settings import BatchSize, Count, Epochs, LearningRate, Momentum, Positive, WeightDecay

RATES = (0.2, 1.0, 2.0)  # of the candidates in turn, times the learning rate
SCALES = [0.001, 0.002, 0.005, 0.01, 0.02, *(step / 20 for step in range(1, 41))]
KEPT = 0.95  # of the initial model's validation score

Tensors = list[Tensor]


def check_validation(model: nn.Module, data: ForgetData, *, merge_scale: float | None) -> None:
    """Raise ValueError where the scale is to be searched and there is no validation image."""
    if merge_scale is None and not len(data.validation):
        raise FlagError(
            "merge_scale",
            "expected a number where there are no validation images to choose it by, got none. Give e.g. 0.5",
        )


@register(
    "NegMerge",
    "negated_merge",
    source="Kim, Han, Choe 2025, arXiv:2410.05583",
    needs=("forget", "labels", "validation"),
    resolve=(check_validation,),
    augments=("forget",),
    parallel=True,
)
def neg_merge(
    model: nn.Module,
    data: ForgetData,
    *,
    candidates: Count = 3,
    candidate_epochs: Epochs = 20,
    unlearn_lr: LearningRate = 0.2,
    batch_size: BatchSize = 128,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 0.0,
    merge_scale: Positive | None = None,
) -> Unlearned:
    """Fine-tune several times on the forget set; subtract the changes that have the same sign each time.

        theta_k = fine-tune theta_0 on forget, k = 1..candidates;    tau_k = theta_k - theta_0
        agree = 1[|sum_k sign(tau_k)| = candidates];                 tau = agree * mean_k tau_k
        theta = theta_0 - merge_scale tau

    by SGD on the cross-entropy. The candidates differ in the order of the images and in the learning rate, in
    turn .2, 1 and 2 times unlearn_lr. Without merge_scale it is the largest of .001, .002, .005, .01, .02 and
    .05, .1, .15, ..., 2 that leaves at least 95 % of the initial model's validation score. With one candidate
    this is task negation. A model that fits the forget set well has nearly no gradient there: `facts` has the
    share of the weights on which the candidates agree, and the length of tau.

    Flags:
        candidates: number of fine-tunings
        candidate_epochs: passes over the forget set in each
        unlearn_lr: learning rate of SGD
        merge_scale: factor of the change; none searches it on validation images

    Raises ValueError where the scale is to be searched without validation images, FloatingPointError if a
    candidate diverges.

    Departures: batch norm keeps its running statistics. The source has no settings for image classifiers:
    these are chosen on digits by validation images of seeds 101 and 102.
    """
    start = [p.detach() for p in copy_of(model).parameters()]
    forget = Pass("forget", data.forget.to(data.device), keep_statistics=True)
    changes, last = [], []
    quiet = replace(data, on_epoch=unwatched)
    for number in data.progress(range(candidates), "NegMerge"):
        candidate = copy_of(model)
        optimizer = sgd(candidate, unlearn_lr * RATES[number % len(RATES)], momentum, weight_decay)
        done = fine_tune(
            candidate,
            quiet,
            "NegMerge",
            lambda _: [forget],
            optimizer,
            candidate_epochs,
            batch_size,
            streams=f"NegMerge {number}",
        )
        last.append(done.history[-1]["forget_loss"])
        tuned = [p.detach() for p in candidate.parameters()]
        changes.append([after - before for after, before in zip(tuned, start, strict=True)])
    tau, agreeing = merged(changes)
    student = copy_of(model)
    if merge_scale is None:
        merge_scale = largest_scale(student, start, tau, data)
    subtract(student, start, tau, merge_scale)
    facts: dict[str, int | float | str] = {
        "agreeing_percent": agreeing,
        "change_length": torch.stack([t.double().square().sum() for t in tau]).sum().sqrt().item(),
        "candidate_loss": fmean(last),
        "scale": merge_scale,
    }
    if not merge_scale or not facts["change_length"]:
        facts["unchanged"] = (
            "the candidates agree on no weight, or no scale keeps 95 % of the validation score. Give another "
            "--unlearn_lr, fewer --candidates or a --merge_scale"
        )
    return Unlearned(student, facts=facts)


def merged(changes: Sequence[Tensors]) -> tuple[Tensors, float]:
    """Return the mean changes where the signs of all agree, else 0, and the percentage of such entries."""
    means, agreeing, entries = [], [], 0
    for own in zip(*changes, strict=True):
        together = torch.stack(own)
        agree = together.sign().sum(0).abs() == len(changes)
        means.append(together.mean(0) * agree)
        agreeing.append(agree.sum())
        entries += agree.numel()
    return means, 100 * int(torch.stack(agreeing).sum()) / entries


@torch.no_grad()
def subtract(student: nn.Module, start: Tensors, tau: Tensors, scale: float) -> None:
    """Give the student the weights start - scale tau."""
    for parameter, before, change in zip(student.parameters(), start, tau, strict=True):
        parameter.copy_(before - scale * change)


def largest_scale(student: nn.Module, start: Tensors, tau: Tensors, data: ForgetData) -> float:
    """Return the largest scale that keeps KEPT of the initial model's validation score; 0 without any."""

    def score(scale: float) -> float:
        subtract(student, start, tau, scale)
        return accuracy(student, data.validation, data)

    least = KEPT * score(0.0)
    return next((scale for scale in reversed(SCALES) if score(scale) >= least), 0.0)
