"""From importance to mask: which weights lean to what is to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unlearn.impl import ForgetData
from unlearn.mimu.topk import hard_topk
from vision_data import ImageSet

Ranking = Literal["continuous", "binary", "set_difference"]


class Comparison(NamedTuple):
    """Logits of what is forgotten, q^f (N,), and those that they are held against, q^c (C, N)."""

    forgotten: Tensor
    retained: Tensor


def comparisons_of(
    data: ForgetData, by_class: Callable[[], Mapping[int, Tensor]], of_images: Callable[[ImageSet], Tensor]
) -> list[Comparison]:
    """What a request compares, one comparison for each class in the forget set.

    A class that goes whole is held against the classes that are retained (`by_class` gives q^c of each);
    images of a class that stays against the retained images of that class (`of_images` gives their q).
    """
    q = by_class() if data.forget_classes else {}
    retained = data.retain.classes
    found = []
    for label in data.forget.classes:
        if label in data.forget_classes:
            found.append(Comparison(q[label], torch.stack([q[c] for c in retained])))
        else:
            found.append(
                Comparison(
                    of_images(data.forget.of_classes(label)), of_images(data.retain.of_classes(label))[None]
                )
            )
    return found


def every_class(q: Tensor) -> Tensor:
    """The continuous score of every class f against all others at once: q^f - mean over the other c of q^c,
    (C, N) -> (C, N).

    Raises ValueError for fewer than two classes.
    """
    if len(q) < 2:
        raise ValueError(
            f"ranking: expected the logits of at least two classes, got {len(q)}. Retain another class"
        )
    return q - (q.sum(0) - q) / (len(q) - 1)


def scores_of(ranking: Ranking, comparisons: Sequence[Comparison], topk: int) -> Tensor:
    """s (N,): the larger, the sooner a weight goes; -inf for one that must stay.

        continuous      q^f - mean over c of q^c
        binary          M^f - mean over c of M^c, M = hard top-K of q; among equals the larger continuous score first
        set_difference  the continuous score of the weights in an M^f and in no M^c

    Of several comparisons the mean, and the union of their sets. Departure from the paper: its scores put the
    weights that serve everybody or nobody first, and its set difference keeps what it should drop.
    """
    return _RANKINGS[ranking](comparisons, topk)


def continuous(comparisons: Sequence[Comparison], _topk: int = 0) -> Tensor:
    return torch.stack([forgotten - retained.mean(0) for forgotten, retained in comparisons]).mean(0)


def _binary(comparisons: Sequence[Comparison], topk: int) -> Tensor:
    marks = [
        Comparison(hard_topk(forgotten, topk).double(), hard_topk(retained, topk).double())
        for forgotten, retained in comparisons
    ]
    by_continuous = continuous(comparisons).argsort(descending=True, stable=True)
    shares = continuous(marks).round(
        decimals=9
    )  # so that equal ones are equal in whatever order they were added
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
    """False for the kappa weights with the largest score above -inf (fewer if there are fewer), else True:
    (N,) -> (m, n) bool.

    Among equal scores the weight that comes first in the layer goes first.
    """
    out = hard_topk(scores, kappa).bool() & (scores > -torch.inf)
    return ~out.view(shape).cpu()
