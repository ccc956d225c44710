"""MSG: reset the weights whose gradients are small, then fine-tune."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import nn

from lethe.flag_error import FlagError
from lethe.training.optimizers import SGD, Adam
from lethe.unlearn.fisher_information import Tensors, batch_gradient
from lethe.unlearn.fresh_weights import reset_entries
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.retain_tuning import tune_on_retain
from lethe.unlearn.settings import RESOLVED, BatchSize, BetweenZeroAndOne, Epochs, LearningRate
from lethe.unlearn.streams import endless

SOURCE = (
    "Dine, Furon, Faure 2025, arXiv:2511.02435; Cadet et al. 2024, arXiv:2410.01276 (kgltop2 of the NeurIPS "
    "2023 challenge)"
)
BATCH_SIZES = {"dine": 256, "kgltop2": 64}
OTHERS = 0.1  # kgltop2's factor of the gradients of weights that were not reset

Variant = Literal["dine", "kgltop2"]


def resolve(
    model: nn.Module, data: ForgetData, *, msg_variant: Variant, batch_size: int | None
) -> dict[str, int]:
    """Return the batch size. Raises ValueError for kgltop2 on a model without convolutions."""
    if msg_variant == "kgltop2" and not _kernels(model):
        expected = "--msg_variant kgltop2: expected a model with a convolution"
        message = f"{expected}, got one without. Use --msg_variant dine, which resets any weight"
        raise FlagError("msg_variant", message, named=False)
    return {"batch_size": BATCH_SIZES[msg_variant] if batch_size is None else batch_size}


@register("MSG", source=SOURCE, resolve=(resolve,), augments=("retain",), parallel=True)
def msg(
    model: nn.Module,
    data: ForgetData,
    *,
    msg_variant: Variant = "dine",
    reset_share: BetweenZeroAndOne = 0.3,
    unlearn_epochs: Epochs = 30,
    unlearn_lr: LearningRate = 1e-3,
    batch_size: BatchSize = RESOLVED,
) -> Unlearned:
    """Reset the weights with the smallest gradients, tensor by tensor, then fine-tune on the retain set.

        dine       s = sum over one pass of min(|g_f|, |g_r|)
                   w <- e w, e ~ N(0, 1), for the reset_share smallest s of each tensor
                   then Adam on all weights (lr 1e-3, batch 256)
        kgltop2    s = |sum g_r - sum g_f| over forget and as many retain images
                   w ~ N(0, 2 / fan_out) for the reset_share smallest s of each convolution's kernels
                   then SGD (lr 1e-3, momentum .9, weight decay 5e-4, batch 64), the gradients of the
                   kernels' other entries x .1

    g_f, g_r: gradients of the mean cross-entropy of a forget and of a retain batch, eval mode. An epoch is as
    many steps as a pass over the forget set has; the retain set is cycled and reshuffled.

    Flags:
        msg_variant: dine (any weight, by the smaller gradient) or kgltop2 (convolutions, by the gradients'
            difference)
        reset_share: share of each tensor's weights that are reset
        unlearn_epochs: passes over the forget set, a retain batch for each of its batches
        unlearn_lr: learning rate of Adam (dine) or SGD (kgltop2)
        batch_size: images a step (dine 256, kgltop2 64)

    Raises ValueError for kgltop2 on a model without convolutions, FloatingPointError if it diverges.

    Departures: Dine et al.'s learning rate, 1e-4, does not repair in 30 steps (a forget set of one batch)
    what the reset destroyed; here it is 1e-3. They rank in train mode, which moves the running statistics,
    and the ranking pass is the first of their 30 epochs: 29 tune. kgltop2 had 5 passes over the retain set
    and a learning rate that rose and fell; its epochs are counted here as those of dine.
    """
    student = copy_of(model)
    if msg_variant == "dine":
        reset(student, lowest(smaller_gradients(student, data, batch_size), reset_share), data)
        optimizer: torch.optim.Optimizer = Adam(student.parameters(), lr=unlearn_lr)
    else:
        differences = gradient_differences(student, data, batch_size)
        chosen = lowest({name: differences[name] for name in _kernels(student)}, reset_share)
        reinitialise(student, chosen, data)
        optimizer = SGD(student.parameters(), lr=unlearn_lr, momentum=0.9, weight_decay=5e-4)
        slow_down_others(optimizer, student, chosen)
    return tune_on_retain(
        student,
        data,
        "MSG",
        optimizer=optimizer,
        unlearn_epochs=unlearn_epochs,
        batch_size=batch_size,
        steps=math.ceil(len(data.forget) / batch_size),
    )


def smaller_gradients(model: nn.Module, data: ForgetData, size: int) -> Tensors:
    """Return s of `dine`: one pass over forget, with the retain set cycled."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    order = data.generator("MSG", "forget")
    forget = data.forget.to(data.device).batches(size, generator=order, device=data.device)
    retain = endless(data, data.retain, size, "MSG", "beside forget", augmented=False)
    for (x_f, y_f), (x_r, y_r) in zip(forget, retain, strict=False):
        g_f, g_r = batch_gradient(model, x_f, y_f), batch_gradient(model, x_r, y_r)
        for name in total:
            total[name] += torch.minimum(g_f[name].abs(), g_r[name].abs())
    return total


def gradient_differences(model: nn.Module, data: ForgetData, size: int) -> Tensors:
    """Return s of `kgltop2`: over forget, and over as many random retain images (at most all)."""
    drawn = torch.randperm(len(data.retain), generator=data.generator("MSG", "beside forget"))
    retain = data.retain.subset(drawn[: len(data.forget)].to(data.retain.labels.device))
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for images, sign in ((retain, 1), (data.forget, -1)):
        order = data.generator("MSG", "forget")
        for x, y in images.to(data.device).batches(size, generator=order, device=data.device):
            for name, gradient in batch_gradient(model, x, y).items():
                total[name] += sign * gradient
    return {name: s.abs() for name, s in total.items()}


def lowest(scores: Tensors, share: float) -> Tensors:
    """Return a bool mask of each tensor's round(share * entries) lowest entries."""
    chosen = {}
    for name, s in scores.items():
        flat = torch.zeros(s.numel(), dtype=torch.bool, device=s.device)
        flat[s.flatten().argsort(stable=True)[: round(share * s.numel())]] = True
        chosen[name] = flat.view(s.shape)
    return chosen


@torch.no_grad()
def reset(model: nn.Module, chosen: Tensors, data: ForgetData) -> None:
    """Multiply the chosen weights by e ~ N(0, 1)."""
    noise = data.generator("MSG", "reset")
    for name, weight in model.named_parameters():
        factor = torch.randn(weight.shape, generator=noise, dtype=weight.dtype).to(weight.device)
        weight.copy_(torch.where(chosen[name], factor * weight, weight))


def reinitialise(model: nn.Module, chosen: Tensors, data: ForgetData) -> None:
    """Draw the chosen weights from N(0, 2 / fan_out), He et al.'s initialisation for ReLU."""
    noise = data.generator("MSG", "reset")
    draw = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu", generator=noise)
    reset_entries(model, chosen, draw)


def slow_down_others(optimizer: torch.optim.Optimizer, model: nn.Module, chosen: Tensors) -> None:
    """Multiply the gradients of the tensors' other entries by .1 before each step; Adam ignores that."""
    scales = {model.get_parameter(name): torch.where(marked, 1.0, OTHERS) for name, marked in chosen.items()}

    def slow(*_: object) -> None:
        for weight, scale in scales.items():
            if weight.grad is not None:
                weight.grad *= scale

    optimizer.register_step_pre_hook(slow)


def _kernels(model: nn.Module) -> list[str]:
    """Return the names of the convolutions' weights."""
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    kernels = {f"{name}.weight".lstrip(".") for name in convolutions}
    return [name for name, _ in model.named_parameters() if name in kernels]
