"""SRL: descend on the retain set, and on wrong labels for the forget set, in one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.unlearn.add_ons import ADD_ONS, SOURCE, AddOnName, add_on_of
from lethe.unlearn.conflicts import munba
from lethe.unlearn.impl import ForgetData, Unlearned, register
from lethe.unlearn.settings import BETA, BatchSize, Beta, Epochs, LearningRate
from lethe.unlearn.teacher import Seen
from lethe.unlearn.two_gradients import check_add_on, cross_entropy_of, descend_both, register_with_add_ons


def check_classes(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a single class: there is no wrong label."""
    if data.classes < 2:
        raise ValueError(
            f"random labels: expected at least 2 classes, got {data.classes}. Use a method that needs no "
            "other class"
        )


@register(
    "SRL", source=SOURCE, resolve=(check_classes, check_add_on), augments=("forget", "retain"), parallel=True
)
def srl(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 30,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 256,
    beta: Beta = BETA,
    addon: AddOnName | None = None,
    **of_add_on: Any,
) -> Unlearned:
    """Descend the cross-entropy of retain images with their labels and of forget images with wrong ones.

        d = beta g_r + (1 - beta) g_random        theta <- Adam(theta, d)

    g_random is the gradient on a forget batch whose labels are drawn uniformly from all classes but each
    image's own, anew each step. An epoch is a pass over forget; retain is cycled and reshuffled. OPT and
    FocusOPT make d a descent direction of both objectives; what Adam makes of d need not be one. The defaults
    are Dine et al.'s.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step

    Raises ValueError for a flag that the add-on does not have and for a single class; FloatingPointError if
    it diverges.

    Departure: batch norm keeps its running statistics, see RL.
    """
    draws = data.generator("SRL", "labels")
    labels = data.forget.labels.to(data.device)

    def wrong_labels(logits: Tensor, batch: Seen) -> Tensor:
        return F.cross_entropy(logits, other_labels(labels[batch.positions], data.classes, draws))

    return descend_both(
        model,
        data,
        "SRL",
        forget=wrong_labels,
        retain=cross_entropy_of(data.retain, data.device),
        add_on=add_on_of(addon, of_add_on),
        beta=beta,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
        keep_statistics=True,
    )


def other_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Return for each label another one, drawn uniformly from the classes - 1 others."""
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shift) % classes


register_with_add_ons(
    srl,
    {
        "SRGradMask": "GradMask",
        "SRGradFocus": "GradFocus",
        "SRL_OPT": "OPT",
        "SRGradFocusOPT": "FocusOPT",
        "SRSalUn": "SalUn",
    },
)
register_with_add_ons(srl, {"MUNBa": ADD_ONS.of(munba).name}, without=("beta",))
