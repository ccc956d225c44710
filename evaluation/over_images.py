"""Confidence intervals of metrics over the images: exact and normal."""

from __future__ import annotations

import math

Interval = tuple[float, float]


def exact_interval(share: float, images: int, level: float = 0.95) -> Interval:
    """Return the Clopper-Pearson interval of a percentage of N images, percent.

        lower: the p with P(X >= k) = (1 - level) / 2,  upper: the p with P(X <= k) = (1 - level) / 2
        X ~ Binomial(N, p),  k = share N / 100

    Source: Clopper and Pearson 1934. Raises ValueError for no image, or a share outside of [0, 100].
    """
    from scipy.special import betaincinv

    if images < 1 or not 0 <= share <= 100:
        raise ValueError(
            f"expected a percentage of at least 1 image, got {share} of {images}. Give 100 k / N and N"
        )
    hits, tail = round(share * images / 100), (1 - level) / 2
    lower = 0.0 if hits == 0 else float(betaincinv(hits, images - hits + 1, tail))
    upper = 1.0 if hits == images else float(betaincinv(hits + 1, images - hits, 1 - tail))
    return 100 * lower, 100 * upper


def auc_interval(auc: float, positives: int, negatives: int) -> Interval:
    """Return the 95 % interval of an area under the ROC curve, by the numbers of images of each side.

        A +- 1.96 sqrt((A (1 - A) + (P - 1) (Q1 - A^2) + (N - 1) (Q2 - A^2)) / (P N))
        Q1 = A / (2 - A),  Q2 = 2 A^2 / (1 + A)

    Within [0, 1]. At A = 0 and A = 1 the formula has no width; there the ends of the Clopper-Pearson interval
    of 0 and of all of min(P, N) pairs apply. Source: Hanley and McNeil 1982. Raises ValueError for no image
    on a side.
    """
    if min(positives, negatives) < 1:
        raise ValueError(
            f"expected at least 1 image on both sides, got {positives} and {negatives}. Evaluate on larger "
            "sets"
        )
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    reach = 1.96 * math.sqrt(max(spread / (positives * negatives), 0.0))
    least = exact_interval(0, min(positives, negatives))[1] / 100
    return max(0.0, min(auc - reach, 1 - least)), min(1.0, max(auc + reach, least))
