"""SFT: fine-tune the masked layer alone, the baseline of MIMU's authors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.training import descend
from lethe.training.optimizers import AdamW
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, masked_layer, register
from lethe.unlearn.passes import check_finite
from lethe.unlearn.settings import BatchSize, Count, LearningRate, MaskLayer
from lethe.unlearn.streams import endless

Mode = Literal["randomize_forget", "finetune_retain", "randomize_forget_and_finetune_retain"]


def check_layer(model: nn.Module, data: ForgetData, *, mask_layer: str | None) -> None:
    """Raise ValueError for a layer that can't be masked."""
    masked_layer(model, data, mask_layer)


@register(
    "SFT",
    source="Layer 6, Minimally Invasive Machine Unlearning, OpenReview UF5pTfMjhu",
    resolve=(check_layer,),
    augments=(),
    parallel=True,
)
def sft(
    model: nn.Module,
    data: ForgetData,
    *,
    sft_mode: Mode = "randomize_forget",
    sft_steps: Count = 32,
    sft_lr: LearningRate = 1e-3,
    sft_batch: BatchSize = 32,
    mask_layer: MaskLayer | None = None,
) -> Unlearned:
    """Fine-tune the masked layer alone, by sft_steps steps of AdamW on the mean cross-entropy.

        W <- AdamW(W, grad_W CE(f_theta(x), y))        W the masked layer's weights, (x, y) by sft_mode:
        randomize_forget                        forget images, labels drawn from all classes in each step
        finetune_retain                         retain images with their labels
        randomize_forget_and_finetune_retain    both: a batch of each in every step

    Flags:
        sft_mode: the images and labels of the steps
        sft_steps: optimiser steps
        sft_lr: learning rate
        sft_batch: images of each kind a step
        mask_layer: the tuned layer, by name or by index over the linear layers; none is the architecture's
            choice

    Raises ValueError for a layer that can't be masked, FloatingPointError if it diverges.

    Departures: the source's learning rate, 1e-2, destroys the model (on digits it forgets half of the
    retained classes too); it tunes in train mode, here dropout is off and batch norm keeps its running
    statistics.
    """
    student = copy_of(model)
    layer = masked_layer(student, data, mask_layer).layer
    student.requires_grad_(False)
    layer.weight.requires_grad_(True)
    optimizer = AdamW([layer.weight], lr=sft_lr)
    batches = itertools.islice(_batches(data, sft_mode, sft_batch), sft_steps)
    steps = data.progress(batches, "SFT", sft_steps)
    losses = descend(student, steps, optimizer=optimizer, group=data.group)
    optimizer.zero_grad(set_to_none=True)
    check_finite(student, {"loss": losses[-1]}, "SFT diverged", rate="sft_lr")
    return Unlearned(student.requires_grad_(True), history=[{"loss": loss} for loss in losses], step="step")


def _batches(data: ForgetData, mode: Mode, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    labels = data.generator("SFT", "labels")
    forget = (
        (x, torch.randint(data.classes, y.shape, generator=labels).to(y.device))
        for x, y in endless(data, data.forget, size, "SFT", "forget", augmented=False)
    )
    retain = endless(data, data.retain, size, "SFT", "retain", augmented=False)
    if mode == "randomize_forget":
        return forget
    if mode == "finetune_retain":
        return retain
    return (
        (torch.cat([forget_x, retain_x]), torch.cat([forget_y, retain_y]))
        for (forget_x, forget_y), (retain_x, retain_y) in zip(forget, retain, strict=False)
    )
