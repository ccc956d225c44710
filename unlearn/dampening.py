"""Dampening: shrink the weights that are more important for the forget set than for the training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.unlearn.fisher_information import Tensors

Facts = dict[str, int | float | str]


@torch.no_grad()
def dampen(model: nn.Module, forget: Tensors, train: Tensors, *, alpha: float, dampening: float = 1.0) -> int:
    """Shrink weights in place; return how many became smaller.

        w <- w min(dampening I_train / I_forget, 1)    where I_forget > alpha I_train

    forget, train: the importances I, a tensor per parameter by name.
    """
    dampened = 0
    for name, weight in model.named_parameters():
        chosen = forget[name] > alpha * train[name]
        factor = (dampening * train[name] / forget[name]).clamp(max=1)
        weight[chosen] *= factor[chosen]
        dampened += int((chosen & (factor < 1)).sum())
    return dampened


def dampened_facts(model: nn.Module, dampened: int, unchanged: str) -> Facts:
    """Return the count of dampened weights; where it is 0, also `unchanged`, the reason and the remedy."""
    weights = sum(p.numel() for p in model.parameters())
    facts: Facts = {"dampened": dampened, "dampened_percent": 100 * dampened / weights}
    if not dampened:
        facts["unchanged"] = unchanged
    return facts


def ratio_above(forget: Tensors, train: Tensors, share: float) -> float:
    """Return the ratio I_forget / I_train that `share` of all entries exceed; infinity if that is none.

    The entries of all tensors are ranked together, without those that have no finite ratio.
    """
    ratios = torch.cat([_finite_ratios(forget[name], train[name]) for name in train])
    rank = len(ratios) - round(share * len(ratios))
    if not len(ratios) or rank == len(ratios):
        return float("inf")
    return float(ratios.kthvalue(rank).values) if rank else -1.0


def _finite_ratios(forget: Tensor, train: Tensor) -> Tensor:
    ratios = (forget / train).flatten()
    return ratios[ratios.isfinite()]
