"""The training of MIMU's network on digits: its history, a step written out, what moves."""

import math

import pytest
import torch
from torch.func import functional_call

from lethe.data import ForgetRequest
from lethe.models import split_at
from lethe.unlearn import ForgetData
from lethe.unlearn.mimu.graph import averaged, drawn_by_class, factors_of
from lethe.unlearn.mimu.network import _initial_network
from lethe.unlearn.mimu.topk import sampled_topk
from tests.mimu_on_digits import fixture_initial, fixture_model, forget_class  # noqa: F401 (fixtures)
from tests.mimu_settings import GRADIENTS, KAPPA, LAYER, STEPS
from tests.seeded import CPU


@pytest.mark.parametrize("prior", ["weight", "gradient"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_prior_and_gradient_trains(prior, gradient, model, digits):
    result = forget_class(model, digits, 3, {}, prior=prior, gradient=gradient, representatives=1)
    assert all(math.isfinite(value) for step in result.history for value in step.values())


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
    flags = {
        "prior": prior,
        "sampler": sampler,
        "rho": 0.3,
        "retain_weight": 3.0,
        "gcn_steps": 1,
        "gcn_batch": 10_000,
    }
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
        drop = sampled_topk(
            sampler, torch.stack([q[c] - (q.sum(0) - q[c]) / 9 for c in range(10)]), KAPPA, 0.1, draws
        )

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


@pytest.mark.parametrize(
    "terms", [{"contrast": 0.0, "rho": 0.0}, {"contrast": 1.0}], ids=["likelihood alone", "with contrast"]
)
def test_training_moves_every_part_of_the_network(terms, model, digits):
    still, moved = {}, {}
    for cache, lr in ((still, 1e-12), (moved, 1e-2)):
        forget_class(model, digits, 3, cache, gcn_steps=1, gcn_weight_decay=0.0, gcn_lr=lr, **terms)
    (before,), (after,) = still.values(), moved.values()
    weights = [name for name in before if name.startswith("gcn.") and name != "gcn.logit.bias"]
    assert len(weights) == 7
    assert not [name for name in weights if torch.allclose(before[name], after[name], rtol=0, atol=1e-4)]
