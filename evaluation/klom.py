"""KLoM: how far the margins of unlearned models are, image by image, from those of models that never saw the forget set."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from evaluation.impl import register
from evaluation.population import Population, check_margins, check_same
from training import generator_for

SOURCE = "Georgiev et al. 2024, arXiv:2410.23232"
KLOM = ("klom_forget_p95", "klom_retain_p95", "klom_validation_p95")
LIMIT, BINS, LEAST = 100.0, 20, 1e-5
CAP = -math.log(LEAST)  # ln 1e5, what disjoint margins come to
FLOOR_POINTS, FLOOR_MARGINS = 20_000, 2_000_000  # fewer models, more points: their KLoM has few values, far apart


def klom(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """The KL divergence between the margins of N unlearned models and of N oracles, for each image.

        sum over bins b with p_b > 0 of p_b log(p_b / max(q_b, 1e-5))    p: unlearned, q: oracles, shares of N

    Margins (N, n) -> (n,) nats in [0, ln 1e5], float64. Margins are clipped to [-100, 100], an infinite one too; the 20 bins divide the
    range of both sides together, and the largest value lies in the last one; a range without a width is widened by 1. q is not normalised
    again after it was raised to 1e-5.

    Raises ValueError for fewer than 10 models, another number of oracles, other shapes, and NaN.
    Source: Georgiev et al. 2024, arXiv:2410.23232. Public versions drop the largest value, which is in no half-open bin. EasyDUB has this
    direction; data-unlearning-bench calls its function the other way round, KL(oracles || unlearned): klom(oracles, unlearned) here.
    """
    check_margins(unlearned, "unlearned margins")
    check_margins(oracles, "oracle margins")
    check_same(unlearned, oracles)
    ours, theirs = (margins.double().clamp(-LIMIT, LIMIT) for margins in (unlearned, oracles))
    low = torch.minimum(ours.amin(0), theirs.amin(0))
    width = torch.maximum(ours.amax(0), theirs.amax(0)) - low
    width = width.where(width > 0, 1.0)
    p, q = (_shares(margins, low, width) for margins in (ours, theirs))
    divergence = torch.special.xlogy(p, p) - torch.special.xlogy(p, q.clamp(min=LEAST))
    return divergence.sum(0).clamp(0, CAP)


def _shares(margins: Tensor, low: Tensor, width: Tensor) -> Tensor:
    """The share of the models in each bin, (20, n)."""
    bins = ((margins - low) / width * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(BINS, margins.shape[1], dtype=torch.float64, device=margins.device)
    return counts.scatter_add_(0, bins, torch.ones_like(margins)) / len(margins)


def p95(values: Tensor) -> float:
    """The 95th percentile, linear between neighbours."""
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    place = 0.95 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (place - below) * (ordered[above] - ordered[below]))


@lru_cache
def noise_floor(models: int) -> tuple[float, float]:
    """What KLoM comes to where there is nothing to find: mean and 95th percentile, nats.

        KLoM of two independent samples of one normal, `models` a side, over 2,000,000 / models points, at least 20,000

    It depends on N alone, see klom_forget_p95. A KLoM is to be held against it, not against 0. At N = 10 hardly a value lies between 8.0
    and 8.3, where the percentile is: another draw may come to 0.1 more or less. Raises ValueError for fewer than 10 models.
    """
    draw = generator_for(0, "evaluation", "klom", "floor")
    points = max(FLOOR_POINTS, FLOOR_MARGINS // models)
    found = []
    for _ in range(20):  # a part at a time: at a thousand models the whole would not fit
        sides = torch.randn(2, models, points // 20, generator=draw, dtype=torch.float64)
        found.append(klom(sides[0], sides[1]))
    values = torch.cat(found)
    return float(values.mean()), p95(values)


def klom_p95(models: Population, oracles: Population, name: str) -> float:
    """The 95th percentile of KLoM over the images of one set. ValueError where either side was not measured on it."""
    for who, side in (("the unlearned models", models), ("the oracles", oracles)):
        if name not in side.margins:
            raise ValueError(f"no {name} margins of {who}")
    return p95(klom(models.margins[name], oracles.margins[name]))


@register("klom_forget_p95", unit="nats", better="lower", source=SOURCE)
def klom_forget_p95(models: Population, oracles: Population) -> float:
    """95th percentile over forget of KLoM, the divergence between the margins of N unlearned models and of N oracles.

        P95 over x in forget of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    In [0, ln 1e5 = 11.513]. It weighs the bins by the unlearned models; data-unlearning-bench weighs them by the oracles, KL(m_o || m_u):
    `audit.py klom --klom_direction oracle_unlearned` gives that, and the two can't be compared. Margins are clipped to [-100, 100],
    20 bins divide the range of both sides, the second side's shares are at least 1e-5.

    Trap: it has a noise floor, which depends on N alone (two samples of one normal, mean / P95): 5.63 / 8.06 at N = 10, 0.90 / 1.73 at
    N = 50, 0.35 / 0.69 at N = 100, 0.15 / 0.28 at N = 200. `klom_models` and `klom_floor_p95` stand beside it; values of
    different N can't be compared.

    Trap: on forget alone it says nothing of what was lost: see the other two.
    """
    return klom_p95(models, oracles, "forget")


@register("klom_retain_p95", unit="nats", better="lower", source=SOURCE)
def klom_retain_p95(models: Population, oracles: Population) -> float:
    """95th percentile over retain of KLoM: what unlearning did to the images that were to stay.

        P95 over x in retain of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    As klom_forget_p95, with its noise floor.
    """
    return klom_p95(models, oracles, "retain")


@register("klom_validation_p95", unit="nats", better="lower", source=SOURCE)
def klom_validation_p95(models: Population, oracles: Population) -> float:
    """95th percentile over validation of KLoM: what unlearning did to images that no model was trained on.

        P95 over x in validation of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    As klom_forget_p95, with its noise floor. Where a class is forgotten whole, validation has lost it too.

    Trap: where the models were chosen by validation images it is no measure of anything new.
    """
    return klom_p95(models, oracles, "validation")
