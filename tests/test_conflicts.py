"""PCGrad, GDR, GDR_GMA, MUNBa: steps by hand, and what each promises of both objectives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.unlearn import METHODS, resolved, unlearn
from lethe.unlearn.add_ons import ADD_ONS, Step
from tests.numbered_images import noise_data
from tests.test_add_ons import tiny_model

numbers = st.one_of(st.floats(-1e3, 1e3), st.floats(-1e-3, 1e-3), st.just(0.0))
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6)
betas = st.floats(0.01, 0.99)


def tensors(*rows):
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def step(g_u, g_c, beta=0.5, retain_loss=0.0):
    return Step(tensors(*g_u), tensors(*g_c), beta, list, torch.tensor(retain_loss, dtype=torch.float64))


def opposed(of_pairs):
    g_u, g_c = zip(*of_pairs, strict=True)
    return step([g_u], [g_c])


def inner(one, other):
    return sum((a * b).sum() for a, b in zip(one, other, strict=True)).item()


def values(gradients):
    return [g.tolist() for g in gradients]


def test_pcgrad_takes_both_parts_from_the_originals():
    """g_c' = (.5, .5, 0), g_u' = (0, 1, 0); from a rectified g_c, g_u' would be (-.5, 1.5, 0)."""
    rule = ADD_ONS["PCGrad"]()
    assert values(rule(step([[-1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]], beta=0.75))) == [[0.375, 0.625, 0.0]]


@pytest.mark.parametrize("name", ["PCGrad", "GDR"])
def test_without_a_conflict_it_is_the_plain_step(name):
    one = step([[1.0, 2.0], [3.0]], [[2.0, -1.0], [0.0]], beta=0.25)
    assert values(ADD_ONS[name]()(one)) == values(one.direction)


def test_pcgrad_is_over_all_tensors_and_gdr_over_each():
    one = step([[1.0], [2.0]], [[-1.0], [1.0]])
    assert values(ADD_ONS["PCGrad"]()(one)) == [[0.0], [1.5]]  # <g_u, g_c> is 1: no conflict
    assert values(ADD_ONS["GDR"]()(one)) == [[0.0], [1.5]]  # the first is of opposite gradients
    other = step([[1.0], [1.0]], [[-2.0], [1.0]])
    assert values(ADD_ONS["PCGrad"]()(other)) != values(ADD_ONS["GDR"]()(other)) == [[0.0], [1.0]]


@pytest.mark.parametrize("name", ["PCGrad", "GDR"])
@settings(max_examples=100, deadline=None)
@given(of_pairs=pairs, beta=betas)
def test_a_conflict_leaves_of_each_gradient_what_the_other_does_not_oppose(name, of_pairs, beta):
    """<d, g_c> = beta |g_c|^2 sin^2 and <d, g_u> = (1 - beta) |g_u|^2 sin^2 where they are opposed."""
    g_u, g_c = (tensors(side) for side in zip(*of_pairs, strict=True))
    one = Step(g_u, g_c, beta, list, torch.zeros(()))
    d = ADD_ONS[name]()(one)
    uu, cc, uc = inner(g_u, g_u), inner(g_c, g_c), inner(g_u, g_c)
    noise = 1e-9 * (uu + cc)
    if uc < 0 and uu * cc > 1e-200:
        sine = 1 - uc / uu * uc / cc
        assert inner(d, g_c) == pytest.approx(beta * cc * sine, abs=noise)
        assert inner(d, g_u) == pytest.approx((1 - beta) * uu * sine, abs=noise)
    assert inner(d, g_c) >= -noise
    assert inner(d, g_u) >= -noise


def test_gma_weighs_by_the_retain_loss():
    rule = ADD_ONS["GDR_GMA"]()
    at_level, above = (rule(step([[1.0, 0.0]], [[0.0, 1.0]], retain_loss=loss)) for loss in (0.02, 0.1))
    assert values(at_level) == [[0.5, 0.5]]
    assert above[0][0].item() == pytest.approx(1 / (1 + math.exp(8)))
    assert above[0].sum().item() == pytest.approx(1)
    sharp = ADD_ONS["GDR_GMA"](gma_level=0.3, gma_sharpness=10.0)
    found = sharp(step([[1.0, 0.0]], [[0.0, 1.0]], retain_loss=0.2))
    assert found[0][0].item() == pytest.approx(1 / (1 + math.exp(-1)))


@settings(max_examples=100, deadline=None)
@given(of_pairs=pairs)
def test_munba_is_the_bisector_whatever_the_lengths(of_pairs):
    one = opposed(of_pairs)
    uu, cc = inner(one.unlearn, one.unlearn), inner(one.retain, one.retain)
    uc = inner(one.unlearn, one.retain)
    if uu * cc < 1e-40 or 1 + uc / math.sqrt(uu * cc) < 1e-6:
        return
    d = ADD_ONS["MUNBa"]()(one)
    root = math.sqrt(1 + uc / math.sqrt(uu * cc))
    assert inner(d, d) == pytest.approx(2)
    assert inner(d, one.retain) == pytest.approx(math.sqrt(cc) * root)  # 1 / a_c
    assert inner(d, one.unlearn) == pytest.approx(math.sqrt(uu) * root)
    longer = Step([10 * g for g in one.unlearn], one.retain, 0.5, list, torch.zeros(()))
    torch.testing.assert_close(ADD_ONS["MUNBa"]()(longer), d)


@pytest.mark.parametrize(
    ("g_u", "expected"), [([-2.0, 0.0], [0.8, 0.0]), ([0.0, 0.0], [1.0, 0.0]), ([0.0, 2.0], [1.0, 1.0])]
)
def test_munba_without_an_agreement_and_with_orthogonal_gradients(g_u, expected):
    assert values(ADD_ONS["MUNBa"]()(step([g_u], [[1.0, 0.0]])))[0] == pytest.approx(expected)


@pytest.mark.parametrize("addon", ["GDR_GMA", "MUNBa"])
def test_a_beta_that_the_add_on_does_not_use_is_refused(addon):
    data, model = noise_data([0, 4, 5], 12, 3), tiny_model()
    reason = rf"--beta: {addon} weighs the gradients itself, got 0\.5\. Leave the flag out"
    for name in ("NGPlus", "SRL", "SCRUB"):
        with pytest.raises(ValueError, match=reason):
            resolved(name, model, data, {"addon": addon, "beta": 0.5})
    assert "beta" not in METHODS["MUNBa"].hyperparameters | METHODS["GDR_GMA"].hyperparameters


def test_the_retain_loss_of_a_step_is_that_of_its_batch():
    """At a level far above it both methods are the plain ascent, far below the plain descent."""
    data, model = noise_data([0, 4, 5], 12, 3), tiny_model()
    found = {}
    for level in (0.0, 1e3):
        one = unlearn("GDR_GMA", model, data, unlearn_epochs=1, gma_level=level, unlearn_lr=0.01)
        found[level] = [
            p.sub(q).sign() for p, q in zip(one.model.parameters(), model.parameters(), strict=True)
        ]
    x, y = next(data.retain.batches(100))
    descent = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    assert all(torch.equal(moved, -g.sign()) for moved, g in zip(found[0.0], descent, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0.0], found[1e3], strict=True))
