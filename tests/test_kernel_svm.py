"""The attacks' support vector machine, against scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

from lethe.evaluation import interior_point, kernel_svm
from lethe.evaluation.interior_point import minimum
from lethe.evaluation.kernel_space import LOW_RANK, RESIDUAL, KernelSpace
from lethe.evaluation.membership import called_non_member, member_scores, non_member_share

FEATURES = {
    "sigmoids": lambda draw, mean, n: 1 / (1 + np.exp(-draw.normal(mean, 4, n))),
    "saturated": lambda draw, mean, n: 1 / (1 + np.exp(-draw.normal(25 + mean, 3, n))),
    "bits": lambda draw, mean, n: (draw.random(n) < 0.6 + mean / 20).astype(float),
    "long tails": lambda draw, mean, n: draw.exponential(0.02 + 0.2 / mean, n),
    "ties": lambda draw, mean, n: np.round(draw.random(n) * mean, 1),
    "apart": lambda draw, mean, n: draw.normal(100 * mean, 1, n),
    "probabilities": lambda draw, mean, n: draw.dirichlet(np.full(10, 0.05 * mean), n),
    "many classes": lambda draw, mean, n: draw.dirichlet(np.full(100, 0.005 * mean), n),
    "equal": lambda draw, mean, n: np.ones(n),
}


def sets(kind, seed):
    draw = np.random.default_rng(seed)
    return [torch.tensor(FEATURES[kind](draw, mean, draw.integers(10, 120))) for mean in (6.0, 4.0, 5.0)]


def of_scikit_learn(members, non_members, target, **options):
    known = torch.cat([members, non_members]).reshape(len(members) + len(non_members), -1).numpy()
    attack = SVC(C=3, kernel="rbf", gamma="auto", **options).fit(
        known, [1] * len(members) + [0] * len(non_members)
    )
    return attack.decision_function(target.reshape(len(target), -1).numpy())


@pytest.mark.parametrize("kind", FEATURES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_the_decision_is_scikit_learns(kind, seed):
    members, non_members, target = sets(kind, seed)
    expected = of_scikit_learn(members, non_members, target, tol=1e-7)
    scores = member_scores(members, non_members, target).numpy()

    np.testing.assert_allclose(scores, expected, atol=0.02)
    sure = np.abs(expected) > 0.02
    assert ((scores > 0) == (expected > 0))[sure].all()


def test_thousands_of_overlapping_images_have_scikit_learns_share():
    draw = np.random.default_rng(0)
    members, non_members, target = (
        torch.tensor(1 / (1 + np.exp(-draw.normal(mean, 4, 3000)))) for mean in (6, 4, 5)
    )
    expected = 100 * (of_scikit_learn(members, non_members, target, cache_size=500) < 0).mean()

    assert non_member_share(members, non_members, target) == pytest.approx(expected, abs=0.2)


def two_sides(draw, count=60):
    """Points of the plane whose sides overlap."""
    points = torch.randn(count, 2, dtype=torch.float64, generator=draw)
    noise = torch.randn(count, dtype=torch.float64, generator=draw)
    return points, torch.where(points[:, 0] + 0.5 * noise > 0, 1.0, -1.0).double()


def test_the_coordinates_have_the_kernel_as_their_products():
    points, _ = two_sides(torch.Generator().manual_seed(0))
    space = KernelSpace.of(points, 0.5)
    kernel = torch.exp(-0.5 * (points[:, None] - points[None]).square().sum(2))

    torch.testing.assert_close(space.coordinates @ space.coordinates.T, kernel, atol=1e-8, rtol=0)
    torch.testing.assert_close(space.coordinates_of(points), space.coordinates, atol=1e-8, rtol=0)
    assert (
        (space.pivots[space.nearest] - points)
        .norm(dim=1)
        .le(torch.cdist(points, space.pivots).T + 1e-12)
        .all()
    )


def test_coordinates_of_thousands_of_scattered_points_leave_little_of_each():
    """More points than pivots are sought among, and a rank beyond that of the finer residual."""
    points = torch.rand(3000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    space = KernelSpace.of(points, 1.0)

    assert len(space.pivots) > LOW_RANK
    assert float((1 - space.coordinates.square().sum(1)).max()) <= RESIDUAL + 1e-12


def test_the_multipliers_meet_the_conditions_of_the_optimum():
    """0 <= a <= C, s a = 0; at a bound a point is on the side of its margin that the bound says, between them
    it is on the margin.
    """
    points, sides = two_sides(torch.Generator().manual_seed(0))
    coordinates = KernelSpace.of(points, 0.5).coordinates
    bounds, v = torch.full((60,), 3.0, dtype=torch.float64), coordinates * sides[:, None]
    optimum = minimum(v, sides, bounds, torch.zeros(v.shape[1], dtype=torch.float64), 0.0, 1e-9)
    a = optimum.a
    margin = v @ (a @ v) + sides * optimum.offset

    assert float(a.min()) >= 0 and float(a.max()) <= 3 and abs(float(a @ sides)) < 1e-6
    assert float(margin[a < 1e-5].min()) > 1 - 1e-3
    assert float(margin[a > 3 - 1e-5].max()) < 1 + 1e-3
    between = (a > 1e-3) & (a < 2.999)
    torch.testing.assert_close(margin[between], torch.ones_like(margin[between]), atol=1e-4, rtol=0)


def loss(machine, coordinates, sides, cost):
    margins = sides * machine.decision(coordinates)
    return float(machine.weights.square().sum()) / 2 + cost * float((1 - margins).clamp(min=0).sum())


def test_groups_of_points_change_nothing():
    """The machine is that of single points: one group for each, of which none needs to be divided."""
    points, sides = two_sides(torch.Generator().manual_seed(0), 400)
    space, rows = KernelSpace.of(points, 0.5), torch.arange(400)
    grouped, alone = kernel_svm.Trainer(space, sides, 3.0), kernel_svm.Trainer(space, sides, 3.0)
    alone.groups = rows
    one, other = grouped.fit(rows), alone.fit(rows)

    assert int(grouped.groups.max()) < 200
    torch.testing.assert_close(
        one.decision(space.coordinates), other.decision(space.coordinates), atol=1e-3, rtol=0
    )
    assert loss(one, space.coordinates, sides, 3.0) == pytest.approx(
        loss(other, space.coordinates, sides, 3.0), rel=1e-7
    )


def test_a_machine_does_not_depend_on_those_that_were_trained_before():
    points, sides = two_sides(torch.Generator().manual_seed(0))
    space = KernelSpace.of(points, 0.5)
    first, second = torch.arange(0, 40), torch.arange(20, 60)
    trainer = kernel_svm.Trainer(space, sides, 3.0)
    trainer.fit(first)
    after, fresh = trainer.fit(second), kernel_svm.Trainer(space, sides, 3.0).fit(second)

    torch.testing.assert_close(
        after.decision(space.coordinates), fresh.decision(space.coordinates), atol=1e-3, rtol=0
    )


def test_without_a_point_between_the_bounds_the_offset_is_the_middle_of_what_is_optimal():
    members, non_members, target = torch.tensor([0.0] * 12), torch.tensor([0.0] * 20), torch.tensor([0.0])
    assert float(member_scores(members, non_members, target)) == pytest.approx(
        float(of_scikit_learn(members, non_members, target)[0])
    )


def test_a_tie_is_called_member():
    same = torch.ones(20)
    assert member_scores(same, same, same).tolist() == [0.0] * 20
    assert called_non_member(torch.tensor([0.0, 1.0, -1.0, 2.0, -1e-5])) == 40.0


def test_what_is_not_solved_goes_to_libsvm(monkeypatch):
    members, non_members, target = sets("sigmoids", 3)
    expected = member_scores(members, non_members, target)
    monkeypatch.setattr(interior_point, "MAX_STEPS", 1)
    points, sides = two_sides(torch.Generator().manual_seed(0))
    with pytest.raises(interior_point.NotSolved, match="no optimum after 1 steps"):
        kernel_svm.Trainer(KernelSpace.of(points, 0.5), sides, 3.0).fit(torch.arange(60))

    torch.testing.assert_close(member_scores(members, non_members, target), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_feature_that_is_not_finite_is_refused(where, bad):
    some = [torch.rand(20) for _ in range(3)]
    some[where][3] = bad
    with pytest.raises(ValueError, match="expected finite features, got NaN or infinity for 1 of"):
        non_member_share(*some)
