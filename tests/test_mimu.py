"""MIMU on digits: what it changes, forgets and refuses; its mask, applied and lifted."""

import random

import pytest
import torch
from torch import nn

from lethe.data import ForgetRequest
from lethe.models import apply_mask, lift_mask
from lethe.unlearn import ForgetData, unlearn
from tests.mimu_on_digits import bits, fixture_initial, fixture_model, forget, forget_class  # noqa: F401 (fixtures)
from tests.mimu_settings import CHEAP, KAPPA, LAYER
from tests.seeded import seeded
from tests.split_models import WithAWayAround, fixture_images  # noqa: F401 (a fixture)

# End to end


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
        (
            {"ranking": "set_difference", "refine_steps": 3},
            "--refine_steps: expected 0 with --ranking set_difference",
        ),
        ({"refine_steps": -1}, "--refine_steps: expected an integer >= 0, got -1"),
        ({"refine_steps": 1, "refine_lr": 0.0}, "--refine_lr: expected a number > 0, got 0.0"),
        ({"sampler": "softmax"}, "sampler: expected one of sinkhorn, gumbel, threshold, got 'softmax'"),
        ({"tau": 0.0}, "--tau: expected a number > 0, got 0.0"),
        ({"gcn_lr": 1e38}, r"--gcn_lr: expected a number > 0 and at most 3e\+37, got 1e\+38"),
        ({"gcn_weight_decay": 1e38}, r"--gcn_weight_decay: expected a number >= 0 and at most 3e\+37"),
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
        model = seeded(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 6, bias=False), nn.Tanh(), nn.Linear(6, 4))
        )
    data = ForgetData(images.of_classes(2), images.without_classes(2), images, 4)
    result = unlearn("MIMU", model, data, **CHEAP | {"topk": 4, "kappa": 3, "mask_layer": layer})
    assert result.mask.layer == layer
    assert result.mask.kappa_count == 3
