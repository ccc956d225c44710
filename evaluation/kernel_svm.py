"""A support vector machine with a Gaussian kernel: interior-point method on a low-rank kernel matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RESIDUAL = 1e-6  # largest diagonal element of K - G G^T
FINE_RESIDUAL, LOW_RANK = 1e-10, 64  # up to a rank of 64
GAP = 1e-8  # duality gap, relative to the objective
MAX_STEPS = 80


class NotSolved(ArithmeticError):
    """Raised if the steps do not converge."""


@dataclass(frozen=True)
class KernelSVM:
    """f(x) = sum_j w_j g_j(x) + b, with g(x) the coordinates of x in the span of the pivots' kernel
    functions.

    slack: every offset in [b - slack, b + slack] is optimal; 0 if the optimum is unique.
    """

    pivots: Tensor
    factor: Tensor
    weights: Tensor
    offset: float
    slack: float
    gamma: float

    def decision(self, points: Tensor) -> Tensor:
        """Return f of each point: (m, d) -> (m,), positive on side +1."""
        kernel = _gaussian(self.pivots, points, self.gamma)
        coordinates = torch.linalg.solve_triangular(self.factor, kernel, upper=False)
        return self.weights @ coordinates + self.offset


def fit(points: Tensor, sides: Tensor, bounds: Tensor, gamma: float) -> KernelSVM:
    """Fit a soft-margin machine that separates points of side +1 from points of side -1.

        min_a  a^T Q a / 2 - sum_i a_i    0 <= a_i <= bounds_i,  sum_i sides_i a_i = 0
        Q_ij = sides_i sides_j exp(-gamma |x_i - x_j|^2)

    points (n, d), sides (n,) of +-1, bounds (n,) > 0 (C times the multiplicity of a point), all float64; at
    least one point a side. If every multiplier is at a bound, the offset is the middle of the optimal
    interval, as in libsvm.

    K = G G^T to 1e-10, or 1e-6 beyond a rank of 64 (incomplete Cholesky with pivots); the rank r is about ten
    for one feature and up to a few hundred for a vector of probabilities. A step of the interior-point method
    costs O(n r^2); 15 to 45 steps converge, however much the sides overlap. The decision agrees with libsvm's
    at tolerance 1e-6 to a few thousandths of the margin (libsvm's default tolerance is 1e-3).
    Raises NotSolved. Source: Fine and Scheinberg 2001, JMLR 2:243-264.
    """
    factor, rows = _incomplete_cholesky(points, gamma)
    optimum = _interior_point(factor * sides[:, None], sides, bounds)
    weights = factor.T @ (optimum.a * sides)
    offset, slack = _offset(factor @ weights, optimum, sides, bounds)
    return KernelSVM(points[rows], factor[rows], weights, offset, slack, gamma)


def _gaussian(one: Tensor, other: Tensor, gamma: float) -> Tensor:
    return torch.exp(-gamma * torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square())


def _incomplete_cholesky(points: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return G (n, r) and the pivots' rows; G is lower triangular in these rows."""
    left = torch.ones(len(points), dtype=torch.float64)
    columns = torch.zeros(16, len(points), dtype=torch.float64)
    rows: list[int] = []
    while float(left.max()) > (FINE_RESIDUAL if len(rows) < LOW_RANK else RESIDUAL):
        rank, row = len(rows), int(left.argmax())
        if rank == len(columns):
            columns = torch.cat([columns, torch.zeros_like(columns)])
        column = _gaussian(points, points[row : row + 1], gamma)[:, 0] - columns[:rank, row] @ columns[:rank]
        columns[rank] = column / left[row].sqrt()
        left = (left - columns[rank].square()).clamp(min=0)
        left[row] = 0.0
        rows.append(row)
    return columns[: len(rows)].T.contiguous(), torch.tensor(rows)


class _Point(NamedTuple):
    """Multipliers a, room = bounds - a, the dual variables z of a >= 0 and w of a <= bounds; all positive."""

    a: Tensor
    room: Tensor
    z: Tensor
    w: Tensor

    def moved(self, step: _Point, primal: float, dual: float) -> _Point:
        """Take a step: of length `primal` in a and room, and of length `dual` in z and w."""
        changes = zip(self, step, (primal, primal, dual, dual), strict=True)
        return _Point(*(value + length * change for value, change, length in changes))


def _interior_point(v: Tensor, sides: Tensor, bounds: Tensor) -> _Point:
    """Mehrotra's predictor-corrector method. v (n, r) is a factor of Q, b the multiplier of the equality."""
    here, b = _Point(bounds / 2, bounds / 2, torch.ones_like(bounds), torch.ones_like(bounds)), 0.0
    for _ in range(MAX_STEPS):
        a, room, z, w = here
        image = v.T @ a
        gradient, uneven = v @ image - 1 + b * sides - z + w, float(sides @ a)
        gap, objective = float(z @ a + w @ room), abs(float(image @ image / 2 - a.sum()))
        feasible = float(gradient.abs().max()) < 1e-6 and abs(uneven) < 1e-8 * (1 + float(a.sum()))
        if feasible and gap < GAP * (1 + objective):
            return here
        equations, zero = _Equations(v, z / a + w / room, sides), torch.zeros_like(a)
        ahead, _ = _direction(equations, here, gradient, uneven, zero, zero)
        reached = here.moved(ahead, *_lengths(here, ahead))
        left = float(reached.z @ reached.a + reached.w @ reached.room) / gap
        centred = left**3 * gap / (2 * len(a))
        of_z, of_w = centred - ahead.a * ahead.z, centred - ahead.room * ahead.w
        step, db = _direction(equations, here, gradient, uneven, of_z, of_w)
        length = 0.99 * min(_lengths(here, step))
        here, b = here.moved(step, length, length), b + length * db
    raise NotSolved(f"no optimum after {MAX_STEPS} steps")


def _direction(
    equations: _Equations, here: _Point, gradient: Tensor, uneven: float, of_z: Tensor, of_w: Tensor
) -> tuple[_Point, float]:
    """Return the Newton step towards z a = of_z and w room = of_w, and the step of b."""
    a, room, z, w = here
    da, db = equations.solved(of_z / a - z - of_w / room + w - gradient, uneven)
    return _Point(da, -da, of_z / a - z - z * da / a, of_w / room - w + w * da / room), db


def _lengths(here: _Point, step: _Point) -> tuple[float, float]:
    """Return the largest step lengths <= 1 that keep a and room, and z and w, positive."""
    primal = min(_reach(here.a, step.a), _reach(here.room, step.room))
    return primal, min(_reach(here.z, step.z), _reach(here.w, step.w))


class _Equations:
    """(V V^T + diag(d)) da + sides db = right, sides^T da = -uneven, by Sherman, Morrison and Woodbury."""

    def __init__(self, v: Tensor, diagonal: Tensor, sides: Tensor) -> None:
        self.v, self.diagonal, self.sides = v, diagonal, sides
        self.scaled = v / diagonal[:, None]
        inner = torch.eye(v.shape[1], dtype=torch.float64) + v.T @ self.scaled
        factor, failed = torch.linalg.cholesky_ex(inner)
        if int(failed) or not bool(factor.isfinite().all()):
            raise NotSolved("the Newton equations are singular")
        self.factor = factor
        self.of_sides = self._inverse(sides)

    def _inverse(self, right: Tensor) -> Tensor:
        inner = torch.cholesky_solve((self.v.T @ (right / self.diagonal))[:, None], self.factor)[:, 0]
        return right / self.diagonal - self.scaled @ inner

    def solved(self, right: Tensor, uneven: float) -> tuple[Tensor, float]:
        alone = self._inverse(right)
        db = (float(self.sides @ alone) + uneven) / float(self.sides @ self.of_sides)
        return alone - db * self.of_sides, db


def _reach(value: Tensor, step: Tensor) -> float:
    """Return the largest t <= 1 with value + t step >= 0."""
    down = step < 0
    return min(1.0, float((-value[down] / step[down]).min())) if bool(down.any()) else 1.0


def _offset(scores: Tensor, optimum: _Point, sides: Tensor, bounds: Tensor) -> tuple[float, float]:
    """Return b and its slack.

    The mean over the points with 0 < a < bound; without one, the middle and half the width of the optimal
    interval.
    """
    wanted = sides - scores  # f = sides where a point is between its bounds
    # Complementarity: at the optimum a z = 0 and room w = 0. The relatively larger factor decides which one
    # is 0.
    lower, upper = optimum.a / bounds < optimum.z, optimum.room / bounds < optimum.w
    between = ~upper & ~lower
    if bool(between.any()):
        return float(wanted[between].mean()), 0.0
    at_least = wanted[(upper & (sides < 0)) | (lower & (sides > 0))]
    at_most = wanted[(upper & (sides > 0)) | (lower & (sides < 0))]
    if not len(at_least) or not len(at_most):
        raise NotSolved("every point is at the same bound")
    low, high = float(at_least.max()), float(at_most.min())
    return (low + high) / 2, max(0.0, high - low) / 2
