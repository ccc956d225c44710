"""MIMU's top-K masks, soft, hard and sampled: their sums, their gradients, and roots found by scipy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from lethe.unlearn.mimu.topk import hard_topk, sampled_topk, soft_topk, straight_through, threshold
from tests.mimu_settings import SAMPLERS
from tests.seeded import assert_close, generator, normal


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [1, 50, 300, 599])
@pytest.mark.parametrize(
    "logits",
    [
        normal(3, 600),
        1e4 * normal(3, 600),
        1e4 + normal(3, 600),
        torch.full((3, 600), -1e4),
        torch.zeros(3, 600),
        normal(3, 600).round(),
    ],
    ids=["normal", "spread", "far", "equal and far", "equal", "ties"],
)
def test_soft_topk_sums_to_k(logits, k, tau, dtype, tolerance):
    mask = soft_topk(logits.to(dtype), k, tau)
    assert mask.dtype == dtype
    assert ((mask >= 0) & (mask <= 1)).all()
    assert mask.double().sum(-1).tolist() == pytest.approx([k] * 3, rel=tolerance, abs=tolerance)


@settings(max_examples=60)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=20), st.data())
def test_soft_topk_orders_as_the_logits_do(values, data):
    q = torch.tensor(values, dtype=torch.float64)
    k, tau = data.draw(st.integers(1, len(values))), data.draw(st.sampled_from([0.01, 1.0, 100.0]))
    mask = soft_topk(q, k, tau)
    assert mask.sum().item() == pytest.approx(k, rel=1e-10)
    assert (
        mask[q.argsort()].diff() >= -1e-15
    ).all()  # the last of a row may be rounded otherwise than its equals


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("k", [1, 3, 6, 7])
def test_soft_topk_has_the_gradient_of_its_values(k, tau):
    q = normal(2, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: soft_topk(q, k, tau), (q,))


def test_the_gradient_of_soft_topk_is_zero_where_the_mask_is_hard():
    q = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64).requires_grad_()
    soft_topk(q, 2, 1e-4).square().sum().backward()
    assert q.grad.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_topk_becomes_the_hard_one_as_tau_vanishes(dtype):
    q = normal(4, 50).to(dtype)
    assert torch.equal(soft_topk(q, 13, 1e-8).round(), hard_topk(q, 13))
    assert_close(soft_topk(q, 13, 1e-8), hard_topk(q, 13), atol=1e-5)


def test_soft_topk_becomes_even_as_tau_grows():
    assert_close(
        soft_topk(normal(4, 50), 13, 1e9), torch.full((4, 50), 13 / 50, dtype=torch.float64), atol=1e-7
    )


def test_soft_topk_of_all_is_all():
    q = normal(2, 5).requires_grad_()
    mask = soft_topk(q, 5, 1.0)
    mask.square().sum().backward()
    assert torch.equal(mask, torch.ones(2, 5, dtype=torch.float64))
    assert torch.equal(q.grad, torch.zeros(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("k", [0, -1, 6])
def test_soft_topk_needs_a_k_that_there_is(k):
    with pytest.raises(ValueError, match=rf"soft top-k: expected 0 < k <= 5, got {k}\. "):
        soft_topk(torch.zeros(5), k, 1.0)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_soft_topk_needs_a_positive_tau(tau):
    reason = r"soft top-k: expected tau > 0, got .*Choose a positive temperature"
    with pytest.raises(ValueError, match=reason):
        soft_topk(torch.zeros(5), 2, tau)


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("k", [1, 7, 39])
def test_the_threshold_is_the_root(k, tau):
    q = normal(5, 40)
    for row, t in zip(q, threshold(q, k, tau), strict=True):
        root = brentq(
            lambda t, row=row: torch.sigmoid((row - t) / tau).sum().item() - k, -200, 200, xtol=1e-13
        )
        assert t.item() == pytest.approx(root, abs=1e-8)


def test_equal_scores_go_by_position():
    assert hard_topk(torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0]), 3).tolist() == [1, 1, 1, 0, 0]
    assert hard_topk(torch.zeros(2, 1000), 400).tolist() == [[1] * 400 + [0] * 600] * 2


@given(
    st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf]), min_size=1, max_size=12),
    st.data(),
)
def test_hard_topk_is_a_stable_sort(values, data):
    k = data.draw(st.integers(1, len(values)))
    first = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert hard_topk(torch.tensor(values), k).tolist() == [float(i in first) for i in range(len(values))]


def test_straight_through_is_hard_forward_and_soft_backward():
    q = normal(3, 200, dtype=torch.float32).requires_grad_()
    soft, weights = soft_topk(q, 30, 1.0), normal(3, 200, seed=1, dtype=torch.float32)
    mask = straight_through(soft, hard_topk(q.detach(), 30))
    assert torch.equal(mask, hard_topk(q, 30))  # 0 and 1 to the last bit
    through = torch.autograd.grad((mask * weights).sum(), q, retain_graph=True)
    assert torch.equal(*through, *torch.autograd.grad((soft * weights).sum(), q))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("k", [1, 30, 200])
def test_every_sampler_gives_zeros_and_k_ones(sampler, k):
    mask = sampled_topk(sampler, normal(3, 200, dtype=torch.float32), k, 0.1, generator())
    assert mask.unique().tolist() == ([0.0, 1.0] if k < 200 else [1.0])
    assert mask.sum(-1).tolist() == [k] * 3


def sampled_gradient(sampler, q, k, tau, weights):
    q = q.clone().requires_grad_()
    return torch.autograd.grad((sampled_topk(sampler, q, k, tau, generator(7)) * weights).sum(), q)[0]


def test_sinkhorn_has_the_gradient_of_the_exact_soft_topk():
    q, weights = (
        normal(3, 40),
        normal(3, 40, seed=1),
    )  # the gradient of soft_topk itself passes gradcheck above
    (expected,) = torch.autograd.grad((soft_topk(q.requires_grad_(), 9, 0.5) * weights).sum(), q)
    assert_close(sampled_gradient("sinkhorn", q, 9, 0.5, weights), expected)


def test_the_threshold_sampler_has_the_gradient_of_sigmoids_about_the_kth_value():
    q, weights = normal(3, 40), normal(3, 40, seed=1)
    kth = q.sort(descending=True).values[:, 8:9]
    expected = torch.func.grad(lambda q: (torch.sigmoid((q - kth) / 0.5) * weights).sum())(q)
    assert_close(sampled_gradient("threshold", q, 9, 0.5, weights), expected)


def test_the_gumbel_sampler_draws_without_repetition_in_proportion_to_exp_q():
    """The chance to be among 2 of 3: p_i + sum over j != i of p_j p_i / (1 - p_j)."""
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    draws = sampled_topk("gumbel", p.log().expand(40_000, 3), 2, 0.1, generator())
    among_two = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    assert draws.mean(0).tolist() == pytest.approx(torch.stack(among_two).tolist(), abs=0.01)


def test_the_gumbel_sampler_depends_on_its_generator_alone():
    q = normal(2, 50)
    first, again, other = (sampled_topk("gumbel", q, 10, 0.1, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("k", "tau"), [(0, 0.1), (41, 0.1), (3, 0.0)])
def test_no_sampler_takes_what_makes_no_sense(sampler, k, tau):
    with pytest.raises(ValueError, match="soft top-k: expected"):
        sampled_topk(sampler, normal(2, 40), k, tau, generator())
