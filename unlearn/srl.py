"""SRL: descend on what is retained, and on wrong labels for what is forgotten, in one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn.impl import ForgetData, Unlearned, register
from unlearn.teacher import Seen
from unlearn.two_gradients import check, descend_both, register_with_add_ons

SOURCE = "Dine, Furon, Faure 2025, arXiv:2511.02435"


def check_labels(model: nn.Module, data: ForgetData, **flags: Any) -> dict[str, int]:
    """As `two_gradients.check`; ValueError also where there is no other class to draw."""
    check_classes(data)
    return check(model, data, **flags)


def check_classes(data: ForgetData) -> None:
    """ValueError where an image's label is the only one."""
    if data.classes < 2:
        raise ValueError(f"random labels: expected at least 2 classes, got {data.classes}. Use a method that needs no other class")


@register("SRL", source=SOURCE, resolve=check_labels, augments=("forget", "retain"))
def srl(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: int = 30,
    unlearn_lr: float = 1e-4,
    batch_size: int = 256,
    beta: float = 0.95,
    addon: str | None = None,
    quantile: float | None = None,
    memory: float | None = None,
    memory_start: float | None = None,
) -> Unlearned:
    """Descend the cross-entropy of retain images with their labels and of forget images with wrong ones, drawn anew each step.

        d = beta g_r + (1 - beta) g_random        theta <- Adam(theta, d)

    g_random is the gradient on a forget batch whose labels are drawn uniformly from all classes but each image's own. An
    epoch is a pass over forget; retain is cycled and reshuffled. OPT and FocusOPT make d a descent direction of both objectives;
    what Adam makes of d need not be one. The defaults are Dine et al.'s.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step
        beta: weight of the retain gradient, between 0 and 1
        addon: rule that combines the two gradients instead: GradMask, ANDMask, VarGrad, GradFocus, OPT, FocusOPT, SalUn
        quantile: least agreement (GradMask, VarGrad) or share of the gradient's entries (SalUn) that an add-on masks by (.3)
        memory: how much of the second moments an add-on keeps from step to step (.9)
        memory_start: the second moments of an add-on's first step, over the squared gradient (1 - memory; VarGrad 1)

    Raises ValueError for flags that make no sense, or that the add-on does not have, and for a single class; FloatingPointError
    if it diverges.

    Departure: batch norm keeps its running statistics, see RL.
    """
    check_labels(
        model,
        data,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        beta=beta,
        quantile=quantile,
        memory=memory,
        memory_start=memory_start,
        addon=addon,
    )
    draws = data.generator("SRL", "labels")
    of_forget, of_retain = (images.labels.to(data.device) for images in (data.forget, data.retain))

    def wrong_labels(logits: Tensor, batch: Seen) -> Tensor:
        return F.cross_entropy(logits, other_labels(of_forget[batch.positions], data.classes, draws))

    return descend_both(
        model,
        data,
        "SRL",
        forget=wrong_labels,
        retain=lambda logits, batch: F.cross_entropy(logits, of_retain[batch.positions]),
        addon=addon,
        quantile=quantile,
        memory=memory,
        memory_start=memory_start,
        beta=beta,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        keep_statistics=True,
    )


def other_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label another one, uniformly from the classes - 1 others."""
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shift) % classes


register_with_add_ons(
    srl,
    {"SRGradMask": "GradMask", "SRGradFocus": "GradFocus", "SRL_OPT": "OPT", "SRGradFocusOPT": "FocusOPT", "SRSalUn": "SalUn"},
    source=SOURCE,
    augments=("forget", "retain"),
    resolve=check_labels,
)
