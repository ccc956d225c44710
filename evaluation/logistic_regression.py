"""Logistic regression on one feature, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_STEPS = 100
CONVERGED = 1e-18  # what a step gains, relative to the sum of the weights
SMALLEST_SHARE = 1e-6  # of a step

Objective = Callable[[Tensor], Tensor]


class Line(NamedTuple):
    """f(x) = slope * x + offset: the log-odds of side +1."""

    slope: float
    offset: float

    def at(self, feature: Tensor) -> Tensor:
        """Return f of each value: (m,) -> (m,)."""
        return self.slope * feature + self.offset


def fit(feature: Tensor, sides: Tensor, weights: Tensor) -> Line:
    """Fit the log-odds of side +1 against side -1.

        min_{a, b}  a^2 / 2 + sum_i weights_i log(1 + exp(-sides_i (a x_i + b)))

    feature, sides (+-1) and weights (> 0): (n,), float64, both sides among them. The same optimum as
    scikit-learn's LogisticRegression(C=1), whose lbfgs stops at 1e-4 of the gradient.
    """
    # In units of the spread, so that the Hessian can be inverted whatever the feature's scale.
    middle, spread = feature.mean(), feature.std(correction=0)
    if spread == 0:
        spread = torch.ones_like(spread)
    columns = torch.stack([(feature - middle) / spread, torch.ones_like(feature)], dim=1)
    penalty = torch.stack([spread**-2, torch.zeros_like(spread)])

    def objective(line: Tensor) -> Tensor:
        losses = F.softplus(-sides * (columns @ line))
        return (penalty * line**2).sum() / 2 + (weights * losses).sum()

    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(MAX_STEPS):
        wrong = torch.sigmoid(-sides * (columns @ line))
        gradient = penalty * line - columns.T @ (weights * sides * wrong)
        hessian = penalty.diag() + columns.T @ (columns * (weights * wrong * (1 - wrong))[:, None])
        step = torch.linalg.solve(hessian, -gradient)
        decrement = -(gradient @ step)
        if decrement <= CONVERGED * weights.sum():
            break
        line = _descended(objective, line, step, decrement)
    slope = line[0] / spread
    return Line(float(slope), float(line[1] - slope * middle))


def _descended(objective: Objective, line: Tensor, step: Tensor, decrement: Tensor) -> Tensor:
    """Return the line after the step, or after the first half of it, ... that makes the objective smaller."""
    before, share = objective(line), 1.0
    while share > SMALLEST_SHARE and objective(line + share * step) > before - share * decrement / 4:
        share /= 2
    return line + share * step
