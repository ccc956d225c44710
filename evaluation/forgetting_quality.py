"""The measure of the NeurIPS 2023 unlearning challenge: what the best of many attacks tells about each forgotten image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evaluation.classification import mean
from evaluation.impl import register
from evaluation.population import Population, check_margins, check_same

SOURCE = "Triantafillou et al. 2024, arXiv:2406.09073"
DELTA, LARGEST, STEP, REACH, NARROW = 1e-5, 50.0, 0.5, 2.0, 0.01


def epsilons(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """How well the best attack on one number tells an unlearned model from an oracle, for each image.

        eps = max over attacks of max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR)    delta = 1e-5

    Margins (N, n) -> (n,) in [0, 50], float64. The attacks: "at least t" for every t, where the side with the larger median is the
    positive one; and "within [l, r]" about the side with the smaller range w, where r is at most 2 from its largest value and r - l at
    most 2 from w. FPR = FNR = 0 is an infinite eps, exactly one zero discards the attack, and without an attack eps is 0. Where one
    range is under 1 % of the other, eps is 50.

    Raises ValueError for fewer than 10 models, another number of oracles, other shapes, and NaN.
    Source: Triantafillou et al. 2024, arXiv:2406.09073, and the challenge's published measure, whose thresholds are a grid of
    step 0.01: here they are all there are between two margins.
    """
    check_margins(unlearned, "unlearned margins")
    check_margins(oracles, "oracle margins")
    check_same(unlearned, oracles)
    ours, theirs = (margins.double().clamp(-100, 100) for margins in (unlearned, oracles))
    return torch.stack([_epsilon(u, o) for u, o in zip(ours.T, theirs.T, strict=True)])


def _epsilon(unlearned: Tensor, oracles: Tensor) -> Tensor:
    ranges = sorted(float(side.max() - side.min()) for side in (unlearned, oracles))
    if ranges[1] > 0 and ranges[0] / ranges[1] < NARROW:
        return torch.tensor(LARGEST, dtype=torch.float64)
    found = torch.cat([_one_threshold(unlearned, oracles), _two_thresholds(unlearned, oracles)])
    return found.max().clamp(0, LARGEST)


def _one_threshold(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """eps of "at least t is positive", for t at every margin."""
    oracles_larger = oracles.quantile(0.5) > unlearned.quantile(0.5)
    positive, negative = (oracles, unlearned) if oracles_larger else (unlearned, oracles)
    thresholds = torch.cat([positive, negative])
    false_negatives = torch.searchsorted(positive.sort().values, thresholds)
    false_positives = len(negative) - torch.searchsorted(negative.sort().values, thresholds)
    return of_rates(false_positives / len(negative), false_negatives / len(positive))


def _two_thresholds(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """eps of "within [l, r] is positive", for every pair of gaps between margins that such an l and r can lie in."""
    ours, theirs = (side.sort().values for side in (unlearned, oracles))
    oracles_narrower = theirs[-1] - theirs[0] <= ours[-1] - ours[0]
    positive, negative = (theirs, ours) if oracles_narrower else (ours, theirs)
    width, largest = positive[-1] - positive[0], positive[-1]
    infinity = torch.full((1,), math.inf, dtype=torch.float64)
    points = torch.cat([positive, negative]).unique()
    edges = torch.cat([-infinity, points, infinity])
    start, end = edges[:-1], edges[1:]  # gap g lies between two neighbours: l in (start, end], r in [start, end)
    below = [torch.cat([torch.zeros(1), torch.searchsorted(side, points, right=True)]) for side in (positive, negative)]
    right_low, right_high = start.clamp(min=float(largest - REACH)), end.clamp(max=float(largest + REACH))
    right_fits = right_low <= right_high
    shortest, longest = right_low[None, :] - end[:, None], right_high[None, :] - start[:, None]
    fits = right_fits[None, :] & (shortest <= width + REACH) & (longest >= width - REACH)
    inside = [counts[None, :] - counts[:, None] for counts in below]  # [left gap, right gap]
    fits &= inside[0] + inside[1] > 0
    return of_rates(inside[1][fits] / len(negative), 1 - inside[0][fits] / len(positive))


def of_rates(fpr: Tensor, fnr: Tensor) -> Tensor:
    """eps of attacks with these rates, float64: infinite for one without a mistake, 0 for one that makes mistakes of one kind alone."""
    fpr, fnr = fpr.double(), fnr.double()
    best = torch.maximum((1 - DELTA - fpr).clamp(min=0).log() - fnr.log(), (1 - DELTA - fnr).clamp(min=0).log() - fpr.log())
    return best.where((fpr == 0) == (fnr == 0), 0.0)


def points(eps: Tensor, models: int) -> Tensor:
    """What each image's eps is worth: 1 below 0.5, 1/2 below 1, 1/4 below 1.5, ...; 0 from ceil(ln(N - 1)) on, all that N models can show.

    eps (n,) -> (n,), float64.
    """
    steps = (eps / STEP).floor()
    return torch.where(eps < math.ceil(math.log(models - 1)), torch.pow(0.5, steps.double()), 0.0)


@register("forgetting_quality", unit="fraction", better="higher", source=SOURCE)
def forgetting_quality(models: Population, oracles: Population) -> float:
    """How little attacks on the margin tell N unlearned models from N oracles, as the NeurIPS 2023 challenge has it.

        mean over x in forget of points(eps(x))    1 for eps < 0.5, 1/2 for eps < 1, 1/4 for eps < 1.5, ..., 0 from ceil(ln(N - 1)) on
        eps = max over attacks of max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR)    delta = 1e-5

    The attacks call a model unlearned, or an oracle, by one threshold on the margin of x, or by two. An attack with FPR = FNR = 0 makes eps
    infinite, one where exactly one is 0 is discarded. eps lies in [0, 50]; it is 50 where the margins of one side have less than a
    hundredth of the other's range.

    Trap: 1 is out of reach. The best of many attacks finds something in two samples of one distribution too, less so for larger N:
    values of different N can't be compared.
    """
    ours, theirs = models.margins["forget"], oracles.margins["forget"]
    return mean(points(epsilons(ours, theirs), len(models)))


@register("forgetting_score", unit="fraction", better="higher", source=SOURCE)
def forgetting_score(models: Population, oracles: Population) -> float:
    """forgetting_quality, less where the unlearned models are worse than the oracles: the NeurIPS 2023 challenge's score.

        forgetting_quality x RA_u / RA_o x TA_u / TA_o    means over the N models of each side

    RA = retain_score; TA = test_score, or test_retain_score where a whole class was forgotten.

    Trap: unlearned models that are better than the oracles raise it above forgetting_quality.

    Raises ValueError where the scores of a side are not known, as those of oracles of which there is a file of margins alone.
    """
    quality = forgetting_quality(models, oracles)
    for name in ("retain_score", "ta"):
        for who, side in (("the unlearned models", models), ("the oracles", oracles)):
            if name not in side.scores:
                raise ValueError(f"the scores of {who} are not known, only their margins")
        if not float(oracles.scores[name].mean()) > 0:
            raise ValueError(f"the oracles' mean {name} is 0, which nothing can be divided by")
        quality *= float(models.scores[name].mean()) / float(oracles.scores[name].mean())
    return quality
