"""The quadratic program of a support vector machine, by an interior-point method on a low-rank matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_STEPS = 80


class NotSolved(ArithmeticError):
    """Raised if the steps do not converge."""


@dataclass(frozen=True)
class Optimum:
    """Multipliers and their dual variables, each (n,), and the multiplier of the equality.

    rows of `point`: a, room = bounds - a, z of a >= 0, w of a <= bounds. All are positive, and at the optimum
    a z = room w = 0.
    """

    point: Tensor
    offset: float

    @property
    def a(self) -> Tensor:
        return self.point[0]


def minimum(v: Tensor, sides: Tensor, bounds: Tensor, image: Tensor, uneven: float, gap: float) -> Optimum:
    """Return the optimum, by Mehrotra's predictor-corrector method.

        min_a  |V^T a + image|^2 / 2 - sum_i a_i    0 <= a_i <= bounds_i,  sides^T a + uneven = 0

    v (n, r), sides (n,) of +-1, bounds (n,) > 0, float64. image (r,) and uneven are what multipliers that are
    held contribute. gap: of the optimum found, relative to the objective. A step costs O(n r^2); 8 to 45
    steps converge. Raises NotSolved.
    """
    half, one = bounds / 2, torch.ones_like(bounds)
    point, b = torch.stack([half, half, one, one]), 0.0
    for _ in range(MAX_STEPS):
        state = _State(v, sides, point, b, image, uneven)
        if state.solves(gap):
            return Optimum(point, b)
        equations = _Equations(state)
        ahead, _ = equations.direction(None)
        centred = _centred(state, ahead)
        step, db = equations.direction(centred - ahead[:2] * ahead[2:])
        length = 0.99 * min(_lengths(point, step))
        point, b = point + length * step, b + length * db
    raise NotSolved(f"no optimum after {MAX_STEPS} steps")


class _State:
    """Where the iteration is: the residuals of the conditions of the optimum, and the gap."""

    def __init__(
        self, v: Tensor, sides: Tensor, point: Tensor, b: float, image: Tensor, uneven: float
    ) -> None:
        a = point[0]
        self.v, self.sides, self.point = v, sides, point
        self.image = image + a @ v
        self.gradient = v @ self.image + (b * sides - 1 - point[2] + point[3])
        self.uneven = uneven + float(sides @ a)
        self.total = float(a.sum())
        self.gap = float((point[:2] * point[2:]).sum())

    def solves(self, gap: float) -> bool:
        objective = abs(float(self.image @ self.image) / 2 - self.total)
        return (
            self.gap < gap * (1 + objective)
            and abs(self.uneven) < 1e-8 * (1 + self.total)
            and float(self.gradient.abs().max()) < 1e-6
        )


class _Equations:
    """(V V^T + diag(d)) da + sides db = right, sides^T da = -uneven, by Sherman, Morrison and Woodbury."""

    def __init__(self, state: _State) -> None:
        self.state = state
        self.ratio = state.point[2:] / state.point[:2]
        self.diagonal = self.ratio[0] + self.ratio[1]
        self.scaled = state.v / self.diagonal[:, None]
        inner = state.v.T @ self.scaled
        inner.diagonal().add_(1)
        self.factor, failed = torch.linalg.cholesky_ex(inner)
        self.of_sides = self._inverse(state.sides)
        self.sides_of_sides = float(state.sides @ self.of_sides)
        if int(failed) or not 0 < self.sides_of_sides < math.inf:
            raise NotSolved("the Newton equations are singular")

    def _inverse(self, right: Tensor) -> Tensor:
        inner = torch.cholesky_solve((right @ self.scaled)[:, None], self.factor)[:, 0]
        return right / self.diagonal - self.scaled @ inner

    def direction(self, products: Tensor | None) -> tuple[Tensor, float]:
        """Return the Newton step towards a z and room w = products (2, n), None for 0, and the step of b."""
        state = self.state
        of_duals = -state.point[2:] if products is None else products / state.point[:2] - state.point[2:]
        alone = self._inverse(of_duals[0] - of_duals[1] - state.gradient)
        db = (float(state.sides @ alone) + state.uneven) / self.sides_of_sides
        da = alone - db * self.of_sides
        both = torch.stack([da, -da])
        return torch.cat([both, of_duals - self.ratio * both]), db


def _lengths(point: Tensor, step: Tensor) -> tuple[float, float]:
    """Return the largest step lengths <= 1 that keep a and room, and z and w, positive."""
    primal, dual = (float(share.min()) for share in (step / point).chunk(2))
    return 1 / max(1.0, -primal), 1 / max(1.0, -dual)


def _centred(state: _State, ahead: Tensor) -> float:
    """Return the products that the corrector aims at: small if the predictor alone comes far."""
    primal, dual = _lengths(state.point, ahead)
    reached = (state.point[:2] + primal * ahead[:2]) * (state.point[2:] + dual * ahead[2:])
    left = float(reached.sum()) / state.gap
    return left**3 * state.gap / (2 * len(state.sides))
