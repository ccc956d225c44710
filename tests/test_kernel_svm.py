"""The attacks' support vector machine, against scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

from lethe.evaluation import kernel_svm
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


def test_the_multipliers_meet_the_conditions_of_the_optimum():
    """0 <= a <= C, s a = 0; at a bound a point is on the side of its margin that the bound says, between them
    it is on the margin.
    """
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(60, 2, dtype=torch.float64, generator=draw)
    sides = torch.where(
        points[:, 0] + 0.5 * torch.randn(60, dtype=torch.float64, generator=draw) > 0, 1.0, -1.0
    ).double()
    bounds = torch.full((60,), 3.0, dtype=torch.float64)
    factor, _ = kernel_svm._incomplete_cholesky(points, 0.5)
    a = kernel_svm._interior_point(factor * sides[:, None], sides, bounds).a
    margin = sides * kernel_svm.fit(points, sides, bounds, 0.5).decision(points)

    torch.testing.assert_close(
        factor @ factor.T, kernel_svm._gaussian(points, points, 0.5), atol=1e-8, rtol=0
    )
    assert float(a.min()) >= 0 and float(a.max()) <= 3 and abs(float(a @ sides)) < 1e-6
    assert float(margin[a < 1e-5].min()) > 1 - 1e-3
    assert float(margin[a > 3 - 1e-5].max()) < 1 + 1e-3
    torch.testing.assert_close(
        margin[(a > 1e-3) & (a < 2.999)],
        torch.ones(1, dtype=torch.float64).expand_as(margin[(a > 1e-3) & (a < 2.999)]),
        atol=1e-4,
        rtol=0,
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
    monkeypatch.setattr(kernel_svm, "MAX_STEPS", 1)
    with pytest.raises(kernel_svm.NotSolved):
        kernel_svm.fit(torch.rand(30, 1).double(), torch.ones(30).double(), torch.ones(30).double(), 1.0)

    torch.testing.assert_close(member_scores(members, non_members, target), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_feature_that_is_not_finite_is_refused(where, bad):
    some = [torch.rand(20) for _ in range(3)]
    some[where][3] = bad
    with pytest.raises(ValueError, match="expected finite features, got NaN or infinity for 1 of"):
        non_member_share(*some)
