"""MIMU's losses against a number at a time, and what reaches the network through them."""

import copy
import math

import pytest
import torch

from lethe.unlearn.mimu.gcn import MaskingGCN
from lethe.unlearn.mimu.graph import averaged_by_class, factors_of
from lethe.unlearn.mimu.objective import drop_loss, keep_loss, log_prior, masked_logits
from lethe.unlearn.mimu.ranking import every_class
from lethe.unlearn.mimu.topk import hard_topk, soft_topk, straight_through
from tests.seeded import CPU, assert_close, generator, normal, seeded
from tests.split_models import fixture_images, fixture_split_model  # noqa: F401 (fixtures)


def test_masked_logits_are_those_of_a_masked_model(split_model, images):
    model, layer = split_model
    factors = factors_of(layer, images, "margin", CPU)
    masks = (torch.rand(3, 5, 6, generator=generator()) < 0.6).double()
    logits = masked_logits(layer, masks, factors.h, factors.images)
    own = masked_logits(
        layer,
        masks,
        torch.stack([factors.h] * 3),
        None if factors.images is None else torch.stack([factors.images] * 3),
    )
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
    assert torch.autograd.gradcheck(
        lambda mask: masked_logits(layer, mask, factors.h, factors.images), (mask,)
    )


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
def test_the_prior_is_the_share_of_the_raw_values(shape):
    values = normal(*shape)
    values[..., 0, 0] = 0.0
    log_pi = log_prior(values).view(-1, 30)
    for row, raw in zip(log_pi, values.reshape(-1, 30), strict=True):
        total = sum(abs(v) for v in raw.tolist())
        assert_close(
            row,
            torch.tensor([math.log(max(abs(v) / total, 1e-7)) for v in raw.tolist()], dtype=torch.float64),
        )
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
    """Mean -log(1 - p_c) over images of c plus retain_weight * mean CE of the others, mean over graphs."""
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


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 1, 0, 3], [1, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 0]],
    ids=["all", "one class", "some missing"],
)
def test_drop_loss_is_what_it_says(labels):
    logits, labels, forgotten = normal(3, 6, 4), torch.tensor(labels), torch.tensor([0, 1, 2])
    assert drop_loss(logits, labels, forgotten, 2.0).item() == pytest.approx(
        slow_drop_loss(logits, labels, forgotten, 2.0), rel=1e-12
    )


@pytest.mark.parametrize("certain", [50.0, 1e4])
def test_drop_loss_is_finite_where_the_model_is_certain(certain):
    logits = torch.tensor([[[certain, 0.0, 0.0], [0.0, certain, 0.0], [0.0, 0.0, certain]]]).requires_grad_()
    loss = drop_loss(logits, torch.tensor([0, 1, 1]), torch.tensor([0]), 1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(certain - math.log(2) + certain / 2)
    assert gradient.isfinite().all()
    assert gradient[0, 0, 0].item() == pytest.approx(1.0)


def parameter_gradients(gcn, loss):
    """The largest gradient of each of the network's parameters but the last bias, which moves all logits
    alike.
    """
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
