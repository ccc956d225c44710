"""SRL: descend on what is retained, and on wrong labels for what is forgotten, in one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearn.impl import ForgetData, Unlearned, register
from unlearn.settings import AddOnName, BatchSize, Beta, Epochs, LearningRate, Memory, MemoryStart, Quantile
from unlearn.teacher import Seen
from unlearn.two_gradients import add_on_of, check_add_on, descend_both, register_with_add_ons

SOURCE = "Dine, Furon, Faure 2025, arXiv:2511.02435"


def check_classes(model: nn.Module, data: ForgetData) -> None:
    """ValueError where an image's label is the only one."""
    if data.classes < 2:
        raise ValueError(
            f"random labels: expected at least 2 classes, got {data.classes}. Use a method that needs no "
            "other class"
        )


@register("SRL", source=SOURCE, resolve=(check_classes, check_add_on), augments=("forget", "retain"))
def srl(
    model: nn.Module,
    data: ForgetData,
    *,
    unlearn_epochs: Epochs = 30,
    unlearn_lr: LearningRate = 1e-4,
    batch_size: BatchSize = 256,
    beta: Beta = 0.95,
    addon: AddOnName | None = None,
    quantile: Quantile | None = None,
    memory: Memory | None = None,
    memory_start: MemoryStart | None = None,
) -> Unlearned:
    """Descend the cross-entropy of retain images with their labels and of forget images with wrong ones,
    drawn anew each step.

        d = beta g_r + (1 - beta) g_random        theta <- Adam(theta, d)

    g_random is the gradient on a forget batch whose labels are drawn uniformly from all classes but each
    image's own. An epoch is a pass over forget; retain is cycled and reshuffled. OPT and FocusOPT make d a
    descent direction of both objectives; what Adam makes of d need not be one. The defaults are Dine et
    al.'s.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step

    Raises ValueError for flags that make no sense, or that the add-on does not have, and for a single class;
    FloatingPointError if it diverges.

    Departure: batch norm keeps its running statistics, see RL.
    """
    draws = data.generator("SRL", "labels")
    of_forget, of_retain = (images.labels.to(data.device) for images in (data.forget, data.retain))

    def wrong_labels(logits: Tensor, batch: Seen) -> Tensor:
        return F.cross_entropy(logits, other_labels(of_forget[batch.positions], data.classes, draws))

    def true_labels(logits: Tensor, batch: Seen) -> Tensor:
        return F.cross_entropy(logits, of_retain[batch.positions])

    add_on = add_on_of(addon, quantile=quantile, memory=memory, memory_start=memory_start)
    settings = (add_on, beta, unlearn_epochs, unlearn_lr, batch_size)
    return descend_both(model, data, "SRL", wrong_labels, true_labels, *settings, keep_statistics=True)


def other_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label another one, uniformly from the classes - 1 others."""
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
    source=SOURCE,
    augments=("forget", "retain"),
    resolve=(check_classes, check_add_on),
)
