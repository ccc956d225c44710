"""Rank the weights of a layer for a forget request, and switch off the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lethe.data import ImageSet
from lethe.unlearn.impl import ForgetData
from lethe.unlearn.mimu.topk import hard_topk

Ranking = Literal["continuous", "binary", "set_difference"]


class Comparison(NamedTuple):
    """Logits of the forgotten images, q^f (N,), and the retained logits to compare them with, q^c (C, N)."""

    forgotten: Tensor
    retained: Tensor


def comparisons_of(
    data: ForgetData, by_class: Callable[[], Mapping[int, Tensor]], of_images: Callable[[ImageSet], Tensor]
) -> list[Comparison]:
    """Return one comparison for each class in the forget set.

    A class that is forgotten whole is compared with the retained classes (`by_class` gives q^c of each).
    Forgotten images of any other class are compared with its retained images (`of_images` gives their q).
    """
    q = by_class() if data.forget_classes else {}
    found = []
    for label in data.forget.classes:
        if label in data.forget_classes:
            forgotten, retained = q[label], torch.stack([q[c] for c in data.retain.classes])
        else:
            forgotten, same_class = (of_images(s.of_classes(label)) for s in (data.forget, data.retain))
            retained = same_class[None]
        found.append(Comparison(forgotten, retained))
    return found


def every_class(q: Tensor) -> Tensor:
    """Return the continuous scores of every class f against the others: (C, N) -> (C, N).

        s_f = q^f - mean over the other classes c of q^c

    Raises ValueError for fewer than two classes.
    """
    if len(q) < 2:
        raise ValueError(
            f"ranking: expected the logits of at least two classes, got {len(q)}. Retain another class"
        )
    return q - (q.sum(0) - q) / (len(q) - 1)


def scores_of(ranking: Ranking, comparisons: Sequence[Comparison], topk: int) -> Tensor:
    """Return scores s (N,): weights are switched off from the largest down; -inf for one that must stay.

        continuous      q^f - mean over c of q^c
        binary          M^f - mean over c of M^c, M = hard top-K of q; equal ones by their continuous score
        set_difference  the continuous score of the weights in an M^f and in no M^c

    Several comparisons are averaged, and their sets united. Departure from the paper: its scores put the
    weights that all classes or no class need first, and its set difference keeps the weights that it should
    drop.
    """
    return _RANKINGS[ranking](comparisons, topk)


def continuous(comparisons: Sequence[Comparison], _topk: int = 0) -> Tensor:
    return torch.stack([forgotten - retained.mean(0) for forgotten, retained in comparisons]).mean(0)


def _binary(comparisons: Sequence[Comparison], topk: int) -> Tensor:
    marks = [Comparison(*(hard_topk(q, topk).double() for q in comparison)) for comparison in comparisons]
    by_continuous = continuous(comparisons).argsort(descending=True, stable=True)
    shares = continuous(marks).round(decimals=9)  # the order of a sum must not make equal shares differ
    order = by_continuous[shares[by_continuous].argsort(descending=True, stable=True)]
    scores = torch.empty_like(shares)
    scores[order] = torch.arange(len(order), 0, -1, dtype=shares.dtype, device=shares.device)
    return scores


def _set_difference(comparisons: Sequence[Comparison], topk: int) -> Tensor:
    forgotten = torch.stack([hard_topk(c.forgotten, topk) for c in comparisons]).any(0)
    retained = torch.cat([hard_topk(c.retained, topk) for c in comparisons]).any(0)
    return continuous(comparisons).masked_fill(~forgotten | retained, -torch.inf)


_RANKINGS: dict[str, Callable[[Sequence[Comparison], int], Tensor]] = {
    "continuous": continuous,
    "binary": _binary,
    "set_difference": _set_difference,
}


def keep_largest_out(scores: Tensor, kappa: int, shape: tuple[int, int]) -> Tensor:
    """Return the mask (m, n) bool of scores (N,): False for the kappa weights with the largest scores.

    Scores of -inf stay True, so there may be fewer than kappa. Among equal scores the first weights in the
    layer are switched off.
    """
    out = hard_topk(scores, kappa).bool() & (scores > -torch.inf)
    return ~out.view(shape).cpu()
