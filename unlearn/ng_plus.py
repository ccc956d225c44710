"""NGPlus: descend on what is retained and ascend on what is forgotten, in one step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from unlearn.impl import ForgetData, Unlearned, register
from unlearn.settings import AddOnName, BatchSize, Beta, Epochs, LearningRate, Memory, MemoryStart, Quantile
from unlearn.teacher import Seen
from unlearn.two_gradients import add_on_of, check_add_on, descend_both, register_with_add_ons

SOURCE = "Kurmanji et al. 2023, arXiv:2302.09880; Dine, Furon, Faure 2025, arXiv:2511.02435"


@register(
    "NGPlus",
    "NegGrad+",
    source=SOURCE,
    resolve=(check_add_on,),
    augments=("forget", "retain"),
    source_augments="nothing",
)
def ng_plus(
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
    """Descend the retain batch's cross-entropy and ascend the forget batch's.

        d = beta g_r - (1 - beta) g_f        theta <- Adam(theta, d)

    g_r, g_f: gradients of the mean cross-entropy of a retain and of a forget batch. An epoch is a pass over
    forget; retain is cycled and reshuffled. OPT and FocusOPT make d a descent direction of both objectives;
    what Adam makes of d need not be one.

    The defaults, what an epoch is, and that batch norm takes the statistics of each batch are Dine et al.'s:
    with the running ones the ascent, which has no end, goes further than the retain gradient repairs.

    Flags:
        unlearn_epochs: passes over the forget set
        unlearn_lr: learning rate of Adam
        batch_size: images of each kind a step

    Raises ValueError for flags that make no sense, or that the add-on does not have; FloatingPointError if it
    diverges.

    Departures: in Kurmanji et al. an epoch is a pass over retain, with forget cycled; the model is in eval
    mode, so that batch norm uses its running statistics; the retain loss has .05 |theta - theta_0|^2 beside
    it; the optimiser is SGD without momentum (.01, 10 epochs).
    """
    of_forget, of_retain = (images.labels.to(data.device) for images in (data.forget, data.retain))

    def ascend(logits: Tensor, batch: Seen) -> Tensor:
        return -F.cross_entropy(logits, of_forget[batch.positions])

    def descend(logits: Tensor, batch: Seen) -> Tensor:
        return F.cross_entropy(logits, of_retain[batch.positions])

    add_on = add_on_of(addon, quantile=quantile, memory=memory, memory_start=memory_start)
    return descend_both(
        model, data, "NGPlus", ascend, descend, add_on, beta, unlearn_epochs, unlearn_lr, batch_size
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
    resolve=(check_add_on,),
)
