"""MIMU against independent truths: message passing over an edge list, autograd, root finding, slow loops; then end to end."""

import copy
import itertools
import math
import random
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from models import apply_mask, build, lift_mask, split_at
from training import DiskCache, Recipe, fit
from unlearn import METHODS, ForgetData, unlearn
from unlearn.mimu.gcn import MaskingGCN, RookConv
from unlearn.mimu.graph import Vertices, averaged, averaged_by_class, drawn_by_class, factors_of
from unlearn.mimu.message_passing import logits_by_messages, rook_edges
from unlearn.mimu.network import _initial_network
from unlearn.mimu.objective import drop_loss, keep_loss, log_prior, masked_logits
from unlearn.mimu.ranking import Comparison, comparisons_of, continuous, every_class, keep_largest_out, scores_of
from unlearn.mimu.refine import refined
from unlearn.mimu.topk import hard_topk, sampled_topk, soft_topk, straight_through, threshold
from vision_data import ForgetRequest, ImageSet, Normalisation, load_splits

CPU = torch.device("cpu")
GRADIENTS = ("margin", "cross_entropy", "logit")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def seeded(build_module, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_module()


def assert_close(actual, expected, atol=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# The network


def brute_force_edges(m, n):
    """Every ordered pair of weights that share a row or a column."""
    board = list(itertools.product(range(m), range(n)))
    return {(a * n + b, c * n + d) for a, b in board for c, d in board if (a, b) != (c, d) and (a == c or b == d)}


SHAPES = [(1, 1), (1, 6), (6, 1), (2, 2), (3, 5), (7, 4)]


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_rook_edges_join_rows_and_columns_once(m, n):
    edges = rook_edges(m, n)
    pairs = [tuple(pair) for pair in edges.T.tolist()]
    assert edges.shape == (2, m * n * (m + n - 2))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == brute_force_edges(m, n)


@pytest.fixture(scope="module")
def message_passing():
    """RookConv over an edge list, by PyTorch Geometric: (conv, x (m, n, d)) -> (m, n, width)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own use of torch.jit
        from torch_geometric.nn import MessagePassing

    class EdgeListConv(MessagePassing):
        def __init__(self, conv):
            super().__init__(aggr="mean")
            self.conv = conv

        def forward(self, x, edges):
            return self.conv.neighbours(self.propagate(edges, x=x)) + self.conv.itself(x)

    def run(conv, x):
        m, n, d = x.shape
        edges = torch.tensor(sorted(brute_force_edges(m, n)), dtype=torch.long).reshape(-1, 2).T
        return EdgeListConv(conv)(x.reshape(m * n, d), edges).view(m, n, -1)

    return run


@pytest.mark.parametrize(("m", "n"), [(1, 5), (4, 3), (6, 9)])
def test_the_closed_form_is_what_messages_along_the_edges_give(m, n):
    gcn = seeded(MaskingGCN).double()
    x = normal(m, n, 4)
    assert_close(gcn(x), logits_by_messages(gcn, x.flatten(0, 1), rook_edges(m, n)))


@pytest.mark.parametrize(("m", "n"), [*SHAPES, (9, 13)])
def test_the_closed_form_is_message_passing(m, n, message_passing):
    conv = seeded(lambda: RookConv(4, 6)).double()
    x = normal(m, n, 4)
    assert_close(conv(x), message_passing(conv, x))


def network_by_message_passing(gcn, x, message_passing):
    """The logits (m n,) of one graph (m, n, 4)."""
    x = message_passing(gcn.rounds[0], x)
    x = message_passing(gcn.rounds[1], x).relu()
    x = message_passing(gcn.rounds[2], x).relu()
    return gcn.logit(x).flatten()


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5)])
def test_the_closed_form_has_the_gradients_of_message_passing(m, n, message_passing):
    conv = seeded(lambda: RookConv(4, 6)).double()
    x, out = normal(2, m, n, 4).requires_grad_(), normal(2, m, n, 6, seed=1)
    slow = torch.stack([message_passing(conv, graph) for graph in x])
    leaves = [x, *conv.parameters()]
    fast = torch.autograd.grad((conv(x) * out).sum(), leaves)
    for ours, theirs in zip(fast, torch.autograd.grad((slow * out).sum(), leaves), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5), (8, 6)])
def test_the_network_has_the_gradients_of_message_passing(m, n, message_passing):
    gcn = seeded(MaskingGCN).double()
    x, out = normal(2, m, n, 4).requires_grad_(), normal(2, m * n, seed=1)
    slow = torch.stack([network_by_message_passing(gcn, graph, message_passing) for graph in x])
    leaves = [x, *gcn.parameters()]
    fast = torch.autograd.grad((gcn(x) * out).sum(), leaves)
    for ours, theirs in zip(fast, torch.autograd.grad((slow * out).sum(), leaves), strict=True):
        assert_close(ours, theirs)


def test_the_network_has_the_gradient_of_its_values():
    gcn = seeded(lambda: MaskingGCN(4, 5)).double()
    assert torch.autograd.gradcheck(gcn, (normal(2, 3, 4, 4).requires_grad_(),))


@pytest.mark.parametrize(("m", "n"), [(1, 6), (3, 5), (8, 6)])
def test_the_network_is_three_rounds_of_message_passing(m, n, message_passing):
    gcn = seeded(MaskingGCN).double()
    x = normal(m, n, 4)
    assert_close(gcn(x), network_by_message_passing(gcn, x, message_passing))


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
    rounds = {f"rounds.{i}.{part}.weight": (32, 4 if i == 0 else 32) for i in range(3) for part in ("neighbours", "itself")}
    assert shapes == rounds | {"logit.weight": (1, 32), "logit.bias": (1,)}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
def test_permuted_neurons_permute_the_logits(m, n, seed):
    gcn = seeded(MaskingGCN, seed).double()
    x = normal(m, n, 4, seed=seed)
    rows, columns = torch.randperm(m, generator=generator(seed)), torch.randperm(n, generator=generator(seed + 1))
    assert_close(gcn(x[rows][:, columns]).view(m, n), gcn(x).view(m, n)[rows][:, columns])


# Top-K


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [1, 50, 300, 599])
@pytest.mark.parametrize(
    "logits",
    [normal(3, 600), 1e4 * normal(3, 600), 1e4 + normal(3, 600), torch.full((3, 600), -1e4), torch.zeros(3, 600), normal(3, 600).round()],
    ids=["normal", "spread", "far", "equal and far", "equal", "ties"],
)
def test_soft_topk_sums_to_k(logits, k, tau, dtype, tolerance):
    mask = soft_topk(logits.to(dtype), k, tau)
    assert mask.dtype == dtype
    assert ((mask >= 0) & (mask <= 1)).all()
    assert mask.double().sum(-1).tolist() == pytest.approx([k] * 3, rel=tolerance, abs=tolerance)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=20), st.data())
def test_soft_topk_orders_as_the_logits_do(values, data):
    q = torch.tensor(values, dtype=torch.float64)
    k, tau = data.draw(st.integers(1, len(values))), data.draw(st.sampled_from([0.01, 1.0, 100.0]))
    mask = soft_topk(q, k, tau)
    assert mask.sum().item() == pytest.approx(k, rel=1e-10)
    assert (mask[q.argsort()].diff() >= -1e-15).all()  # the last of a row may be rounded otherwise than its equals


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
    assert_close(soft_topk(normal(4, 50), 13, 1e9), torch.full((4, 50), 13 / 50, dtype=torch.float64), atol=1e-7)


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
    with pytest.raises(ValueError, match=r"soft top-k: expected tau > 0, got .*Choose a positive temperature"):
        soft_topk(torch.zeros(5), 2, tau)


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("k", [1, 7, 39])
def test_the_threshold_is_the_root(k, tau):
    q = normal(5, 40)
    for row, t in zip(q, threshold(q, k, tau), strict=True):
        root = brentq(lambda t, row=row: torch.sigmoid((row - t) / tau).sum().item() - k, -200, 200, xtol=1e-13)
        assert t.item() == pytest.approx(root, abs=1e-8)


def test_equal_scores_go_by_position():
    assert hard_topk(torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0]), 3).tolist() == [1, 1, 1, 0, 0]
    assert hard_topk(torch.zeros(2, 1000), 400).tolist() == [[1] * 400 + [0] * 600] * 2


@settings(deadline=None)
@given(st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf]), min_size=1, max_size=12), st.data())
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


SAMPLERS = ("sinkhorn", "gumbel", "threshold")


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
    q, weights = normal(3, 40), normal(3, 40, seed=1)  # the gradient of soft_topk itself passes gradcheck above
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


# Models and images for the features


class InDoubles(nn.Module):
    """A model of float64 behind float32 images, so that its features can be compared to 1e-10."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers).double()

    def forward(self, x):
        return self.layers(x.double())


class WithAWayAround(nn.Module):
    """The head needs the images: a skip connection leads around the masked layer."""

    def __init__(self, bias, dtype=torch.float64):
        super().__init__()
        self.first = nn.Linear(9, 6, bias=bias, dtype=dtype)
        self.masked = nn.Linear(6, 5, bias=bias, dtype=dtype)
        self.last = nn.Linear(5, 4, bias=bias, dtype=dtype)
        self.around = nn.Linear(9, 4, bias=False, dtype=dtype)

    def forward(self, x):
        x = x.to(self.first.weight.dtype).flatten(1)
        return self.last(self.masked(self.first(x).relu()).relu()) + self.around(x)


def plain(bias):
    return InDoubles(nn.Linear(9, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 4, bias=bias))


MODELS = {
    "plain": (lambda: plain(False), "layers.3"),
    "plain with bias": (lambda: plain(True), "layers.3"),
    "around": (lambda: WithAWayAround(False), "masked"),
    "around with bias": (lambda: WithAWayAround(True), "masked"),
}


@pytest.fixture(params=MODELS)
def split_model(request):
    """A model and the model split at its masked 5 x 6 layer."""
    make, name = MODELS[request.param]
    model = seeded(make).eval()
    return model, split_at(model, name, torch.zeros(2, 1, 3, 3))


@pytest.fixture
def images():
    labels = torch.tensor([0, 1, 2, 3, 1, 0, 3, 2, 1, 0, 0])
    pixels = torch.randint(256, (11, 1, 3, 3), generator=generator()).to(torch.uint8)
    return ImageSet(pixels, labels, torch.arange(11), Normalisation((0.4,), (0.3,)))


def one_at_a_time(images):
    """(x (1, C, H, W), label) of each image."""
    for row in range(len(images)):
        ((x, y),) = images.subset(torch.tensor([row])).batches(1)
        yield x, y.item()


def objective(logits, y, gradient):
    """L of one image's logits (classes,), written out."""
    if gradient == "logit":
        return logits[y]
    if gradient == "cross_entropy":
        return -(logits[y].exp() / logits.exp().sum()).log()
    return -(logits[y] - sum(logits[j].exp() for j in range(len(logits)) if j != y).log())


def seen_at(layer, model, x, y, gradient):
    """h, z, dL/dz and dL/dW of one image, by hooks and autograd on the whole model."""
    seen = {}

    def note(_, inputs, output):
        output.retain_grad()
        seen.update(h=inputs[0][0].detach(), z=output)

    with torch.enable_grad():
        handle = layer.layer.register_forward_hook(note)
        model.zero_grad()
        objective(model(x)[0], y, gradient).backward()
        handle.remove()
    weight_gradient = layer.layer.weight.grad.clone()
    model.zero_grad()
    return seen["h"], seen["z"][0].detach(), seen["z"].grad[0], weight_gradient


# The features


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_factors_are_those_of_one_image_at_a_time(gradient, split_model, images):
    model, layer = split_model
    factors = factors_of(layer, images, gradient, CPU, batch_size=4)
    assert len(factors) == 11
    assert torch.equal(factors.labels, images.labels)
    for row, (x, y) in enumerate(one_at_a_time(images)):
        h, z, delta, weight_gradient = seen_at(layer, model, x, y, gradient)
        assert_close(factors.h[row], h)
        assert_close(factors.a[row], z.relu())
        assert_close(factors.delta[row], delta)
        assert_close(torch.outer(factors.delta[row], factors.h[row]), weight_gradient)


def test_no_more_than_n_and_two_m_floats_an_image_are_kept(split_model, images):
    _, layer = split_model
    factors = factors_of(layer, images, "margin", CPU)
    assert factors.h.numel() + factors.a.numel() + factors.delta.numel() == 11 * (6 + 2 * 5)
    assert (factors.images is not None) == layer.needs_images


def test_factors_leave_no_gradient_on_the_model(split_model, images):
    model, layer = split_model
    factors = factors_of(layer, images, "margin", CPU)
    assert not any(value.requires_grad for value in (factors.h, factors.a, factors.delta))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("layers", [(), (nn.Tanh(), nn.Linear(5, 4))], ids=["last layer", "tanh"])
def test_the_output_activation_is_z_where_no_relu_follows(layers, images):
    model = seeded(lambda: InDoubles(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5), *layers)).eval()
    layer = split_at(model, "layers.3", torch.zeros(2, 1, 3, 3))
    factors = factors_of(layer, images, "margin", CPU)
    assert (factors.a < 0).any()
    assert_close(factors.a, layer.layer(factors.h).detach())


@pytest.mark.parametrize("cut", [nn.ReLU6(), nn.Sequential(nn.Dropout(), nn.ReLU())], ids=["relu6", "dropout"])
def test_the_output_activation_is_cut_off_where_the_logits_do_not_notice(cut, images):
    model = seeded(lambda: InDoubles(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5), cut, nn.Linear(5, 4))).eval()
    layer = split_at(model, "layers.3", torch.zeros(2, 1, 3, 3))
    factors = factors_of(layer, images, "margin", CPU, batch_size=4)
    assert not layer.relu_follows
    assert_close(factors.a, layer.layer(factors.h).relu().detach())


def test_chosen_factors_are_those_rows(split_model, images):
    _, layer = split_model
    factors, rows = factors_of(layer, images, "margin", CPU), torch.tensor([3, 3, 0])
    chosen = factors[rows]
    assert torch.equal(chosen.h, factors.h[rows])
    assert torch.equal(chosen.a, factors.a[rows])
    assert torch.equal(chosen.delta, factors.delta[rows])
    assert torch.equal(chosen.labels, images.labels[rows])
    assert (chosen.images is not None) == layer.needs_images


def loop_averages(layer, model, images, rows):
    """Mean h, a and dL/dW of some images, one at a time."""
    parts = [seen_at(layer, model, x, y, "margin") for i, (x, y) in enumerate(one_at_a_time(images)) if i in rows]
    return (
        sum(h for h, *_ in parts) / len(parts),
        sum(z.relu() for _, z, *_ in parts) / len(parts),
        sum(g for *_, g in parts) / len(parts),
    )


def test_averages_are_those_of_a_slow_loop(split_model, images):
    model, layer = split_model
    some = images.subset(torch.arange(10))
    vertices = averaged(factors_of(layer, some, "margin", CPU), 2, layer.weight)
    for graph, rows in enumerate((range(5), range(5, 10))):
        for actual, expected in zip((vertices.h, vertices.a, vertices.gradient), loop_averages(layer, model, some, rows), strict=True):
            assert_close(actual[graph], expected)


def test_averages_by_class_are_those_of_a_slow_loop(split_model, images):
    model, layer = split_model
    vertices = averaged_by_class(factors_of(layer, images, "margin", CPU), (2, 0), layer.weight)
    for graph, label in enumerate((2, 0)):
        rows = (images.labels == label).nonzero().squeeze(1).tolist()
        for actual, expected in zip((vertices.h, vertices.a, vertices.gradient), loop_averages(layer, model, images, rows), strict=True):
            assert_close(actual[graph], expected)


def test_features_are_standardised_each(split_model, images):
    _, layer = split_model
    features = averaged_by_class(factors_of(layer, images, "margin", CPU), images.classes, layer.weight).standardised()
    assert features.shape == (4, 5, 6, 4)
    assert_close(features.mean((1, 2)), torch.zeros(4, 4, dtype=torch.float64))
    assert_close(features.var((1, 2), correction=0), torch.ones(4, 4, dtype=torch.float64))


def test_features_are_input_output_weight_gradient(split_model, images):
    _, layer = split_model
    vertices = averaged(factors_of(layer, images, "margin", CPU), 1, layer.weight)
    features = vertices.standardised()[0]
    raw = torch.stack([vertices.h[0].expand(5, 6), vertices.a[0][:, None].expand(5, 6), layer.weight, vertices.gradient[0]], -1)
    for i in range(4):
        slope = (features[0, 0, i] - features[4, 5, i]) / (raw[0, 0, i] - raw[4, 5, i])
        assert slope > 0
        assert_close(features[..., i], (raw[..., i] - raw[..., i].mean()) * slope)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1 / 3, 123.4, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_feature_becomes_zero(value, dtype):
    constant = Vertices(
        torch.full((1, 37), value, dtype=dtype),
        torch.full((1, 23), value, dtype=dtype),
        torch.full((23, 37), value, dtype=dtype),
        torch.full((1, 23, 37), value, dtype=dtype),
    )
    assert constant.standardised().abs().max() < 1e-3


def test_gradients_that_nearly_vanish_are_still_a_feature():
    gradient = normal(1, 5, 6, dtype=torch.float32)  # what the cross-entropy leaves of an image that the model is sure of
    h, a, weight = (normal(*shape, dtype=torch.float32) for shape in ((1, 6), (1, 5), (5, 6)))
    features = Vertices(h, a, weight, gradient * 1e-24).standardised()[..., 3]
    assert_close(features, Vertices(h, a, weight, gradient).standardised()[..., 3], atol=1e-4)


def test_representatives_are_drawn_from_their_class():
    labels = torch.tensor([5, 2, 5, 7, 2, 5])
    rows = drawn_by_class(labels, (2, 5), 50, generator())
    assert rows.shape == (2, 50)
    assert set(rows[0].tolist()) == {1, 4}
    assert set(rows[1].tolist()) == {0, 2, 5}
    assert torch.equal(rows, drawn_by_class(labels, (2, 5), 50, generator()))


# The objective


def test_masked_logits_are_those_of_a_masked_model(split_model, images):
    model, layer = split_model
    factors = factors_of(layer, images, "margin", CPU)
    masks = (torch.rand(3, 5, 6, generator=generator()) < 0.6).double()
    logits = masked_logits(layer, masks, factors.h, factors.images)
    own = masked_logits(layer, masks, torch.stack([factors.h] * 3), None if factors.images is None else torch.stack([factors.images] * 3))
    ((x, _),) = images.batches(11)
    for graph, mask in enumerate(masks):
        masked = copy.deepcopy(model)
        with torch.no_grad():
            masked.get_submodule(layer.name).weight.mul_(mask)
            expected = masked(x)
        assert_close(logits[graph].detach(), expected)
        assert_close(own[graph].detach(), expected)


def test_soft_masks_scale_weights_and_carry_gradients(split_model, images):
    _, layer = split_model
    factors = factors_of(layer, images.subset(torch.arange(3)), "margin", CPU)
    mask = torch.rand(1, 5, 6, generator=generator(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda mask: masked_logits(layer, mask, factors.h, factors.images), (mask,))


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
def test_the_prior_is_the_share_of_the_raw_values(shape):
    values = normal(*shape)
    values[..., 0, 0] = 0.0
    log_pi = log_prior(values).view(-1, 30)
    for row, raw in zip(log_pi, values.reshape(-1, 30), strict=True):
        total = sum(abs(v) for v in raw.tolist())
        assert_close(row, torch.tensor([math.log(max(abs(v) / total, 1e-7)) for v in raw.tolist()], dtype=torch.float64))
    assert log_pi.min().item() == pytest.approx(math.log(1e-7))


@pytest.mark.parametrize("values", [torch.zeros(2, 3), torch.full((2, 3), 1e-44)], ids=["zeros", "smallest"])
def test_the_prior_of_vanished_gradients_is_finite(values):
    assert log_prior(values).isfinite().all()


def slow_keep_loss(logits, labels, mask, q, log_pi, k, rho):
    """-log p(y | x; M * W) + rho (-<M, log pi> + <M, log Q>) / K, a number at a time."""
    graphs, count, classes = logits.shape
    total = 0.0
    for g in range(graphs):
        likelihood = 0.0
        for r in range(count):
            p = math.exp(logits[g, r, labels[g, r]]) / sum(math.exp(logits[g, r, c]) for c in range(classes))
            likelihood -= math.log(p) / count
        normaliser = sum(math.exp(v) for v in q[g])
        pi = log_pi if log_pi.ndim == 1 else log_pi[g]
        from_prior = sum(mask[g, i].item() * pi[i].item() for i in range(q.shape[1]))
        from_q = sum(mask[g, i].item() * math.log(math.exp(q[g, i]) / normaliser) for i in range(q.shape[1]))
        total += likelihood + rho * (-from_prior + from_q) / k
    return total / graphs


@pytest.mark.parametrize("prior", ["weight", "gradient"])
@pytest.mark.parametrize("rho", [0.0, 0.1, 3.0])
def test_keep_loss_is_what_it_says(rho, prior):
    logits, q = normal(3, 4, 5), normal(3, 12, seed=1)
    labels = torch.randint(5, (3, 4), generator=generator())
    mask = soft_topk(q, 5, 1.0)
    log_pi = log_prior(normal(3, 4, seed=2)) if prior == "weight" else log_prior(normal(3, 3, 4, seed=2))
    assert keep_loss(logits, labels, mask, q, log_pi, 5, rho).item() == pytest.approx(
        slow_keep_loss(logits, labels, mask, q, log_pi, 5, rho), rel=1e-12
    )


def slow_drop_loss(logits, labels, forgotten, retain_weight):
    """-log(1 - p_c) of the images of c and retain_weight CE of the others, each a mean; the mean over graphs."""
    total = 0.0
    for g, c in enumerate(forgotten.tolist()):
        forget, retain = [], []
        for b, label in enumerate(labels.tolist()):
            exponentials = [math.exp(v) for v in logits[g, b].tolist()]
            p = [e / sum(exponentials) for e in exponentials]
            if label == c:
                forget.append(-math.log(1 - p[c]))
            else:
                retain.append(-math.log(p[label]))
        total += sum(forget) / max(len(forget), 1) + retain_weight * sum(retain) / max(len(retain), 1)
    return total / len(forgotten)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1, 0, 3], [1, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 0]], ids=["all", "one class", "some missing"])
def test_drop_loss_is_what_it_says(labels):
    logits, labels, forgotten = normal(3, 6, 4), torch.tensor(labels), torch.tensor([0, 1, 2])
    assert drop_loss(logits, labels, forgotten, 2.0).item() == pytest.approx(slow_drop_loss(logits, labels, forgotten, 2.0), rel=1e-12)


@pytest.mark.parametrize("certain", [50.0, 1e4])
def test_drop_loss_is_finite_where_the_model_is_certain(certain):
    logits = torch.tensor([[[certain, 0.0, 0.0], [0.0, certain, 0.0], [0.0, 0.0, certain]]]).requires_grad_()
    loss = drop_loss(logits, torch.tensor([0, 1, 1]), torch.tensor([0]), 1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(certain - math.log(2) + certain / 2)
    assert gradient.isfinite().all()
    assert gradient[0, 0, 0].item() == pytest.approx(1.0)


def parameter_gradients(gcn, loss):
    """The largest gradient of each of the network's parameters but the last bias, which moves all logits alike."""
    gradients = torch.autograd.grad(loss, list(gcn.parameters()), allow_unused=True)
    return {
        name: 0.0 if g is None else g.abs().max().item()
        for (name, _), g in zip(gcn.named_parameters(), gradients, strict=True)
        if name != "logit.bias"
    }


@pytest.fixture
def graphs(split_model, images):
    """The network, the logits it gives four classes, and what the losses need of the model."""
    _, layer = split_model
    factors = factors_of(layer, images, "margin", CPU)
    gcn = seeded(MaskingGCN).double()
    return gcn, gcn(averaged_by_class(factors, (0, 1, 2, 3), layer.weight).standardised()), layer, factors


def test_the_label_reaches_the_network_through_the_likelihood_alone(graphs):
    gcn, q, layer, factors = graphs
    mask = straight_through(soft_topk(q, 8, 1.0), hard_topk(q.detach(), 8))
    logits = masked_logits(layer, mask.view(4, 5, 6), factors.h, factors.images)
    loss = keep_loss(logits, factors.labels.repeat(4, 1), mask, q, log_prior(layer.weight), 8, 0.0)
    assert min(parameter_gradients(gcn, loss).values()) > 0


def test_drop_loss_reaches_the_network(graphs):
    gcn, q, layer, factors = graphs
    scores = every_class(q)
    drop = straight_through(soft_topk(scores, 8, 1.0), hard_topk(scores.detach(), 8))
    logits = masked_logits(layer, (1 - drop).view(4, 5, 6), factors.h, factors.images)
    loss = drop_loss(logits, factors.labels, torch.arange(4), 2.0)
    assert min(parameter_gradients(gcn, loss).values()) > 0


# The ranking


def test_the_continuous_ranking_puts_what_serves_the_class_alone_first():
    #                 forget only  everybody  nobody  the others
    q = torch.tensor([[10.0, 10.0, -10.0, -10.0], [-10.0, 10.0, -10.0, 10.0], [-10.0, 10.0, -10.0, 10.0]])
    assert every_class(q)[0].tolist() == [20.0, 0.0, 0.0, -20.0]
    assert keep_largest_out(every_class(q)[0], 1, (2, 2)).tolist() == [[False, True], [True, True]]


def test_the_continuous_ranking_is_the_class_minus_the_mean_of_the_others():
    q = normal(5, 7)
    for f in range(5):
        others = [q[c] for c in range(5) if c != f]
        assert_close(every_class(q)[f], q[f] - sum(others) / 4)


def test_the_continuous_ranking_needs_two_classes():
    with pytest.raises(ValueError, match="ranking: expected the logits of at least two classes, got 1"):
        every_class(torch.zeros(1, 7))


@pytest.mark.parametrize("k", [1, 7, 19, 20])
def test_exactly_kappa_weights_go(k):
    keep = keep_largest_out(normal(20).round(), k, (4, 5))
    assert keep.dtype == torch.bool
    assert keep.shape == (4, 5)
    assert (~keep).sum() == k


def test_among_equal_scores_the_first_weight_goes():
    assert keep_largest_out(torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]), 3, (2, 3)).flatten().tolist() == [1, 0, 1, 0, 0, 1]


def lean_data(forget_rows):
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images = ImageSet(torch.zeros(9, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(9), Normalisation((0.0,), (1.0,)))
    forget = torch.isin(torch.arange(9), torch.tensor(forget_rows))
    return ForgetData(images.subset(forget), images.subset(~forget), images.subset(torch.tensor([0])), 3)


Q = {0: torch.tensor([1.0, 10.0]), 1: torch.tensor([2.0, 20.0]), 2: torch.tensor([5.0, 50.0])}


def q_of_images(images):
    """The sum and the number of their indexes."""
    return torch.tensor([float(images.indexes.sum()), float(len(images))])


def unasked(*_):
    raise AssertionError("a request asked for what it does not need")


@pytest.mark.parametrize(
    ("rows", "by_class", "of_images", "expected"),
    [
        ([3, 4, 5], lambda: Q, unasked, [2 - (1 + 5) / 2, 20 - 30.0]),
        ([3, 4, 5, 6, 7, 8], lambda: Q, unasked, [((2 - 1) + (5 - 1)) / 2, (10 + 40) / 2]),
        ([4], unasked, q_of_images, [4 - (3 + 5), 1 - 2]),
        ([0, 1, 8], unasked, q_of_images, [((0 + 1 - 2) + (8 - (6 + 7))) / 2, ((2 - 1) + (1 - 2)) / 2]),
        ([0, 1, 2, 8], lambda: Q, q_of_images, [((1 - (2 + 5) / 2) + (8 - 13)) / 2, ((10 - 35) + (1 - 2)) / 2]),
    ],
    ids=["a class", "two classes", "an image", "images of two classes", "a class and an image"],
)
def test_lean_is_forget_minus_retain(rows, by_class, of_images, expected):
    assert continuous(comparisons_of(lean_data(rows), by_class, of_images)).tolist() == pytest.approx(expected)


# Six weights. The top 2: M^f = {0, 1}, M^1 = {1, 3}, M^2 = {0, 4}; the top 3: {0, 1, 2}, {0, 1, 3}, {0, 4, 5}.
FORGOTTEN = torch.tensor([9.0, 8.0, 7.0, 0.0, 0.0, 1.0])
RETAINED = torch.tensor([[5.0, 9.0, 1.0, 8.0, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0, 8.0, 2.0]])


def masked(ranking, kappa, topk=2):
    return (
        (~keep_largest_out(scores_of(ranking, [Comparison(FORGOTTEN, RETAINED)], topk), kappa, (2, 3)))
        .flatten()
        .nonzero()
        .flatten()
        .tolist()
    )


def test_the_continuous_ranking_by_hand():
    # s = 9 - 7, 8 - 5, 7 - 0.5, 0 - 4, 0 - 4, 1 - 1
    assert [masked("continuous", kappa) for kappa in (1, 2, 3, 4)] == [[2], [1, 2], [0, 1, 2], [0, 1, 2, 5]]


def test_the_binary_ranking_by_hand():
    # s = 1 - 1/2 for 0 and 1 (the continuous score prefers 1), 0 for 2 and 5 (prefers 2), -1/2 for 3 and 4
    assert [masked("binary", kappa) for kappa in (1, 2, 3, 4, 5)] == [[1], [0, 1], [0, 1, 2], [0, 1, 2, 5], [0, 1, 2, 3, 5]]


def test_the_set_difference_may_be_fewer_than_kappa_or_none():
    assert masked("set_difference", 4) == []
    assert masked("set_difference", 6, topk=3) == [2]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
@example(3, 3, 1, 3, 0)  # shares that are equal, added in another order
def test_binary_and_set_difference_are_their_definitions(classes, requests, topk, kappa, seed):
    """Sets and sorts in plain Python, on coarse logits so that there are ties."""
    q = normal(requests, 1 + classes, 8, seed=seed).mul(2).round().mul(36)  # every mean over 1 to 4 of 1 to 3 is exact: ties stay ties
    comparisons = [Comparison(own[0], own[1:]) for own in q]
    marks = [[{*sorted(range(8), key=lambda i: (-row[i], i))[:topk]} for row in own.tolist()] for own in q]
    s = [sum(own[0][i] - own[1:, i].mean() for own in q) / requests for i in range(8)]
    share = [sum((i in own[0]) - sum(i in other for other in own[1:]) / classes for own in marks) / requests for i in range(8)]
    by_binary = sorted(range(8), key=lambda i: (-round(float(share[i]), 6), -round(float(s[i]), 6), i))
    of_request, of_others = set().union(*(own[0] for own in marks)), set().union(*(m for own in marks for m in own[1:]))
    by_difference = sorted(of_request - of_others, key=lambda i: (-round(float(s[i]), 6), i))

    def gone(ranking):
        return (~keep_largest_out(scores_of(ranking, comparisons, topk), kappa, (2, 4))).flatten().nonzero().flatten().tolist()

    assert gone("binary") == sorted(by_binary[:kappa])
    assert gone("set_difference") == sorted(by_difference[:kappa])


# End to end


KAPPA, STEPS = 60, 6
CHEAP = {"topk": 40, "kappa": KAPPA, "gcn_steps": STEPS, "representatives": 16, "gcn_batch": 64}


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits", ".")


@pytest.fixture(scope="module")
def initial(digits):
    model = build("mlp", digits.train.image_shape, 10, seed=1, options={"hidden": (32, 20)})
    fit(model, digits.train, Recipe(8, "adamw", lr=1e-2, batch_size=128), generator=generator())
    return model


@pytest.fixture
def model(initial):
    return copy.deepcopy(initial)


LAYER = "linear2"  # 20 x 32


def forget_class(model, digits, label, cache, **settings):
    return forget(model, digits, ForgetRequest((label,)), cache, **settings)


def forget(model, digits, request, cache, world=None, **settings):
    data = ForgetData.of(digits, request, cache=cache, **(world or {}))
    return unlearn("MIMU", model, data, **CHEAP | settings)


def bits(model):
    return {name: value.detach().numpy().tobytes() for name, value in model.state_dict().items()}


def test_only_kappa_weights_of_the_masked_layer_differ(model, digits):
    result = forget_class(model, digits, 3, {})
    before, after = model.state_dict(), result.model.state_dict()
    changed = {name: int((before[name] != after[name]).sum()) for name in before}
    assert (before[f"{LAYER}.weight"] != 0).all()
    assert changed == {name: KAPPA if name == f"{LAYER}.weight" else 0 for name in before}
    assert result.mask.layer == LAYER
    assert result.mask.kappa_count == KAPPA
    assert torch.equal(after[f"{LAYER}.weight"] == 0, ~result.mask.keep)


def score(model, images):
    ((x, y),) = images.batches(len(images))
    return 100 * (model(x).argmax(1) == y).double().mean().item()


def test_it_forgets_the_class_and_keeps_the_others(model, digits):
    result = forget_class(model, digits, 3, {}, gcn_steps=40, kappa=0.1)
    assert score(model, digits.test) > 90
    assert score(result.model, digits.test.of_classes(3)) < 20
    assert score(result.model, digits.test.without_classes(3)) > 85


def test_a_number_of_images_is_a_request_too(model, digits):
    request = ForgetRequest((3,), number=40)
    result = forget(model, digits, request, {})
    assert result.mask.kappa_count == KAPPA
    assert bits(result.model) != bits(model)


@pytest.mark.parametrize("amount", ["100%", 640])
def test_the_whole_layer_can_go(amount, model, digits):
    result = forget_class(model, digits, 3, {}, kappa=amount, topk=amount)
    assert not result.mask.keep.any()
    assert not result.model.linear2.weight.any()


@pytest.mark.parametrize("prior", ["weight", "gradient"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_prior_and_gradient_trains(prior, gradient, model, digits):
    result = forget_class(model, digits, 3, {}, prior=prior, gradient=gradient, representatives=1)
    assert all(math.isfinite(value) for step in result.history for value in step.values())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains_a_network_of_its_own(sampler, model, digits):
    cache = {}
    forget_class(model, digits, 3, cache)
    result = forget_class(model, digits, 3, cache, sampler=sampler)
    assert result.facts["network_cached"] == (sampler == "sinkhorn")
    assert all(math.isfinite(value) for step in result.history for value in step.values())


def test_every_ranking_uses_the_same_network(model, digits):
    cache = {}
    masks = {ranking: forget_class(model, digits, 3, cache, ranking=ranking).mask for ranking in ("continuous", "binary", "set_difference")}
    assert len(cache) == 1
    assert masks["continuous"].kappa_count == masks["binary"].kappa_count == KAPPA
    assert 0 < masks["set_difference"].kappa_count <= CHEAP["topk"] < KAPPA


class Spy(dict):
    """A cache that counts what is written."""

    written = 0

    def __setitem__(self, key, value):
        self.written += 1
        super().__setitem__(key, value)


def test_a_second_class_trains_nothing_and_gets_the_mask_it_would_have_got_first(model, digits):
    trained = []

    def progress(steps, label, total=None):
        trained.append(label)
        return steps

    cache = Spy()
    first = forget_class(model, digits, 1, cache, world={"progress": progress})
    second = forget_class(model, digits, 3, cache, world={"progress": progress})
    assert trained == ["MIMU network"]
    assert cache.written == len(cache) == 1
    assert (first.facts["network_cached"], second.facts["network_cached"]) == (0, 1)
    alone = forget_class(model, digits, 3, {})
    assert torch.equal(second.mask.keep, alone.mask.keep)
    assert bits(second.model) == bits(alone.model)
    assert not torch.equal(first.mask.keep, second.mask.keep)


def test_a_class_on_a_cached_network_does_not_run_the_model_on_the_training_images(model, digits):
    seen = []
    model.linear1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cache = {}
    forget_class(model, digits, 1, cache)
    assert sum(seen) >= len(digits.train)
    seen.clear()
    forget_class(model, digits, 3, cache)
    assert sum(seen) <= 64 + 6  # the images in the cache's key, and the two that find the layer


REQUESTS = [
    ForgetRequest((3,)),
    ForgetRequest((7, 1)),
    ForgetRequest((3,), number=20),
    ForgetRequest((-1,), number=50),
    ForgetRequest((0,)),
]


def test_the_mask_does_not_depend_on_what_was_asked_before(model, digits):
    alone = {request.slug: forget(model, digits, request, {}).mask.keep for request in REQUESTS}
    order = random.Random(0)
    for _ in range(3):
        cache = {}
        for request in order.sample(REQUESTS, len(REQUESTS)):
            assert torch.equal(forget(model, digits, request, cache).mask.keep, alone[request.slug])
        assert len(cache) == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cache_hit_gives_the_same_bits(kind, model, digits, tmp_path):
    cache = {} if kind == "memory" else DiskCache(tmp_path)
    for request in REQUESTS:
        first, again = (forget(model, digits, request, cache) for _ in range(2))
        assert again.facts["network_cached"] == 1
        assert bits(first.model) == bits(again.model)
        assert torch.equal(first.mask.keep, again.mask.keep)
        assert first.history == again.history


ANOTHER_SETTING = {
    "topk": 30,
    "kappa": 61,
    "mask_layer": "linear1",
    "contrast": 2.0,
    "retain_weight": 1.0,
    "prior": "gradient",
    "rho": 0.2,
    "tau": 0.5,
    "sampler": "gumbel",
    "gradient": "logit",
    "representatives": 8,
    "gcn_steps": 1,
    "gcn_lr": 2e-2,
    "gcn_weight_decay": 1e-3,
    "gcn_batch": 32,
}


def test_another_setting_is_another_network(model, digits):
    of_the_request = {"ranking", "refine_steps", "refine_lr"}
    assert ANOTHER_SETTING.keys() == METHODS["MIMU"].hyperparameters.keys() - of_the_request
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=2)
    for number, (name, value) in enumerate(ANOTHER_SETTING.items(), 2):
        forget_class(model, digits, 3, cache, **{"gcn_steps": 2, name: value})
        assert len(cache) == number, name


def test_amounts_that_mean_the_same_share_a_network(model, digits):
    cache = {}
    for kappa in (64, 0.1, "10%"):
        forget_class(model, digits, 3, cache, kappa=kappa, gcn_steps=1)
    assert len(cache) == 1


def another_weight(model, splits):
    with torch.no_grad():
        model.linear3.weight[0, 0] += 1e-6
    return model, splits


def another_image(model, splits):
    images = splits.train.images.clone()
    images[5, 0, 0, 0] ^= 1
    return model, replace(splits, train=replace(splits.train, images=images))


def another_label(model, splits):
    labels = splits.train.labels.clone()
    labels[5] = (labels[5] + 1) % 10
    return model, replace(splits, train=replace(splits.train, labels=labels))


def another_normalisation(model, splits):
    return model, replace(splits, train=replace(splits.train, normalisation=Normalisation((0.0,), (1.0,), 16)))


def another_nonlinearity(model, splits):
    model.relu2 = nn.Tanh()
    return model, splits


CHANGES = [another_weight, another_image, another_label, another_normalisation, another_nonlinearity]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_is_for_one_model_and_its_images(change, model, digits):
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=1)
    forget_class(*change(model, digits), 3, cache, gcn_steps=1)
    assert len(cache) == 2


@pytest.mark.parametrize(("what", "value"), [("torch.get_num_threads", lambda: 77), ("unlearn.mimu.network.VERSION", -1)])
def test_a_network_is_for_one_number_of_threads_and_one_version(what, value, model, digits, monkeypatch):
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=1)
    monkeypatch.setattr(what, value)
    forget_class(model, digits, 3, cache, gcn_steps=1)
    assert len(cache) == 2


def test_requests_share_the_training_images_so_that_they_are_hashed_once(digits):
    assert all(ForgetData.of(digits, request).train is digits.train for request in REQUESTS)


def test_a_network_is_for_one_seed(model, digits):
    cache = {}
    for seed in (1, 2, 1):
        forget_class(model, digits, 3, cache, world={"seed": seed}, gcn_steps=1)
    assert len(cache) == 2
    networks = list(cache.values())
    assert not torch.equal(networks[0]["q"], networks[1]["q"])


@pytest.mark.parametrize("steps", [1, 4])
def test_the_history_is_a_line_a_step(steps, model, digits):
    history = forget_class(model, digits, 3, {}, gcn_steps=steps, contrast=10.0).history
    assert len(history) == steps
    for step in history:
        assert step["loss"] == pytest.approx(step["keep_loss"] + 10.0 * step["drop_loss"], rel=1e-5)


@pytest.mark.parametrize("sampler", ["sinkhorn", "gumbel"])
@pytest.mark.parametrize("prior", ["weight", "gradient"])
def test_a_step_is_the_objective_written_out(prior, sampler, model, digits):
    """The first step's losses, from a masked copy of the model for every class."""
    flags = {"prior": prior, "sampler": sampler, "rho": 0.3, "retain_weight": 3.0, "gcn_steps": 1, "gcn_batch": 10_000}
    (step,) = forget_class(model, digits, 3, {}, **flags).history
    data = ForgetData.of(digits, ForgetRequest((3,)))
    layer, draws = split_at(model, LAYER, torch.zeros(2, 1, 8, 8)), data.generator("MIMU", "training")
    factors = factors_of(layer, data.train, "margin", CPU)
    rows = drawn_by_class(factors.labels, data.train.classes, 16, draws)
    graphs = averaged(factors[rows.flatten()], 10, layer.weight)
    ((x, y),) = data.train.batches(10_000)
    with torch.no_grad():
        q = _initial_network(data)(graphs.standardised())
        keep = sampled_topk(sampler, q, 40, 0.1, draws)
        drop = sampled_topk(sampler, torch.stack([q[c] - (q.sum(0) - q[c]) / 9 for c in range(10)]), KAPPA, 0.1, draws)

        def log_p(mask, images):
            masked = {f"{LAYER}.weight": model.linear2.weight * mask.view(20, 32)}
            return functional_call(model, masked, (images,)).double().log_softmax(-1)

        wanted = {"keep_loss": 0.0, "drop_loss": 0.0}
        for c in range(10):
            raw = (model.linear2.weight if prior == "weight" else graphs.gradient[c]).flatten().double().abs()
            terms = -(raw / raw.sum()).clamp_min(1e-7).log() + q[c].double().log_softmax(0)
            likelihood = log_p(keep[c], x[rows[c]])[:, c].mean()
            wanted["keep_loss"] += (-likelihood + 0.3 * terms[keep[c] == 1].sum() / 40).item() / 10
            after, own = log_p(1 - drop[c], x), y == c
            reached = -torch.log1p(-after[own, c].exp()).mean()
            kept = -after[~own, y[~own]].mean()
            wanted["drop_loss"] += (reached + 3.0 * kept).item() / 10
    assert {name: step[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)


def test_training_lowers_the_loss(model, digits):
    history = forget_class(model, digits, 3, {}, gcn_steps=30).history
    assert sum(step["loss"] for step in history[-5:]) < 0.7 * sum(step["loss"] for step in history[:5])


def test_without_contrast_it_is_the_papers_objective(model, digits):
    result = forget_class(model, digits, 3, {}, contrast=0.0)
    assert [step["drop_loss"] for step in result.history] == [0.0] * STEPS
    assert [step["loss"] for step in result.history] == [step["keep_loss"] for step in result.history]
    assert result.mask.kappa_count == KAPPA


@pytest.mark.parametrize("terms", [{"contrast": 0.0, "rho": 0.0}, {"contrast": 1.0}], ids=["likelihood alone", "with contrast"])
def test_training_moves_every_part_of_the_network(terms, model, digits):
    still, moved = {}, {}
    for cache, lr in ((still, 1e-12), (moved, 1e-2)):
        forget_class(model, digits, 3, cache, gcn_steps=1, gcn_weight_decay=0.0, gcn_lr=lr, **terms)
    (before,), (after,) = still.values(), moved.values()
    weights = [name for name in before if name.startswith("gcn.") and name != "gcn.logit.bias"]
    assert len(weights) == 7
    assert not [name for name in weights if torch.allclose(before[name], after[name], rtol=0, atol=1e-4)]


# Direct refinement


MIXED = [0, 1, 2]  # of class 3 all go, of class 5 these


def mixed_request(digits):
    threes, fives = (digits.train.indexes[digits.train.labels == label].tolist() for label in (3, 5))
    return ForgetRequest(indexes=tuple(threes + [fives[i] for i in MIXED]))


@pytest.mark.parametrize("kind", ["class", "images", "both"])
def test_one_refinement_step_is_adam_on_the_masked_model(kind, model, digits):
    requests = {"class": ForgetRequest((3,)), "images": ForgetRequest((-1,), number=40), "both": mixed_request(digits)}
    data = ForgetData.of(digits, requests[kind])
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    scores = normal(layer.size, dtype=torch.float32)
    stepped = refined(scores, layer, data, KAPPA, steps=1, lr=0.1, retain_weight=4.0, tau=1.0, batch=10_000)
    start = ((scores - scores.mean()) / scores.std()).requires_grad_()
    soft = soft_topk(start, KAPPA, 1.0)
    drop = (hard_topk(start, KAPPA) - soft.detach()) + soft
    masked = {f"{LAYER}.weight": model.linear2.weight.detach() * (1 - drop).view(20, 32)}

    def chances(images):
        ((x, y),) = images.batches(10_000)
        return functional_call(model, masked, (x,)).double().softmax(-1)[torch.arange(len(y)), y]

    def margin_levels(images):
        """Quantiles by hand: between the two sorted margins that a level falls between."""
        p = chances(images)
        margins = (p.log() - (1 - p).log()).sort().values
        places = [(len(margins) - 1) * level / 100 for level in range(1, 100)]
        return [margins[int(at)] + (at - int(at)) * (margins[min(int(at) + 1, len(margins) - 1)] - margins[int(at)]) for at in places]

    loss = -4.0 * chances(data.retain).log().mean()
    if kind != "images":
        loss = loss - (1 - chances(data.forget.of_classes(3))).log().mean()
    if kind != "class":
        images = data.forget.of_classes(5) if kind == "both" else data.forget
        unseen = data.validation.of_classes(*images.classes)
        loss = loss + sum((f - v).abs() for f, v in zip(margin_levels(images), margin_levels(unseen), strict=True)) / 99
    (g,) = torch.autograd.grad(loss, start)
    expected = start.detach() - 0.1 * g / (g.abs() + 1e-8)
    sure = g.abs() > 1e-4 * g.abs().max()  # of the sign
    assert sure.sum() > 0.5 * len(sure)
    assert_close(stepped[sure], expected[sure], atol=1e-3)


def test_refinement_starts_from_the_networks_answer_with_the_flags_of_the_request(model, digits):
    cache, flags = {}, {"refine_steps": 3, "refine_lr": 0.2, "retain_weight": 3.0, "tau": 0.3}
    result = forget_class(model, digits, 3, cache, **flags)
    data = ForgetData.of(digits, ForgetRequest((3,)))
    (network,) = cache.values()
    settings_ = {"steps": 3, "lr": 0.2, "retain_weight": 3.0, "tau": 0.3, "batch": CHEAP["gcn_batch"]}
    scores = refined(every_class(network["q"])[3], split_at(model, LAYER, torch.zeros(2, 1, 8, 8)), data, KAPPA, **settings_)
    assert torch.equal(result.mask.keep, keep_largest_out(scores, KAPPA, (20, 32)))


def test_images_are_not_refined_without_images_to_liken_them_to(model, digits):
    images, labels = next(digits.train.batches(10_000))
    data = ForgetData.of_tensors(images, labels, torch.arange(40))
    with pytest.raises(ValueError, match="--refine_steps: expected validation images of the classes .* got none"):
        unlearn("MIMU", model, data, **CHEAP, refine_steps=1)


@pytest.mark.parametrize("ranking", ["continuous", "binary"])
@pytest.mark.parametrize("kind", ["class", "images", "both"])
def test_every_ranking_that_can_be_refined_is(kind, ranking, model, digits):
    request = {"class": ForgetRequest((3,)), "images": ForgetRequest((-1,), number=40), "both": mixed_request(digits)}[kind]
    plain_result, result = (forget(model, digits, request, {}, ranking=ranking, refine_steps=steps) for steps in (0, 3))
    assert result.mask.kappa_count == KAPPA
    assert not torch.equal(result.mask.keep, plain_result.mask.keep)


def test_images_are_not_likened_to_those_of_another_class(model, digits):
    request = ForgetRequest((0, 5), number=40)
    data = ForgetData.of(replace(digits, validation=digits.validation.without_classes(5)), request)
    with pytest.raises(ValueError, match=r"--refine_steps: expected validation images of the classes \(0, 5\), .* got none of \[5\]"):
        unlearn("MIMU", model, data, **CHEAP, refine_steps=1)


def test_refinement_of_a_request_is_timed_apart_and_needs_no_other_network(model, digits):
    cache = {}
    plain_result = forget_class(model, digits, 3, cache)
    result, again = (forget_class(model, digits, 3, cache, refine_steps=5) for _ in range(2))
    assert len(cache) == 1
    assert result.stages["refinement"] > 0
    assert result.mask.kappa_count == KAPPA
    assert not torch.equal(result.mask.keep, plain_result.mask.keep)
    assert torch.equal(result.mask.keep, again.mask.keep)
    assert torch.equal(forget_class(model, digits, 3, cache).mask.keep, plain_result.mask.keep)


# The mask, applied and lifted


def test_ten_masks_applied_and_lifted_in_any_order_leave_no_trace(model, digits):
    cache = {}
    with torch.no_grad():
        model.linear2.weight[0, :3] = torch.tensor([-0.0, 0.0, 1e-42])
    results = {label: forget_class(model, digits, label, cache) for label in range(10)}
    before, parameters = bits(model), dict(model.named_parameters())
    ((x, _),) = digits.test.batches(1000)
    logits = model(x)
    order = random.Random(1)
    for _ in range(3):
        applied = order.sample(range(10), 10)
        for label in applied:
            apply_mask(model, results[label].mask)
        assert not torch.equal(model(x), logits)
        for label in order.sample(range(10), 10):
            lift_mask(model, results[label].mask)
        assert bits(model) == before
        assert list(model.state_dict()) == list(before)
        assert dict(model.named_parameters()).keys() == parameters.keys()
        assert all(p is parameters[name] for name, p in model.named_parameters())
        assert torch.equal(model(x), logits)


def test_the_mask_applied_is_the_unlearned_model(model, digits):
    result = forget_class(model, digits, 3, {})
    ((x, _),) = digits.test.batches(1000)
    apply_mask(model, result.mask)
    assert torch.equal(model(x), result.model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": 0}, "--kappa: expected a count from 1 to 640"),
        ({"topk": 641}, "--topk: expected a count from 1 to 640"),
        ({"kappa": 1.0}, "--kappa: 1.0 could mean"),
        ({"mask_layer": "relu1"}, "--mask_layer: expected a linear layer, got 'relu1', a ReLU"),
        ({"mask_layer": "liner2"}, "--mask_layer: unknown layer 'liner2'. Did you mean 'linear2'"),
        ({"mask_layer": "3"}, "--mask_layer: expected an index from -3 to 2, got 3"),
        ({"gcn_steps": 0}, "--gcn_steps: expected an integer >= 1, got 0"),
        ({"gcn_batch": 0}, "--gcn_batch: expected an integer >= 1, got 0"),
        ({"representatives": 0}, "--representatives: expected an integer >= 1, got 0"),
        ({"gcn_weight_decay": -1.0}, "--gcn_weight_decay: expected a number >= 0, got -1.0"),
        ({"contrast": -1.0}, "--contrast: expected a number >= 0, got -1.0"),
        ({"rho": -0.1}, "--rho: expected a number >= 0, got -0.1"),
        ({"retain_weight": -2.0}, "--retain_weight: expected a number >= 0, got -2.0"),
        ({"ranking": "set_difference", "refine_steps": 3}, "--refine_steps: expected 0 with --ranking set_difference"),
        ({"refine_steps": -1}, "--refine_steps and --refine_lr: expected >= 0 and > 0, got -1 and 0.1"),
        ({"refine_steps": 1, "refine_lr": 0.0}, "--refine_steps and --refine_lr: expected >= 0 and > 0, got 1 and 0.0"),
        ({"sampler": "softmax"}, "sampler: expected one of sinkhorn, gumbel, threshold, got 'softmax'"),
        ({"tau": 0.0}, "--tau: expected a number > 0, got 0.0"),
        ({"gcn_lr": 1e38}, r"gcn_lr: expected at most 1e\+37, got 1e\+38"),
        ({"gcn_weight_decay": 1e38}, r"gcn_weight_decay: expected at most 1e\+37"),
        ({"prior": "weights"}, "prior: expected one of weight, gradient, got 'weights'"),
    ],
    ids=lambda value: "".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_setting_that_makes_no_sense_is_refused(settings, message, model, digits):
    cache = {}
    with pytest.raises(ValueError, match=message):
        forget_class(model, digits, 3, cache, **settings)
    assert not cache


@pytest.mark.parametrize("lr", [1e10, 1e20, 1e37])
def test_a_network_that_diverges_is_an_error_and_not_a_mask_that_keeps_everything(lr, model, digits):
    cache = {}
    with pytest.raises((FloatingPointError, ValueError), match="diverged"):
        forget_class(model, digits, 3, cache, gcn_lr=lr)
    assert not cache


def test_only_one_class_to_learn_from_is_refused(model, digits):
    train = digits.train.of_classes(3)
    forget = torch.arange(len(train)) < 5
    data = ForgetData(train.subset(forget), train.subset(~forget), digits.validation, 10)
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        unlearn("MIMU", model, data, **CHEAP)


@pytest.mark.parametrize("layer", ["1", "3", "masked"])
def test_any_linear_layer_of_any_model_will_do(layer, images):
    if layer == "masked":
        model = seeded(lambda: WithAWayAround(True, torch.float32))
    else:
        model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 6, bias=False), nn.Tanh(), nn.Linear(6, 4)))
    data = ForgetData(images.of_classes(2), images.without_classes(2), images, 4)
    result = unlearn("MIMU", model, data, **CHEAP | {"topk": 4, "kappa": 3, "mask_layer": layer})
    assert result.mask.layer == layer
    assert result.mask.kappa_count == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_tensors_of_your_own_will_do(dtype, bias):
    """A model on vectors, its own layer, its own numbers: no dataset, no picture, no registry."""
    x, labels = normal(90, 12, dtype=dtype), torch.arange(90) % 3
    x[torch.arange(90), labels] += 3
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 10, bias=bias), nn.ReLU(), nn.Linear(10, 3, bias=bias)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x.float()), labels).backward()
        optimizer.step()
    model.to(dtype)
    data = ForgetData.of_tensors(x, labels, forget=labels == 1)
    result = unlearn("MIMU", model, data, mask_layer="0", topk=20, kappa=30, gcn_steps=40, representatives=20, refine_steps=2)
    right = (result.model(x).argmax(1) == labels).double()
    assert (model(x).argmax(1) == labels).all()
    assert right[labels == 1].mean() < 0.2 < 0.7 < right[labels != 1].mean()
    assert result.mask.kappa_count == 30


def test_forget_may_be_positions_and_images_bytes_with_a_normalisation(digits):
    images, labels = digits.train.images[:60], digits.train.labels[:60]
    data = ForgetData.of_tensors(images, labels, torch.tensor([4, 7]), digits.train.normalisation)
    assert data.forget.indexes.tolist() == [4, 7]
    assert len(data.retain) == 58
    assert torch.equal(next(data.train.batches(60))[0], digits.train.normalisation(images))


@pytest.mark.parametrize(
    ("images", "labels", "forget", "message"),
    [
        (torch.zeros(4, 2).numpy(), torch.zeros(4), torch.tensor([0]), r"images: expected a torch tensor, got ndarray"),
        (torch.zeros(4, 2), torch.zeros(4), torch.tensor([0]), r"labels: expected torch.int64 \(4,\), got torch.float32"),
        (
            torch.zeros(4, 2),
            torch.zeros(3, dtype=torch.int64),
            torch.tensor([0]),
            r"labels: expected torch.int64 \(4,\), got torch.int64 \(3,\)",
        ),
        (
            torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
            torch.arange(4),
            torch.tensor([0]),
            "images: expected floats .* or uint8 and a normal",
        ),
        (torch.zeros(4, 2), torch.arange(4) - 1, torch.tensor([0]), "labels: expected classes from 0 on, got -1"),
        (torch.zeros(0, 2), torch.arange(0), torch.tensor([], dtype=torch.int64), "the forget set: expected at least one image"),
        (torch.zeros(4, 2), torch.arange(4), torch.ones(3, dtype=torch.bool), r"forget: expected bool \(4,\), or int64 positions"),
        (torch.zeros(4, 2), torch.arange(4), torch.ones(4), "forget: expected bool .* got torch.float32"),
        (torch.zeros(4, 2), torch.arange(4), torch.tensor([0, 1, 0, 1]), "forget: expected .* each once"),
        (torch.zeros(4, 2), torch.arange(4), torch.tensor([-1]), "forget: expected .* positions from 0 to 3"),
        (torch.zeros(4, 2), torch.arange(4), torch.tensor([4]), "forget: expected .* positions from 0 to 3"),
        (torch.zeros(4, 2), torch.arange(4), torch.tensor([], dtype=torch.int64), "the forget set: expected at least one image"),
        (torch.zeros(4, 2), torch.arange(4), torch.ones(4, dtype=torch.bool), "the retain set: expected at least one image"),
    ],
)
def test_tensors_that_make_no_request_are_refused(images, labels, forget, message):
    with pytest.raises(ValueError, match=message):
        ForgetData.of_tensors(images, labels, forget)


def test_a_model_that_writes_into_its_input_leaves_your_images_alone():
    x, labels = normal(30, 6, dtype=torch.float32), torch.arange(30) % 3
    before = x.clone()
    model = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Linear(5, 3)))
    settings_ = {"topk": 4, "kappa": 3, "gcn_steps": 1, "representatives": 2}
    unlearn("MIMU", model, ForgetData.of_tensors(x, labels, labels == 1), mask_layer="1", **settings_)
    assert torch.equal(x, before)


def test_a_device_may_be_a_word():
    assert ForgetData.of_tensors(torch.zeros(4, 2), torch.arange(4), torch.tensor([0]), device="cpu").device == CPU


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_any_type_have_a_digest(dtype):
    x = torch.arange(8).view(4, 2).to(dtype)
    labels = torch.arange(4)
    first, again = (ForgetData.of_tensors(x.clone().requires_grad_(), labels, torch.tensor([0])).train.digest for _ in range(2))
    assert first == again != ForgetData.of_tensors(x + 1, labels, torch.tensor([0])).train.digest


class SaysMore(nn.Linear):
    """A model that gives a pair where logits are expected."""

    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (nn.Linear(5, 2), r"expected a model whose output is logits \(N, classes\) of at least 3 classes, got \(2, 2\)"),
        (SaysMore(5, 3), r"expected a model whose output is logits \(N, classes\) of at least 3 classes, got tuple"),
        (nn.Linear(5, 3, device="meta"), "expected a model on the data's device cpu, got one on meta. Give the data device='meta'"),
    ],
)
@pytest.mark.parametrize("method", ["MIMU", "random_mask", "logit_attribution", "SFT"])
def test_a_model_that_does_not_fit_the_data_is_refused(method, head, message):
    x, labels = normal(30, 6, dtype=torch.float32), torch.arange(30) % 3
    data = ForgetData.of_tensors(x, labels, labels == 1)
    with pytest.raises(ValueError, match=message):
        unlearn(method, nn.Sequential(nn.Linear(6, 5), head), data, mask_layer="0")
