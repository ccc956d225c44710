"""From importance to mask: which weights lean to what is to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unlearn.impl import ForgetData
from unlearn.mimu.topk import hard_topk
from vision_data import ImageSet


def continuous(q: Tensor) -> Tensor:
    """s^f = q^f - mean over the other c of q^c, for every class f at once: (C, N) -> (C, N).

    Raises ValueError for fewer than two classes.
    """
    if len(q) < 2:
        raise ValueError(f"ranking: expected the logits of at least two classes, got {len(q)}. Retain another class")
    return q - (q.sum(0) - q) / (len(q) - 1)


def lean(data: ForgetData, by_class: Callable[[], Mapping[int, Tensor]], of_images: Callable[[ImageSet], Tensor]) -> Tensor:
    """s (N,): how much more each weight serves what is forgotten than what is retained.

    A class that goes whole is held against the mean of the classes that are retained (`by_class` gives q^c of each);
    images of a class that stays against the retained images of that class (`of_images` gives their q). The mean over
    the classes in the forget set.
    """
    q = by_class() if data.forget_classes else {}
    retained = data.retain.classes
    leans = []
    for label in data.forget.classes:
        if label in data.forget_classes:
            leans.append(q[label] - torch.stack([q[c] for c in retained]).mean(0))
        else:
            leans.append(of_images(data.forget.of_classes(label)) - of_images(data.retain.of_classes(label)))
    return torch.stack(leans).mean(0)


def keep_largest_out(scores: Tensor, kappa: int, shape: tuple[int, int]) -> Tensor:
    """False for the kappa weights with the largest score, True for the others: (N,) -> (m, n) bool.

    Among equal scores the weight that comes first in the layer goes first.
    """
    return ~hard_topk(scores, kappa).bool().view(shape).cpu()
