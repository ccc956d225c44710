"""Models as their owners have them: computed and shared weights, hooks on the model itself, torch.compile."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lethe.evaluation import penultimate_features
from lethe.evaluation.weights import weight_distance
from lethe.models import Mask, alike, apply_mask, lift_mask, split_at, switched_off, tail_at
from lethe.unlearn import ForgetData, unlearn

MASKING = ("MIMU", "random_mask", "logit_attribution", "SFT")
FEW = {
    "MIMU": {"topk": 4, "kappa": 10, "gcn_steps": 2},
    "random_mask": {"kappa": 10},
    "logit_attribution": {"kappa": 10},
    "SFT": {},
}


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    return ForgetData.of_tensors(torch.randn(30, 16, generator=generator), labels, labels == 1)


def run_once(model):
    with torch.no_grad():
        model(torch.zeros(2, 16))
    return model


COMPUTED = {
    "weight_norm": lambda layer: weight_norm(layer),
    "spectral_norm": lambda layer: spectral_norm(layer),
    "parametrized weight_norm": lambda layer: parametrizations.weight_norm(layer),
    "parametrized spectral_norm": lambda layer: parametrizations.spectral_norm(layer),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=3),
}


@pytest.fixture(params=COMPUTED)
def computed(request):
    """A model whose layer `2` computes its weight from something else."""
    model = perceptron()
    COMPUTED[request.param](model[2])
    return run_once(model).eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("method", MASKING)
def test_a_layer_that_computes_its_weight_is_no_layer_to_mask(method, computed, data):
    reason = r"--mask_layer: expected a layer that holds its weight, got '2', which computes it"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, computed, data, mask_layer="2", **FEW[method])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_no_mask_is_put_on_a_layer_that_computes_its_weight(computed):
    for change in (apply_mask, lift_mask, switched_off):
        with pytest.raises(ValueError, match="expected a layer that holds its weight, got '2'"):
            change(computed, Mask("2", torch.ones(8, 8, dtype=torch.bool)))


@pytest.mark.parametrize("method", MASKING)
def test_weights_that_two_layers_share_are_not_masked_in_both(method, data):
    model = perceptron()
    model[2].weight = nn.Parameter(model[2].weight.detach())
    model.insert(4, nn.Linear(8, 8))
    model[4].weight = model[2].weight
    reason = "expected a layer with weights of its own, got '2', one of 2, 4, which share theirs"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, model.eval(), data, mask_layer="2", **FEW[method])
    before = model[4].weight.detach().clone()
    apply_mask(
        model, Mask("2", torch.zeros(8, 8, dtype=torch.bool))
    )  # this is exact: the weights themselves are not written
    assert torch.equal(model[4].weight, before)
    assert not model[2].weight.any()


def test_a_model_with_a_mask_applied_can_be_masked_again(data):
    model = perceptron()
    keep = torch.ones(8, 8, dtype=torch.bool)
    keep[0] = False
    apply_mask(model, Mask("2", keep))
    again = unlearn("random_mask", model, data, mask_layer="2", kappa=10)
    assert not again.model[2].weight[0].any()
    assert not again.model[2].weight[~again.mask.keep].any()


def with_a_hook():
    model = perceptron()
    model.register_forward_pre_hook(lambda _, inputs: (5 - inputs[0],))
    return model


def with_a_forward_of_its_own():
    model = perceptron()
    usual = model.forward
    model.forward = lambda x: usual(5 - x)
    return model


@pytest.mark.parametrize("make", [with_a_hook, with_a_forward_of_its_own])
def test_a_split_model_is_the_model_with_what_hangs_on_it(make, data):
    model = make()
    x, _ = next(data.forget.batches(10))
    layer = split_at(model, "2", x[:2])
    with torch.no_grad():
        torch.testing.assert_close(layer.head(layer.layer(layer.body(x)), x), model(x))
    inside = nn.Sequential(nn.Linear(16, 16), *perceptron()).eval()
    with torch.no_grad():
        inside[0].weight.copy_(-torch.eye(16))
        inside[0].bias.fill_(5.0)
    torch.testing.assert_close(
        penultimate_features(model, data.forget), penultimate_features(inside, data.forget)
    )
    with pytest.raises(ValueError, match="expected a model whose logits depend on layer '2' alone"):
        tail_at(model, "2", x[:2])


class Negative(nn.Linear):
    def forward(self, h):
        return -F.linear(h, self.weight, self.bias)


def with_a_hooked_layer():
    model = perceptron()
    model[2].register_forward_hook(lambda _, inputs, z: -z)
    return model


def with_a_layer_whose_input_is_written():
    model = perceptron()
    model[2].register_forward_pre_hook(lambda _, inputs: (inputs[0].neg_(), None)[1])
    return model


def with_a_layer_of_its_own():
    model = perceptron()
    model[2] = Negative(8, 8)
    return model.eval()


@pytest.mark.parametrize(
    "make", [with_a_hooked_layer, with_a_layer_whose_input_is_written, with_a_layer_of_its_own]
)
@pytest.mark.parametrize("method", MASKING)
def test_a_layer_that_computes_something_else_is_no_layer_to_mask(method, make, data):
    reason = r"--mask_layer: expected a layer that computes W h \+ b, got '2', which does something else"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, make(), data, mask_layer="2", **FEW[method])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_compared_as_they_are(value, data):
    model = perceptron()
    with torch.no_grad():
        model[4].weight[0, 0] = value
    x, _ = next(data.forget.batches(2))
    layer = split_at(model, "2", x)
    with torch.no_grad():
        logits = model(x)
        assert alike(layer.head(layer.layer(layer.body(x)), x), logits)
        assert not layer.needs_images
        assert not alike(logits + 1, logits)
    assert alike(torch.zeros(0, 3), torch.zeros(0, 3)) and not alike(torch.zeros(2, 3), torch.zeros(3, 2))


@pytest.mark.parametrize("method", MASKING)
def test_a_model_with_a_compiled_part_is_told_to_be_compiled_whole(method, data):
    model = perceptron()
    model[0] = torch.compile(model[0], backend="eager")
    reason = "expected a model that is compiled as a whole or not at all, got one with a compiled part '0'"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, model, data, **FEW[method])


@pytest.mark.parametrize("was_run", [False, True], ids=["not yet run", "run"])
@pytest.mark.parametrize("method", [*MASKING, "FT"])
def test_a_compiled_model_is_unlearned_as_the_model_that_it_was(method, was_run, data):
    plain = perceptron()
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    if was_run:
        run_once(compiled)
    flags = FEW.get(method, {"unlearn_epochs": 1})
    expected, result = (unlearn(method, model, data, **flags) for model in (plain, compiled))
    assert list(result.model.state_dict()) == list(expected.model.state_dict())
    for name, value in expected.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value)
    assert weight_distance(result.model, compiled) == weight_distance(expected.model, plain)
    if result.mask is not None:
        apply_mask(compiled, result.mask)
        x = torch.randn(4, 16)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), result.model(x))


def test_a_list_of_positions_will_do():
    data = ForgetData.of_tensors(torch.zeros(3, 16), torch.tensor([0, 1, 2]), [0, 2])

    assert data.forget.indexes.tolist() == [0, 2]


def test_a_learning_rate_that_no_float_holds_is_refused(data):
    reason = r"--refine_lr: expected a number > 0 and at most 3e\+37, got 1e\+38"
    with pytest.raises(ValueError, match=reason):
        unlearn("MIMU", perceptron(), data, topk=4, kappa=10, refine_steps=1, refine_lr=1e38)
