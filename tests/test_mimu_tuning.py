"""The answers of MIMU's network, tuned for one kappa: a step by hand, what they gain, what leaves them."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lethe.data import ForgetRequest
from lethe.models import split_at
from lethe.unlearn import ForgetData
from lethe.unlearn.mimu import tuning
from lethe.unlearn.mimu.graph import factors_of
from lethe.unlearn.mimu.network import DEFAULT_OBJECTIVE, learned_network
from lethe.unlearn.mimu.ranking import every_class
from lethe.unlearn.mimu.topk import hard_topk, soft_topk
from lethe.unlearn.mimu.tuning import LR, tuned
from tests.mimu_on_digits import fixture_initial, fixture_model  # noqa: F401 (fixtures)
from tests.mimu_settings import KAPPA, LAYER
from tests.seeded import CPU

OBJECTIVE = replace(DEFAULT_OBJECTIVE, kappa=KAPPA)


@pytest.fixture(name="data")
def fixture_data(digits):
    return ForgetData.of(digits, ForgetRequest((3,)))


@pytest.fixture(name="layer")
def fixture_layer(model):
    return split_at(model, LAYER, torch.zeros(2, 1, 8, 8))


@pytest.fixture(name="factors")
def fixture_factors(layer, data):
    return factors_of(layer, data.train, "margin", CPU)


@pytest.fixture(name="q")
def fixture_q():
    return torch.randn(10, 640, generator=torch.Generator().manual_seed(0))


def test_the_first_step_of_adam_goes_against_the_gradient_of_the_objective(
    q, layer, factors, data, monkeypatch
):
    """By LR in every entry that has a gradient: L_drop written out, class by class, on the drawn images."""
    drawn = []
    draw = tuning._drawn
    monkeypatch.setattr(tuning, "PASSES", 1)
    monkeypatch.setattr(tuning, "_drawn", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    centred = q - q.mean(1, keepdim=True)
    start = (centred / every_class(centred).std(1).mean()).requires_grad_(True)
    after = tuned(q, layer, factors, OBJECTIVE, 256, data)
    (rows,) = drawn
    h, y = factors.h[rows], factors.labels[rows]
    loss = 0.0
    for c in range(10):
        score = start[c] - start[[other for other in range(10) if other != c]].mean(0)
        soft, hard = soft_topk(score, KAPPA, 0.1), hard_topk(score.detach(), KAPPA)
        mask = 1 - (hard + soft - soft.detach())
        log_p = layer.head(F.linear(h, layer.weight * mask.view(20, 32)), None).log_softmax(1)
        own = y == c
        loss = loss - torch.log1p(-log_p[own, c].exp()).mean() + 4.0 * F.nll_loss(log_p[~own], y[~own])
    (gradient,) = torch.autograd.grad(loss, start)
    clear = gradient.abs() > 1e-4 * gradient.abs().max()
    moved = (after - start.detach())[clear]
    assert clear.float().mean() > 0.5
    assert torch.allclose(moved, -LR * gradient[clear].sign(), atol=1e-4)


def test_a_step_draws_images_of_its_classes_and_of_all():
    labels = torch.arange(100) % 20
    rows = tuning._drawn(labels, torch.tensor([3, 7]), 40, torch.Generator().manual_seed(0))
    assert len(rows) == 40
    assert set(labels[rows[:10]].tolist()) == {3, 7}
    assert len(set(labels[rows].tolist())) > 10


def test_tuned_answers_lower_the_objective(layer, factors, data, q):
    def loss(answers):
        draws = torch.Generator()
        return tuning._loss(every_class(answers), torch.arange(10), layer, factors, OBJECTIVE, draws).item()

    assert loss(tuned(q, layer, factors, OBJECTIVE, 256, data)) < 0.5 * loss(q)


@pytest.mark.parametrize(
    ("objective", "rows"), [(replace(OBJECTIVE, contrast=0.0), 10), (OBJECTIVE, 1)], ids=["paper", "one"]
)
def test_the_papers_objective_and_a_single_class_leave_the_answers(objective, rows, q, layer, factors, data):
    assert torch.equal(tuned(q[:rows], layer, factors, objective, 256, data), q[:rows])


def test_the_network_that_comes_with_lethe_is_tuned_for_each_kappa_and_kept(model, layer, data):
    first, second = (
        learned_network(model, layer, data, replace(OBJECTIVE, kappa=kappa)) for kappa in (60, 30)
    )
    plain = learned_network(model, layer, data)
    again = learned_network(model, layer, data, OBJECTIVE)
    assert (first.cached, second.cached, plain.cached, again.cached) == (False, False, False, True)
    assert torch.equal(first.by_class[3], again.by_class[3])
    assert not torch.equal(first.by_class[3], second.by_class[3])
