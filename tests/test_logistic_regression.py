"""Logistic regression on one feature, beside scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lethe.evaluation.logistic_regression import fit
from lethe.evaluation.membership import regression_decision


def drawn(members, others, scale, shift):
    rng = np.random.default_rng(members)
    return rng.gamma(1, scale, members), rng.gamma(2, scale, others) + shift, rng.gamma(1.5, 2 * scale, 20)


@pytest.mark.parametrize(
    ("members", "others", "scale", "shift"),
    [(200, 50, 0.2, 0), (20, 300, 3, 5), (30, 30, 1e-6, 0), (40, 10, 0.01, 5), (25, 25, 50, 1000)],
)
def test_the_log_odds_are_those_of_scikit_learn_at_its_optimum(members, others, scale, shift):
    *known, asked = drawn(members, others, scale, shift)
    features = np.concatenate(known).reshape(-1, 1)
    solver = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-12, max_iter=1000)
    solver.fit(features, [1] * members + [0] * others)
    ours = regression_decision(*map(torch.tensor, known), torch.tensor(asked)).scores
    assert ours.numpy() == pytest.approx(solver.decision_function(asked.reshape(-1, 1)), abs=1e-6, rel=1e-6)


def test_equal_features_tell_nothing():
    line = fit(
        torch.full((4,), 7.0).double(), torch.tensor([1.0, 1, -1, -1]).double(), torch.ones(4).double()
    )
    assert line == (0.0, 0.0)


def test_sides_that_a_value_parts_have_a_finite_slope():
    feature, sides = torch.tensor([-1.0, 1.0]).double(), torch.tensor([-1.0, 1.0]).double()
    slope, offset = fit(feature, sides, torch.ones(2).double())
    # The derivative at b = 0: a = 2 / (1 + e^a).
    assert slope == pytest.approx(2 / (1 + np.exp(slope))) and offset == pytest.approx(0.0, abs=1e-12)
