"""Architectures: their logits, their seeds, their sizes and their options."""

import pytest
import torch
from torch import nn

from lethe.models import build, split_at
from tests.layered_models import COLOUR, EVERY, SMALL, fixture_built, images  # noqa: F401 (a fixture)
from tests.seeded import states_equal


def test_the_architectures():
    assert {"mlp", "resnet18", "HookedResnet"} <= set(EVERY)


def test_an_architecture_gives_logits(built):
    assert built(images()).shape == (3, 10)


@pytest.mark.parametrize("arch", EVERY)
def test_an_architecture_gives_logits_for_colour_images(arch):
    assert build(arch, COLOUR, 7, seed=1)(images(COLOUR, count=2)).shape == (2, 7)


def test_a_new_model_is_in_eval_mode(built):
    assert not any(module.training for module in built.modules())


@pytest.mark.parametrize("arch", EVERY)
def test_the_same_seed_gives_the_same_weights(arch):
    first = build(arch, SMALL, 10, seed=4).state_dict()
    torch.rand(5)
    assert states_equal(build(arch, SMALL, 10, seed=4).state_dict(), first)


@pytest.mark.parametrize("arch", EVERY)
def test_another_seed_gives_other_weights(arch):
    one, other = (build(arch, SMALL, 10, seed=seed) for seed in (1, 2))
    matrices = [(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.ndim > 1]
    assert matrices and not any(torch.equal(a, b) for a, b in matrices)


@pytest.mark.parametrize("arch", EVERY)
def test_building_leaves_the_global_random_state_alone(arch):
    before = torch.get_rng_state()
    build(arch, SMALL, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_architectures_own_mask_layer_exists(built):
    layer = split_at(built, built.mask_layer, images())
    assert layer.shape == tuple(built.get_submodule(layer.name).weight.shape)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet81'\. Did you mean 'resnet18'\?"):
        build("resnet81", SMALL, 10, seed=1)


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r"unknown flag of mlp '--hiden'\. Did you mean '--hidden'\?"):
        build("mlp", SMALL, 10, seed=1, options={"hiden": (3,)})


def test_the_mlp_has_the_sizes_64_128_64_10():
    shapes = {
        name: tuple(weight.shape) for name, weight in build("mlp", SMALL, 10, seed=1).named_parameters()
    }
    assert shapes == {"linear1.weight": (128, 64), "linear2.weight": (64, 128), "linear3.weight": (10, 64)}


def test_the_mlp_has_no_biases():
    model = build("HookedMLPClassifier", SMALL, 10, seed=1)
    assert model(torch.zeros(1, *SMALL)).abs().max() == 0


def test_the_mlp_by_hand():
    model = build("mlp", SMALL, 10, seed=1)
    h = images().flatten(1)
    for weight in [model.linear1.weight, model.linear2.weight]:
        h = (h @ weight.T).clamp(min=0)
    assert torch.allclose(model(images()), h @ model.linear3.weight.T, atol=1e-6)


def test_the_mlps_hidden_sizes_are_an_option():
    model = build("mlp", SMALL, 3, seed=1, options={"hidden": (5,)})
    assert [tuple(weight.shape) for weight in model.parameters()] == [(5, 64), (3, 5)]


@pytest.mark.parametrize("hidden", [(0,), (8, -1)])
def test_a_width_below_1_is_refused(hidden):
    with pytest.raises(ValueError, match="--hidden: expected an integer >= 1, or several"):
        build("mlp", SMALL, 10, seed=1, options={"hidden": hidden})


@pytest.fixture(scope="module")
def resnet():
    return build("resnet18", COLOUR, 10, seed=1)


def test_resnet18_has_11_173_962_parameters(resnet):
    assert sum(weight.numel() for weight in resnet.parameters()) == 11_173_962


def test_resnet18_begins_with_a_3_by_3_convolution_of_stride_1(resnet):
    stem = resnet.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)


def test_resnet18_has_no_max_pooling(resnet):
    assert not any(isinstance(module, nn.MaxPool2d) for module in resnet.modules())


def test_hooked_resnet_has_a_tail_without_biases():
    tail = build("HookedResnet", SMALL, 10, seed=1).fc
    assert {name: tuple(weight.shape) for name, weight in tail.named_parameters()} == {
        "hooked.weight": (128, 512),
        "classifier.weight": (10, 128),
    }


def test_hooked_resnets_width_is_an_option():
    assert build("HookedResnet", SMALL, 10, seed=1, options={"hooked_width": 5}).fc.hooked.out_features == 5


def test_a_hooked_width_below_1_is_refused():
    with pytest.raises(ValueError, match="--hooked_width: expected an integer >= 1, got 0"):
        build("HookedResnet", SMALL, 10, seed=1, options={"hooked_width": 0})
