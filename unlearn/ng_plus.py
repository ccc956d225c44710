"""NGPlus: descend on what is retained and ascend on what is forgotten, in one step."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from unlearn.impl import ForgetData, Unlearned, register
from unlearn.two_gradients import check, descend_both, register_with_add_ons

SOURCE = "Kurmanji et al. 2023, arXiv:2302.09880; Dine, Furon, Faure 2025, arXiv:2511.02435"


@register("NGPlus", "NegGrad+", source=SOURCE, resolve=check, augments=("forget", "retain"), source_augments="nothing")
def ng_plus(
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
    """Descend the retain batch's cross-entropy and ascend the forget batch's.

        d = beta g_r - (1 - beta) g_f        theta <- Adam(theta, d)

    g_r, g_f: gradients of the mean cross-entropy of a retain and of a forget batch. An epoch is a pass over forget; retain
    is cycled and reshuffled. OPT and FocusOPT make d a descent direction of both objectives; what Adam makes of d need not be one.

    The defaults, what an epoch is, and that batch norm takes the statistics of each batch are Dine et al.'s: with the running ones the
    ascent, which has no end, goes further than the retain gradient repairs.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step
        beta: weight of the retain gradient, between 0 and 1
        addon: rule that combines the two gradients instead: GradMask, ANDMask, VarGrad, GradFocus, OPT, FocusOPT, SalUn
        quantile: least agreement (GradMask, VarGrad) or share of the gradient's entries (SalUn) that an add-on masks by (.3)
        memory: how much of the second moments an add-on keeps from step to step (.9)
        memory_start: the second moments of an add-on's first step, over the squared gradient (1 - memory; VarGrad 1)

    Raises ValueError for flags that make no sense, or that the add-on does not have; FloatingPointError if it diverges.

    Departures: in Kurmanji et al. an epoch is a pass over retain, with forget cycled; the model is in eval mode, so that batch norm uses
    its running statistics; the retain loss has .05 |theta - theta_0|^2 beside it; the optimiser is SGD without momentum (.01, 10 epochs).
    """
    check(
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
    of_forget, of_retain = (images.labels.to(data.device) for images in (data.forget, data.retain))
    return descend_both(
        model,
        data,
        "NGPlus",
        forget=lambda logits, batch: -F.cross_entropy(logits, of_forget[batch.positions]),
        retain=lambda logits, batch: F.cross_entropy(logits, of_retain[batch.positions]),
        addon=addon,
        quantile=quantile,
        memory=memory,
        memory_start=memory_start,
        beta=beta,
        unlearn_epochs=unlearn_epochs,
        unlearn_lr=unlearn_lr,
        batch_size=batch_size,
    )


register_with_add_ons(
    ng_plus,
    {
        "NGradMask": "GradMask",
        "VarGrad": "VarGrad",
        "NGradFocus": "GradFocus",
        "NGPlus_OPT": "OPT",
        "NGradFocusOPT": "FocusOPT",
        "NGSalUn": "SalUn",
    },
    source=SOURCE,
    augments=("forget", "retain"),
    resolve=check,
)
