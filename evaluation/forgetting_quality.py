"""The NeurIPS 2023 unlearning challenge's measure: the best of many attacks on each forgotten image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lethe.evaluation.classification import mean
from lethe.evaluation.impl import register
from lethe.evaluation.population import Population, check_margins, check_same

SOURCE = "Triantafillou et al. 2024, arXiv:2406.09073"
DELTA, LARGEST, STEP, REACH, NARROW = 1e-5, 50.0, 0.5, 2.0, 0.01


def epsilons(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """Return for each image how well the best attack tells an unlearned model from an oracle.

        eps = max over attacks of max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR)
        delta = 1e-5

    Margins (N, n) -> (n,) in [0, 50], float64. Attacks with one threshold t: "margin >= t", for every t; the
    side with the larger median is positive. Attacks with two: "l <= margin <= r"; the side with the smaller
    range w is positive, r is at most 2 from its largest margin, and r - l is at most 2 from w. FPR = FNR = 0
    gives an infinite eps; an attack with exactly one zero is discarded; eps is 0 if no attack is left, and 50
    if one range is under 1 % of the other.

    Raises ValueError for fewer than 10 models, different numbers of models, wrong shapes, and NaN.
    Source: Triantafillou et al. 2024, arXiv:2406.09073, and the challenge's code, which takes thresholds from
    a grid of step 0.01; here every threshold between two margins is tried.
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
    """Return eps of "margin >= t is positive", for t at every margin."""
    oracles_larger = oracles.quantile(0.5) > unlearned.quantile(0.5)
    positive, negative = (oracles, unlearned) if oracles_larger else (unlearned, oracles)
    thresholds = torch.cat([positive, negative])
    false_negatives = torch.searchsorted(positive.sort().values, thresholds)
    false_positives = len(negative) - torch.searchsorted(negative.sort().values, thresholds)
    return of_rates(false_positives / len(negative), false_negatives / len(positive))


def _two_thresholds(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """Return eps of "l <= margin <= r is positive", for every pair of gaps between margins."""
    ours, theirs = (side.sort().values for side in (unlearned, oracles))
    oracles_narrower = theirs[-1] - theirs[0] <= ours[-1] - ours[0]
    positive, negative = (theirs, ours) if oracles_narrower else (ours, theirs)
    width, largest = positive[-1] - positive[0], positive[-1]
    infinity = torch.full((1,), math.inf, dtype=torch.float64)
    points = torch.cat([positive, negative]).unique()
    edges = torch.cat([-infinity, points, infinity])
    # Gap g lies between two neighbours: l in (start, end], r in [start, end).
    start, end = edges[:-1], edges[1:]
    counts = (torch.searchsorted(side, points, right=True) for side in (positive, negative))
    below = [torch.cat([torch.zeros(1), count]) for count in counts]
    right_low, right_high = start.clamp(min=float(largest - REACH)), end.clamp(max=float(largest + REACH))
    right_fits = right_low <= right_high
    shortest, longest = right_low[None, :] - end[:, None], right_high[None, :] - start[:, None]
    fits = right_fits[None, :] & (shortest <= width + REACH) & (longest >= width - REACH)
    inside = [counts[None, :] - counts[:, None] for counts in below]  # [left gap, right gap]
    fits &= inside[0] + inside[1] > 0
    return of_rates(inside[1][fits] / len(negative), 1 - inside[0][fits] / len(positive))


def of_rates(fpr: Tensor, fnr: Tensor) -> Tensor:
    """Return eps of attacks with these rates: infinite without errors, 0 with one kind of error only."""
    fpr, fnr = fpr.double(), fnr.double()
    one, other = ((1 - DELTA - a).clamp(min=0).log() - b.log() for a, b in ((fpr, fnr), (fnr, fpr)))
    best = torch.maximum(one, other)
    return best.where((fpr == 0) == (fnr == 0), 0.0)


def points(eps: Tensor, models: int) -> Tensor:
    """Return the points of each eps: 1 below 0.5, 1/2 below 1, 1/4 below 1.5, ...

    0 from ceil(ln(N - 1)) on, the largest eps that N models can show.

    eps (n,) -> (n,), float64.
    """
    steps = (eps / STEP).floor()
    return torch.where(eps < math.ceil(math.log(models - 1)), torch.pow(0.5, steps.double()), 0.0)


@register("forgetting_quality", unit="fraction", better="higher", source=SOURCE)
def forgetting_quality(models: Population, oracles: Population) -> float:
    """The NeurIPS 2023 challenge's forgetting quality: 1 where no attack on the margin tells N unlearned
    models from N oracles.

        mean over x in forget of points(eps(x))
        points: 1 for eps < 0.5, 1/2 for eps < 1, 1/4 for eps < 1.5, ..., 0 from ceil(ln(N - 1)) on
        eps = max over attacks of max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR)
        delta = 1e-5

    Each attack classifies models by one or two thresholds on the margin of x. FPR = FNR = 0 gives an infinite
    eps; an attack with exactly one zero is discarded. eps lies in [0, 50]; it is 50 where the range of one
    side's margins is under 1 % of the other's.

    Trap: 1 is out of reach. The best of many attacks separates even two samples of one distribution, less so
    for larger N. Do not compare values of different N.
    """
    ours, theirs = models.margins["forget"], oracles.margins["forget"]
    return mean(points(epsilons(ours, theirs), len(models)))


@register("forgetting_score", unit="fraction", better="higher", source=SOURCE)
def forgetting_score(models: Population, oracles: Population) -> float:
    """The NeurIPS 2023 challenge's score: forgetting_quality times the ratios of retain and test accuracy.

        forgetting_quality x RA_u / RA_o x TA_u / TA_o    means over the N models of each side

    RA = retain_score; TA = test_score, or test_retain_score where a whole class was forgotten.

    Trap: unlearned models that are better than the oracles raise it above forgetting_quality.

    Raises ValueError where the scores of a side are unknown, as for oracles from a file of margins.
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
