"""NGPlus: descend on the retain set and ascend on the forget set, in one step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lethe.unlearn.add_ons import ADD_ONS, AddOnName, add_on_of
from lethe.unlearn.conflicts import gdr_gma
from lethe.unlearn.impl import ForgetData, Unlearned, register
from lethe.unlearn.settings import BETA, BatchSize, Beta, Epochs, LearningRate
from lethe.unlearn.teacher import Seen
from lethe.unlearn.two_gradients import check_add_on, cross_entropy_of, descend_both, register_with_add_ons


@register(
    "NGPlus",
    "NegGrad+",
    source="Kurmanji et al. 2023, arXiv:2302.09880; Dine, Furon, Faure 2025, arXiv:2511.02435",
    resolve=(check_add_on,),
    augments=("forget", "retain"),
    source_augments="nothing",
    parallel=True,
)
def ng_plus(
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

    Raises ValueError for a flag that the add-on does not have; FloatingPointError if it diverges.

    Departures: in Kurmanji et al. an epoch is a pass over retain, with forget cycled; the model is in eval
    mode, so that batch norm uses its running statistics; the retain loss has .05 |theta - theta_0|^2 beside
    it; the optimiser is SGD without momentum (.01, 10 epochs).
    """
    forget_loss = cross_entropy_of(data.forget, data.device)

    def ascend(logits: Tensor, batch: Seen) -> Tensor:
        return -forget_loss(logits, batch)

    return descend_both(
        model,
        data,
        "NGPlus",
        forget=ascend,
        retain=cross_entropy_of(data.retain, data.device),
        add_on=add_on_of(addon, of_add_on),
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
)
register_with_add_ons(ng_plus, {"GDR_GMA": ADD_ONS.of(gdr_gma).name}, without=("beta",))
