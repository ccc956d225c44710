"""Points as vectors of a low dimension whose products are their Gaussian kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RESIDUAL = 1e-6  # largest diagonal element of K - G G^T
FINE_RESIDUAL, LOW_RANK = 1e-10, 64  # up to a rank of 64
CANDIDATES = 500  # points among which the next pivots are sought
BLOCK = 1024  # points at once: their kernel fits the processor's cache


@dataclass(frozen=True, eq=False)
class KernelSpace:
    """The span of some points' kernel functions, with an orthonormal basis.

        g(x) = L^-1 k(x),  k(x)_j = exp(-gamma |x - p_j|^2),  L L^T = k(p)

    pivots p (r, d), factor L (r, r). coordinates (n, r): g of the points that it was made for; nearest (n,)
    int64: the pivot next to each.
    """

    pivots: Tensor
    factor: Tensor
    gamma: float
    coordinates: Tensor
    nearest: Tensor

    @classmethod
    def of(cls, points: Tensor, gamma: float) -> KernelSpace:
        """Make the space of points (n, d), float64.

        K = G G^T to 1e-10, or 1e-6 beyond a rank of 64, with G the coordinates. Incomplete Cholesky with
        pivots (Fine and Scheinberg 2001, JMLR 2:243-264), which are sought among some of the points; those
        that these pivots don't explain give the next ones.
        """
        known = _Located.nothing(points)
        rows = torch.empty(0, dtype=torch.int64)
        while len(unexplained := (known.left > _residual(len(rows))).nonzero().flatten()):
            some = unexplained[:: -(-len(unexplained) // CANDIDATES)]
            chosen = some[_pivots(points[some], known.coordinates[some], known.left[some], gamma)]
            known = known.extended(points, chosen, gamma)
            rows = torch.cat([rows, chosen])
        factor = known.coordinates[rows].tril()
        return cls(points[rows], factor, gamma, known.coordinates, known.nearest)

    def coordinates_of(self, points: Tensor) -> Tensor:
        """Return g of each point: (m, d) -> (m, r)."""
        kernel = _gaussian(self.pivots, points, self.gamma)
        return torch.linalg.solve_triangular(self.factor, kernel, upper=False).T


@dataclass(frozen=True, eq=False)
class _Located:
    """What the pivots so far say of each point: its coordinates (n, r), what they leave of |g|^2 = 1, the
    nearest pivot, and the kernel with that.
    """

    coordinates: Tensor
    left: Tensor
    nearest: Tensor
    closest: Tensor

    @classmethod
    def nothing(cls, points: Tensor) -> _Located:
        one = torch.ones(len(points), dtype=torch.float64)
        empty = torch.empty(len(points), 0, dtype=torch.float64)
        return cls(empty, one, torch.zeros(len(points), dtype=torch.int64), -one)

    def extended(self, points: Tensor, chosen: Tensor, gamma: float) -> _Located:
        """Return the same with more pivots: the points in the rows `chosen`."""
        pivots, known = points[chosen], self.coordinates[chosen]
        own = torch.linalg.cholesky(_gaussian(pivots, pivots, gamma) - known @ known.T)
        rank = known.shape[1]
        coordinates = torch.empty(len(points), rank + len(chosen), dtype=torch.float64)
        left, nearest, closest = self.left.clone(), self.nearest.clone(), self.closest.clone()
        for start in range(0, len(points), BLOCK):
            part = slice(start, start + BLOCK)
            kernel = _gaussian(pivots, points[part], gamma)
            value, which = kernel.max(dim=0)
            nearest[part] = torch.where(value > closest[part], which + rank, nearest[part])
            closest[part] = torch.maximum(value, closest[part])
            kernel -= known @ self.coordinates[part].T
            added = torch.linalg.solve_triangular(own, kernel, upper=False)
            left[part] -= added.square().sum(dim=0)
            coordinates[part, :rank] = self.coordinates[part]
            coordinates[part, rank:] = added.T
        left[chosen] = 0.0
        return _Located(coordinates, left, nearest, closest)


def _residual(rank: int) -> float:
    return FINE_RESIDUAL if rank < LOW_RANK else RESIDUAL


def _gaussian(one: Tensor, other: Tensor, gamma: float) -> Tensor:
    distance = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square_().mul_(-gamma).exp_()


def _pivots(points: Tensor, known: Tensor, left: Tensor, gamma: float) -> list[int]:
    """Return the rows that explain all of these points, the least explained first.

    known (m, r): coordinates of the points so far. left (m,): what those leave of |g(x)|^2 = 1.
    """
    rank = known.shape[1]
    kernel = _gaussian(points, points, gamma) - known @ known.T
    columns = torch.empty(len(points), len(points), dtype=torch.float64)
    rows: list[int] = []
    left = left.clone()
    while float(left.max()) > _residual(rank + len(rows)):
        found, row = len(rows), int(left.argmax())
        column = kernel[row] - columns[:found, row] @ columns[:found]
        columns[found] = column / left[row].sqrt()
        left = (left - columns[found].square()).clamp(min=0)
        left[row] = 0.0
        rows.append(row)
    return rows
