"""A support vector machine with a Gaussian kernel, exact, solved on groups of points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.evaluation.interior_point import NotSolved, minimum
from lethe.evaluation.kernel_space import KernelSpace

GAP = 1e-8  # duality gap of all points, relative to the objective
PIECES = 8  # of a group that is divided
FIRST_GAP = 1e-5  # of the first round's groups
MAX_ROUNDS = 30


@dataclass(frozen=True, eq=False)
class KernelSVM:
    """f(x) = w^T g(x) + b, with g(x) the coordinates of x in a KernelSpace.

    slack: every offset in [b - slack, b + slack] is optimal; 0 if the optimum is unique.
    """

    weights: Tensor
    offset: float
    slack: float

    def decision(self, coordinates: Tensor) -> Tensor:
        """Return f of points whose coordinates are given: (m, r) -> (m,), positive on side +1."""
        return coordinates @ self.weights + self.offset


class Trainer:
    """Trains soft-margin machines, each on some points of a space.

        min_(w,b)  |w|^2 / 2 + cost sum_i max(0, 1 - s_i (w^T g_i + b))    i among the chosen rows

    sides s (n,): 1 or -1 of each point, float64.

    Points of a group enter as their mean, which is exact for a group on one side of its margin: there the sum
    of losses is linear. A group across its margin, whose mean hides losses, is divided, until the duality gap
    of all points is small. Most points are far from their margin, so that a few hundred groups do.
    """

    def __init__(self, space: KernelSpace, sides: Tensor, cost: float) -> None:
        self.sides, self.cost = sides, cost
        self.points = space.coordinates * sides[:, None]
        self.groups = (2 * space.nearest + (sides > 0)).unique(return_inverse=True)[1]

    def fit(self, rows: Tensor) -> KernelSVM:
        """Train a machine on the points in rows (k,), at least one a side.

        If every multiplier is at its bound, the offset is the middle of the optimal interval, as in libsvm.
        Begins with the groups that the last machine took. Raises NotSolved.
        """
        points, sides = self.points[rows], self.sides[rows]
        beyond = torch.zeros_like(sides)  # of each point its margin; negative with a loss
        moved = torch.full_like(sides, math.inf)  # by the last round
        gap = FIRST_GAP
        for _ in range(MAX_ROUNDS):
            known = _Groups(points, sides, self.groups[rows], self.cost)
            found = _solved(known, beyond, moved, gap)
            weights = found.a @ known.means
            now = points @ weights + found.offset * sides - 1
            losses, hidden = known.losses(now)
            square, multipliers = float(weights @ weights), float(found.a.sum())
            objective = 1 + abs(square / 2 - multipliers)
            left = (square + self.cost * float(losses.sum()) - multipliers) / objective
            if left < GAP:
                return KernelSVM(weights, *_offset(known, found, weights))
            self._divide(known.present[self.cost * hidden > GAP * objective / (2 * known.count)], weights)
            beyond, moved = now, (now - beyond).abs()
            gap = min(gap, max(GAP / 2, left / 1000))
        raise NotSolved(f"no optimum after {MAX_ROUNDS} rounds")

    def _divide(self, across: Tensor, weights: Tensor) -> None:
        """Divide the groups `across` into PIECES of about as many points each, in the order of w^T g."""
        count = int(self.groups.max()) + 1
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[across] = True
        rows = chosen[self.groups].nonzero().flatten()
        rows = rows[(self.points[rows] @ weights).argsort()]
        rows = rows[self.groups[rows].argsort(stable=True)]
        own = self.groups[rows]
        size = torch.bincount(own, minlength=count)
        place = torch.arange(len(rows)) - (size.cumsum(0) - size)[own]
        pieces = PIECES * self.groups
        pieces[rows] += PIECES * place // size[own]
        self.groups = pieces.unique(return_inverse=True)[1]


class _Groups:
    """The means, sides, sizes and bounds of groups of points.

    present: the groups' own numbers; of_points (k,): the place of each point's group among them.
    """

    def __init__(self, points: Tensor, sides: Tensor, groups: Tensor, cost: float) -> None:
        self.points, self.point_sides = points, sides
        self.present, self.of_points = groups.unique(return_inverse=True)
        self.count = len(self.present)
        self.sizes = torch.bincount(self.of_points).double()
        self.bounds = cost * self.sizes
        total = torch.zeros(self.count, self.points.shape[1], dtype=torch.float64)
        self.means = total.index_add_(0, self.of_points, self.points) / self.sizes[:, None]
        self.sides = torch.zeros(self.count, dtype=torch.float64)
        self.sides[self.of_points] = sides

    def summed(self, values: Tensor) -> Tensor:
        return torch.zeros(self.count, dtype=torch.float64).index_add_(0, self.of_points, values)

    def ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest of its points' values for each group."""
        none = torch.zeros(self.count, dtype=torch.float64)
        return (
            none.scatter_reduce(0, self.of_points, values, "amin", include_self=False),
            none.scatter_reduce(0, self.of_points, values, "amax", include_self=False),
        )

    def losses(self, beyond: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of each group's points, and how much of them their mean hides."""
        of_points = self.summed((-beyond).clamp(min=0))
        of_mean = (-self.summed(beyond)).clamp(min=0)
        return of_points, of_points - of_mean


@dataclass(frozen=True, eq=False)
class _Multipliers:
    """Of each group: its multiplier, and whether it is at 0 or at its bound; and the offset."""

    a: Tensor
    at_zero: Tensor
    at_bound: Tensor
    offset: float


def _solved(known: _Groups, beyond: Tensor, moved: Tensor, gap: float) -> _Multipliers:
    """Solve for the groups that may be across their margin, and hold the others at 0 or their bound.

    Those are held of which every point is farther from its margin than twice what it has moved. A group that
    is held wrongly has a hidden loss in the next round.
    """
    at_zero = known.ends(beyond - 2 * moved)[0] > 0
    at_bound = known.ends(beyond + 2 * moved)[1] < 0
    try:
        return _held(known, at_zero, at_bound, gap)
    except NotSolved:  # what is held may leave no point for the others
        nothing = torch.zeros_like(at_zero)
        return _held(known, nothing, nothing.clone(), gap)


def _held(known: _Groups, at_zero: Tensor, at_bound: Tensor, gap: float) -> _Multipliers:
    """Solve for the groups that are neither `at_zero` nor `at_bound`."""
    a = torch.where(at_bound, known.bounds, 0.0)
    free = ~(at_zero | at_bound)
    bounds, sides = known.bounds[free], known.sides[free]
    optimum = minimum(known.means[free], sides, bounds, a @ known.means, float(known.sides @ a), gap)
    own, room, z, w = optimum.point
    a[free] = own
    # At the optimum a z = 0 and room w = 0. The relatively larger factor decides which one is 0.
    at_zero[free], at_bound[free] = own / bounds < z, room / bounds < w
    return _Multipliers(a, at_zero, at_bound, optimum.offset)


def _offset(known: _Groups, found: _Multipliers, weights: Tensor) -> tuple[float, float]:
    """Return b and its slack.

    The mean over the groups with 0 < a < bound; without one, the middle and half the width of the optimal
    interval, which the points end.
    """
    between = ~(found.at_zero | found.at_bound)
    if bool(between.any()):
        wanted = known.sides - known.sides * (known.means @ weights)  # f = sides there
        return float(wanted[between].mean()), 0.0
    sides = known.point_sides
    wanted = sides - sides * (known.points @ weights)
    lower, upper = found.at_zero[known.of_points], found.at_bound[known.of_points]
    at_least = wanted[(upper & (sides < 0)) | (lower & (sides > 0))]
    at_most = wanted[(upper & (sides > 0)) | (lower & (sides < 0))]
    if not len(at_least) or not len(at_most):
        raise NotSolved("every point is at the same bound")
    low, high = float(at_least.max()), float(at_most.min())
    return (low + high) / 2, max(0.0, high - low) / 2
