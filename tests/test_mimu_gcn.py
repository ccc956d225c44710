"""MIMU's network against message passing over an edge list, and its gradients against autograd."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.unlearn.mimu.gcn import MaskingGCN, RookConv
from tests.message_passing import EdgeConv, logits_by_messages, rook_edges
from tests.seeded import assert_close, generator, normal, seeded


def brute_force_edges(m, n):
    """Every ordered pair of weights that share a row or a column."""
    board = list(itertools.product(range(m), range(n)))
    return {
        (a * n + b, c * n + d) for a, b in board for c, d in board if (a, b) != (c, d) and (a == c or b == d)
    }


SHAPES = [(1, 1), (1, 6), (6, 1), (2, 2), (3, 5), (7, 4)]


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_rook_edges_join_rows_and_columns_once(m, n):
    edges = rook_edges(m, n)
    pairs = [tuple(pair) for pair in edges.T.tolist()]
    assert edges.shape == (2, m * n * (m + n - 2))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == brute_force_edges(m, n)


def message_passing(conv, x):
    """RookConv over a list of edges that is written down by brute force: x (m, n, d) -> (m, n, width)."""
    m, n, d = x.shape
    edges = torch.tensor(sorted(brute_force_edges(m, n)), dtype=torch.long).reshape(-1, 2).T
    return EdgeConv(conv)(x.reshape(m * n, d), edges).view(m, n, -1)


@pytest.mark.parametrize(("m", "n"), [(1, 5), (4, 3), (6, 9)])
def test_the_closed_form_is_what_messages_along_the_edges_give(m, n):
    gcn = seeded(MaskingGCN).double()
    x = normal(m, n, 4)
    assert_close(gcn(x), logits_by_messages(gcn, x.flatten(0, 1), rook_edges(m, n)))


@pytest.mark.parametrize(("m", "n"), [*SHAPES, (9, 13)])
def test_the_closed_form_is_message_passing(m, n):
    conv = seeded(lambda: RookConv(4, 6)).double()
    x = normal(m, n, 4)
    assert_close(conv(x), message_passing(conv, x))


def network_by_message_passing(gcn, x):
    """The logits (m n,) of one graph (m, n, 4)."""
    x = message_passing(gcn.rounds[0], x)
    x = message_passing(gcn.rounds[1], x).relu()
    x = message_passing(gcn.rounds[2], x).relu()
    return gcn.logit(x).flatten()


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5)])
def test_the_closed_form_has_the_gradients_of_message_passing(m, n):
    conv = seeded(lambda: RookConv(4, 6)).double()
    x, out = normal(2, m, n, 4).requires_grad_(), normal(2, m, n, 6, seed=1)
    slow = torch.stack([message_passing(conv, graph) for graph in x])
    leaves = [x, *conv.parameters()]
    fast = torch.autograd.grad((conv(x) * out).sum(), leaves)
    for ours, theirs in zip(fast, torch.autograd.grad((slow * out).sum(), leaves), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5), (8, 6)])
def test_the_network_has_the_gradients_of_message_passing(m, n):
    gcn = seeded(MaskingGCN).double()
    x, out = normal(2, m, n, 4).requires_grad_(), normal(2, m * n, seed=1)
    slow = torch.stack([network_by_message_passing(gcn, graph) for graph in x])
    leaves = [x, *gcn.parameters()]
    fast = torch.autograd.grad((gcn(x) * out).sum(), leaves)
    for ours, theirs in zip(fast, torch.autograd.grad((slow * out).sum(), leaves), strict=True):
        assert_close(ours, theirs)


def test_the_network_has_the_gradient_of_its_values():
    gcn = seeded(lambda: MaskingGCN(4, 5)).double()
    assert torch.autograd.gradcheck(gcn, (normal(2, 3, 4, 4).requires_grad_(),))


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5), (8, 6)])
def test_the_network_is_three_rounds_of_message_passing(m, n):
    gcn = seeded(MaskingGCN).double()
    x = normal(m, n, 4)
    assert_close(gcn(x), network_by_message_passing(gcn, x))


def test_the_network_takes_many_graphs_at_once():
    gcn = seeded(MaskingGCN).double()
    x = normal(2, 3, 5, 7, 4)
    assert gcn(x).shape == (2, 3, 35)
    assert_close(gcn(x)[1, 2], gcn(x[1, 2]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_the_network_compiles_whole_to_the_same_values_and_gradients():
    gcn, x = seeded(MaskingGCN), normal(2, 3, 5, 4, dtype=torch.float32)
    compiled = torch.compile(gcn, backend="eager", fullgraph=True)
    expected, got = gcn(x), compiled(x)
    assert torch.equal(expected, got)
    wanted, found = (torch.autograd.grad(q.square().sum(), list(gcn.parameters())) for q in (expected, got))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_the_maps_of_a_round_have_no_bias():
    gcn = MaskingGCN()
    shapes = {name: tuple(p.shape) for name, p in gcn.named_parameters()}
    rounds = {
        f"rounds.{i}.{part}.weight": (32, 4 if i == 0 else 32)
        for i in range(3)
        for part in ("neighbours", "itself")
    }
    assert shapes == rounds | {"logit.weight": (1, 32), "logit.bias": (1,)}


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
def test_permuted_neurons_permute_the_logits(m, n, seed):
    gcn = seeded(MaskingGCN, seed).double()
    x = normal(m, n, 4, seed=seed)
    rows, columns = (
        torch.randperm(m, generator=generator(seed)),
        torch.randperm(n, generator=generator(seed + 1)),
    )
    assert_close(gcn(x[rows][:, columns]).view(m, n), gcn(x).view(m, n)[rows][:, columns])
