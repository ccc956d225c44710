"""KLoM: the divergence of margins between unlearned models and oracles, image by image."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lethe.evaluation.impl import register
from lethe.evaluation.population import Population, check_margins, check_same
from lethe.training import generator_for

SOURCE = "Georgiev et al. 2024, arXiv:2410.23232"
KLOM = ("klom_forget_p95", "klom_retain_p95", "klom_validation_p95")
LIMIT, BINS, LEAST = 100.0, 20, 1e-5
CAP = -math.log(LEAST)  # ln 1e5, KLoM of disjoint margins
FLOOR_POINTS, FLOOR_MARGINS = (
    20_000,
    2_000_000,
)  # KLoM of few models has few distinct values: it takes more points


def klom(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """Return for each image the KL divergence between the margins of N unlearned models and of N oracles.

        sum over bins b with p_b > 0 of p_b log(p_b / max(q_b, 1e-5))    p: unlearned, q: oracles, shares of N

    Margins (N, n) -> (n,) nats in [0, ln 1e5], float64. Margins are clipped to [-100, 100]. 20 bins divide
    the joint range of both sides; the last bin includes its upper end; a range of width 0 is widened to 1. q
    is not renormalised after the clamp to 1e-5.

    Raises ValueError for fewer than 10 models, different numbers of models, wrong shapes, and NaN.
    Source: Georgiev et al. 2024, arXiv:2410.23232. Public versions lose the largest value, which no half-open
    bin holds. EasyDUB has this direction; data-unlearning-bench has KL(oracles || unlearned), here
    klom(oracles, unlearned).
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
    """Return the share of the models in each bin, (20, n)."""
    bins = ((margins - low) / width * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(BINS, margins.shape[1], dtype=torch.float64, device=margins.device)
    return counts.scatter_add_(0, bins, torch.ones_like(margins)) / len(margins)


def p95(values: Tensor) -> float:
    """Return the 95th percentile, with linear interpolation."""
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    place = 0.95 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (place - below) * (ordered[above] - ordered[below]))


@lru_cache
def noise_floor(models: int) -> tuple[float, float]:
    """Return mean and 95th percentile (nats) of KLoM between equal distributions.

        KLoM of two independent samples of one normal, `models` a side, over max(20,000, 2,000,000 / models)
        points

    It depends on N alone, see klom_forget_p95. Compare a KLoM with it, not with 0. At N = 10 few values lie
    near the percentile, between
    8.0 and 8.3: another draw may differ by 0.1. Raises ValueError for fewer than 10 models.
    """
    draw = generator_for(0, "evaluation", "klom", "floor")
    points = max(FLOOR_POINTS, FLOOR_MARGINS // models)
    found = []
    for _ in range(20):  # in parts: a thousand models would not fit into memory at once
        sides = torch.randn(2, models, points // 20, generator=draw, dtype=torch.float64)
        found.append(klom(sides[0], sides[1]))
    values = torch.cat(found)
    return float(values.mean()), p95(values)


def klom_p95(models: Population, oracles: Population, name: str) -> float:
    """Return the 95th percentile of KLoM over one set. Raises ValueError if a side has no margins of it."""
    for who, side in (("the unlearned models", models), ("the oracles", oracles)):
        if name not in side.margins:
            raise ValueError(f"no {name} margins of {who}")
    return p95(klom(models.margins[name], oracles.margins[name]))


@register("klom_forget_p95", unit="nats", better="lower", source=SOURCE)
def klom_forget_p95(models: Population, oracles: Population) -> float:
    """95th percentile over forget of KLoM: margins of N unlearned models against N oracles.

        P95 over x in forget of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    In [0, ln 1e5 = 11.513]. It weighs the bins by the unlearned models; data-unlearning-bench weighs them by
    the oracles, KL(m_o || m_u): the audit's `--klom_direction oracle_unlearned` computes that. Do not
    compare the two. Margins are clipped to [-100, 100], 20 bins divide the joint range, the second side's
    shares are at least 1e-5.

    Trap: it has a noise floor, which depends on N alone (two samples of one normal, mean / P95): 5.63 / 8.06
    at N = 10, 0.90 / 1.73 at N = 50, 0.35 / 0.69 at N = 100, 0.15 / 0.28 at N = 200. `klom_models` and
    `klom_floor_p95` are logged with it. Do not compare values of different N.

    Trap: on forget alone it does not measure damage. See the other two.
    """
    return klom_p95(models, oracles, "forget")


@register("klom_retain_p95", unit="nats", better="lower", source=SOURCE)
def klom_retain_p95(models: Population, oracles: Population) -> float:
    """95th percentile over retain of KLoM: the damage to the retained images.

        P95 over x in retain of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    As klom_forget_p95, with its noise floor.
    """
    return klom_p95(models, oracles, "retain")


@register("klom_validation_p95", unit="nats", better="lower", source=SOURCE)
def klom_validation_p95(models: Population, oracles: Population) -> float:
    """95th percentile over validation of KLoM: the damage on images that no model was trained on.

        P95 over x in validation of KL(histogram of m_u(x), histogram of m_o(x))    m = log(p_y / (1 - p_y))

    As klom_forget_p95, with its noise floor. Without the images of a class that is forgotten whole.

    Trap: it is no independent measure where the models were chosen by validation images.
    """
    return klom_p95(models, oracles, "validation")
