"""Architectures, the split around a layer, and masks applied and lifted."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models import ARCHITECTURES, Mask, apply_mask, build, evaluating, find_layer, lift_mask, linear_layers, split_at, switched_off, tail_at

FEW = settings(deadline=None, max_examples=25)
EVERY = [entry.name for entry in ARCHITECTURES if entry.name != "resnet9"]  # it takes no 8 x 8; tests/test_architectures.py has all
SMALL, COLOUR = (1, 8, 8), (3, 32, 32)


def images(shape=SMALL, count=3, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=EVERY)
def built(request):
    """Each architecture for small images; a test that changes it works on a copy."""
    return build(request.param, SMALL, 10, seed=1)


# Architectures


def test_the_architectures():
    assert {"mlp", "resnet18", "HookedResnet"} <= set(EVERY)


def test_an_architecture_gives_logits(built):
    assert built(images()).shape == (3, 10)


@pytest.mark.parametrize("arch", EVERY)
def test_an_architecture_gives_logits_for_colour_images(arch):
    assert build(arch, COLOUR, 7, seed=1)(images(COLOUR, count=2)).shape == (2, 7)


def test_a_new_model_is_in_eval_mode(built):
    assert not any(module.training for module in built.modules())


def states_equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


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
    shapes = {name: tuple(weight.shape) for name, weight in build("mlp", SMALL, 10, seed=1).named_parameters()}
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
    with pytest.raises(ValueError, match="--hidden: expected widths >= 1"):
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


# Layers


def sequential(*, bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4, bias=bias)
    ).eval()


class Small(nn.Module):
    """flatten -> first -> relu -> masked -> relu -> last, what else happens is up to `forward`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.masked, self.last = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.eval()


class Skips(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        return self.last(h + self.masked(h).relu())


class Branches(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        if h.sum() > 1e9:
            h = -h
        return self.last(self.masked(h).relu())


class Asserts(Small):
    def forward(self, x):
        assert isinstance(x, torch.Tensor), "expected a tensor"
        return self.last(self.masked(self.first(x.flatten(1)).relu()).relu())


class ReadsTheSizeLate(Small):
    def forward(self, x):
        return self.last(self.masked(self.first(x.flatten(1)).relu()).view(len(x), x.size(0) * 6 // x.shape[0]))


class ScalesLate(Small):
    """A parameter that the head reads, made before the layer runs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        doubled = 2 * self.scale
        return self.last(self.masked(self.first(x.flatten(1)).relu()) * self.scale * doubled)


class Normalises(nn.Module):
    """Batch norm and dropout on both sides of the masked layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout())
        self.masked = nn.Linear(6, 6)
        self.after = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4))

    def forward(self, x):
        return self.after(self.masked(self.before(x)))


class RunsTwice(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        return self.last(self.masked(self.masked(h).relu()))


class SeesRows(nn.Module):
    """A layer that sees each row of an image."""

    def __init__(self):
        super().__init__()
        self.masked, self.last = nn.Linear(8, 3), nn.Linear(24, 4)

    def forward(self, x):
        return self.last(self.masked(x.squeeze(1)).flatten(1))


class SeesRowsAsImages(SeesRows):
    """The same with the rows of all images in one list."""

    def forward(self, x):
        return self.last(self.masked(x.reshape(-1, 8)).view(len(x), -1))


class CutsItOff(Small):
    """z is read by a relu, in one of the ways in which one can be written."""

    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, x):
        return self.last(self.relu(self.masked(self.first(x.flatten(1)))))


class CutsItOffAndReadsIt(Small):
    def forward(self, x):
        z = self.masked(self.first(x.flatten(1)))
        return self.last(z.relu() + z)


class LeavesOneOut(Small):
    """Its layer `masked` does not run."""

    def forward(self, x):
        return self.last(self.first(x.flatten(1)))


RELUS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": nn.functional.relu,
    "torch": torch.relu,
    "torch, in place": torch.relu_,
    "method": lambda z: z.relu(),
    "method, in place": lambda z: z.relu_(),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_a_relu_that_alone_reads_the_layer_is_seen(relu):
    assert split_at(CutsItOff(relu), "masked", images()).relu_follows


@pytest.mark.parametrize(
    "model",
    [CutsItOff(nn.Tanh()), CutsItOff(nn.LeakyReLU()), CutsItOff(lambda z: -z), CutsItOffAndReadsIt(), Branches()],
    ids=["tanh", "leaky relu", "minus", "read twice", "untraceable"],
)
def test_no_relu_is_seen_where_something_else_reads_the_layer(model):
    assert not split_at(model, "masked", images()).relu_follows


def test_linear_layers_come_in_forward_order():
    class Backwards(Small):
        def forward(self, x):
            return self.masked(self.first(x.flatten(1)))

    model = Backwards()
    model.add_module("first", model._modules.pop("first"))
    assert list(linear_layers(model, images())) == ["first", "masked"]


def test_linear_layers_come_with_the_input_that_they_saw():
    model = sequential()
    assert torch.equal(linear_layers(model, images())["3"], model[:3](images()))


@pytest.mark.parametrize(
    ("mask_layer", "name"), [("linear1", "linear1"), ("0", "linear1"), ("1", "linear2"), ("-1", "linear3"), ("-3", "linear1")]
)
def test_a_layer_is_found_by_name_or_index(mask_layer, name):
    assert find_layer(build("mlp", SMALL, 10, seed=1), mask_layer, images()) == name


def test_a_nested_layer_is_found_by_its_name():
    assert find_layer(build("HookedResnet", SMALL, 10, seed=1), "fc.hooked", images()) == "fc.hooked"


@pytest.mark.parametrize("index", ["3", "-4", "99"])
def test_an_index_that_does_not_exist_is_refused(index):
    with pytest.raises(
        ValueError, match=rf"--mask_layer: expected an index from -3 to 2, got {index}\. Linear layers: linear1, linear2, linear3"
    ):
        find_layer(build("mlp", SMALL, 10, seed=1), index, images())


def test_a_name_that_does_not_exist_gets_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"unknown layer 'liner2'\. Did you mean 'linear2'\? Linear layers: linear1, linear2, linear3"):
        find_layer(build("mlp", SMALL, 10, seed=1), "liner2", images())


@pytest.mark.parametrize("mask_layer", ["", "-", "--2", "1.5"])
def test_what_is_neither_name_nor_index_is_refused(mask_layer):
    with pytest.raises(ValueError, match="--mask_layer: unknown layer"):
        find_layer(build("mlp", SMALL, 10, seed=1), mask_layer, images())


def test_a_layer_that_is_not_linear_is_refused():
    with pytest.raises(ValueError, match=r"--mask_layer: expected a linear layer, got 'relu1', a ReLU\. Linear layers: linear1"):
        find_layer(build("mlp", SMALL, 10, seed=1), "relu1", images())


@pytest.mark.parametrize("kind", [SeesRows, SeesRowsAsImages])
def test_a_layer_that_sees_several_vectors_an_image_is_refused(kind):
    with pytest.raises(ValueError, match="--mask_layer: expected a layer that sees one vector an image, and 'masked' sees"):
        find_layer(kind(), "masked", images())


def test_a_layer_that_runs_twice_is_refused():
    with pytest.raises(ValueError, match="--mask_layer: expected a layer that"):
        find_layer(RunsTwice(), "masked", images())


def test_a_layer_that_does_not_run_is_refused():
    with pytest.raises(ValueError, match=r"--mask_layer: .* Linear layers: first, last"):
        find_layer(LeavesOneOut(), "masked", images())


# The split: head(layer(body(x)), x) = model(x)


def put_together(parts, x):
    return parts.head(parts.layer(parts.body(x)), x)


def test_the_parts_of_every_architecture_give_the_model(built):
    parts = split_at(built, built.mask_layer, images())
    assert torch.equal(put_together(parts, images(seed=7)), built(images(seed=7)))


@pytest.mark.parametrize("index", ["0", "1", "-1"])
def test_every_layer_of_the_mlp_can_be_split_at(index):
    model = build("mlp", SMALL, 10, seed=1)
    assert torch.equal(put_together(split_at(model, index, images()), images(seed=7)), model(images(seed=7)))


def test_the_tail_of_every_architecture_gives_the_model_from_its_layer_on(built):
    h = split_at(built, built.mask_layer, images()).body(images(seed=7))
    tail = tail_at(built, built.mask_layer, images())
    assert torch.equal(tail(h), built(images(seed=7)))
    again = split_at(tail, tail.mask_layer, h[:2])
    assert not again.needs_images
    assert torch.equal(put_together(again, h), tail(h))


def test_what_is_done_to_a_tail_does_not_reach_the_model():
    model = build("mlp", SMALL, 10, seed=1)
    before = model(images())
    with torch.no_grad():
        tail_at(model, "-2", images()).layer.weight.zero_()
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["1", "3", "5"])
def test_the_parts_of_a_plain_sequential_give_the_model(bias, name):
    model = sequential(bias=bias)
    assert torch.equal(put_together(split_at(model, name, images()), images(seed=7)), model(images(seed=7)))


def test_a_model_that_leads_around_the_layer_has_no_tail():
    with pytest.raises(ValueError, match="expected a model whose logits depend on layer 'masked' alone, got one that leads around it"):
        tail_at(Skips(), "masked", images())


@pytest.mark.parametrize("kind", [Skips, Branches, Asserts, ReadsTheSizeLate, ScalesLate])
def test_the_parts_of_any_module_give_the_model(kind):
    model = kind()
    assert torch.equal(put_together(split_at(model, "masked", images()), images(seed=7)), model(images(seed=7)))


def test_the_parts_take_another_number_of_images():
    model = build("mlp", SMALL, 10, seed=1)
    parts = split_at(model, "-2", images(count=2))
    assert torch.equal(put_together(parts, images(count=9)), model(images(count=9)))


@pytest.mark.parametrize(
    ("model", "name", "needed"),
    [(sequential(), "3", False), (Skips(), "masked", True), (Branches(), "masked", True)],
    ids=["plain", "skip", "branch"],
)
def test_the_head_needs_images_where_there_is_a_way_around_the_layer(model, name, needed):
    assert split_at(model, name, images()).needs_images == needed


def test_a_head_that_needs_no_images_takes_none():
    model = sequential()
    parts = split_at(model, "3", images())
    assert torch.equal(parts.head(parts.layer(parts.body(images())), None), model(images()))


def test_no_architecture_needs_its_images_twice(built):
    assert not split_at(built, built.mask_layer, images()).needs_images


@pytest.mark.parametrize("model", [sequential(), Skips(), Branches()], ids=["plain", "skip", "branch"])
def test_the_body_gives_what_the_layer_sees(model):
    parts = split_at(model, "-2", images())
    assert torch.equal(parts.body(images()), linear_layers(model, images())[parts.name])


@pytest.mark.parametrize("model", [sequential(), Skips(), Branches()], ids=["plain", "skip", "branch"])
def test_the_head_has_the_gradient_of_the_model(model):
    parts = split_at(model, "-2", images())
    z = parts.layer(parts.body(images())).detach().requires_grad_()
    put_in = parts.layer.register_forward_hook(lambda *_: z)
    (expected,) = torch.autograd.grad(model(images()).square().sum(), z)
    put_in.remove()
    (gradient,) = torch.autograd.grad(parts.head(z, images()).square().sum(), z)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_the_head_does_not_write_into_what_it_is_given():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)).eval()
    parts = split_at(model, "1", images())
    z = parts.layer(parts.body(images())).detach()
    before = z.clone()
    parts.head(z, None)
    assert torch.equal(z, before)


def test_weight_shape_and_size_are_the_layers():
    parts = split_at(sequential(bias=True), "3", images())
    assert (parts.shape, parts.size, tuple(parts.weight.shape), tuple(parts.bias.shape)) == ((5, 6), 30, (5, 6), (5,))


def test_a_layer_without_bias_has_none():
    assert split_at(sequential(), "3", images()).bias is None


def test_the_weight_is_detached():
    assert not split_at(sequential(), "3", images()).weight.requires_grad


def test_splitting_refuses_what_finding_refuses():
    with pytest.raises(ValueError, match="expected an index from -3 to 2, got 7"):
        split_at(sequential(), "7", images())


# The model is left as it was


def flags_of(model):
    return {name: module.training for name, module in model.named_modules()}


def hooks_of(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]


def half_training():
    """In train mode, but for one part."""
    model = Normalises().train()
    model.after.eval()
    return model


@pytest.mark.parametrize("model", [half_training(), Skips().train(), Branches().train()], ids=["batch norm", "skip", "branch"])
def test_splitting_and_computing_leave_the_training_flags_alone(model):
    before = flags_of(model)
    put_together(split_at(model, "masked", images()), images())
    assert flags_of(model) == before


@pytest.mark.parametrize("model", [half_training(), Skips(), Branches()], ids=["batch norm", "skip", "branch"])
def test_splitting_and_computing_leave_the_hooks_alone(model):
    model.masked.register_forward_hook(lambda *_: None)
    before = hooks_of(model)
    put_together(split_at(model, "masked", images()), images())
    assert hooks_of(model) == before


def test_splitting_leaves_the_state_alone():
    model = half_training()
    before = copy.deepcopy(model.state_dict())
    split_at(model, "masked", images())
    assert states_equal(model.state_dict(), before)


def test_the_parts_compute_in_eval_mode_whatever_the_models_mode():
    model = Normalises().train()
    with evaluating(model):
        expected = model(images())
    parts = split_at(model, "masked", images())
    assert torch.equal(put_together(parts, images()), expected)


def test_a_forward_pass_that_fails_leaves_no_hooks():
    model = Skips()
    with pytest.raises(RuntimeError):
        linear_layers(model, images((1, 3, 3)))
    assert sum(hooks_of(model)) == 0


def test_evaluating_restores_each_modules_mode_after_an_error():
    model = half_training()
    before = flags_of(model)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert flags_of(model) == before


def test_evaluating_is_in_eval_mode():
    model = half_training()
    with evaluating(model):
        assert not any(flags_of(model).values())


# Masks


def drawn(seed, layer="3", shape=(5, 6), share=0.5):
    return Mask(layer, torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share)


def by_hand(model, *masks):
    """The output of sequential() with its layer "3" computed as (W * M_1 * ... * M_k) h + b."""
    weight = model[3].weight.detach().clone()
    for mask in masks:
        weight = weight * mask.keep.float()
    return model[4:](F.linear(model[:3](images()), weight, model[3].bias))


@pytest.mark.parametrize("bias", [False, True])
def test_a_masked_model_computes_with_w_times_m(bias):
    model = sequential(bias=bias)
    expected = by_hand(model, drawn(1))
    apply_mask(model, drawn(1))
    assert torch.equal(model(images()), expected)


def test_several_masks_multiply():
    model = sequential()
    expected = by_hand(model, drawn(1), drawn(2, share=0.8))
    apply_mask(model, drawn(1))
    apply_mask(model, drawn(2, share=0.8))
    assert torch.equal(model(images()), expected)


def test_a_mask_switches_off_a_weight_that_is_not_finite():
    model = sequential()
    with torch.no_grad():
        model[3].weight[0, 0] = float("inf")
    keep = torch.ones(5, 6, dtype=torch.bool)
    keep[0, 0] = False
    apply_mask(model, Mask("3", keep))
    assert model(images()).isfinite().all()


@FEW
@given(st.permutations(range(10)), st.permutations(range(10)), st.booleans())
def test_masks_lifted_in_any_order_give_the_model_back_bit_for_bit(applied, lifted, bias):
    model, masks = sequential(bias=bias), [drawn(seed, share=0.9) for seed in range(10)]
    before = copy.deepcopy(model.state_dict())
    for i in applied:
        apply_mask(model, masks[i])
    for i in lifted:
        lift_mask(model, masks[i])
    assert states_equal(model.state_dict(), before)


@FEW
@given(st.permutations(range(4)), st.integers(0, 3))
def test_after_some_are_lifted_the_others_still_act(order, count):
    model, masks = sequential(), [drawn(seed, share=0.8) for seed in range(4)]
    expected = by_hand(model, *(masks[i] for i in order[count:]))
    for mask in masks:
        apply_mask(model, mask)
    for i in order[:count]:
        lift_mask(model, masks[i])
    assert torch.equal(model(images()), expected)


def test_special_values_come_back_bit_for_bit():
    model = sequential()
    with torch.no_grad():
        model[3].weight[0] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3e38])
    before = model[3].weight.detach().clone().view(torch.int32)
    apply_mask(model, drawn(1, share=0.0))
    lift_mask(model, drawn(1, share=0.0))
    assert torch.equal(model[3].weight.detach().view(torch.int32), before)


def test_the_parameter_object_comes_back():
    model = sequential()
    weight = model[3].weight
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert model[3].weight is weight


def test_the_layer_is_a_plain_linear_layer_again():
    model = sequential()
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert type(model[3]) is nn.Linear and dict(model[3].named_children()) == {}


def test_the_parameters_keep_their_order():
    model = sequential(bias=True)
    before = list(dict(model.named_parameters()))
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert list(dict(model.named_parameters())) == before


def test_applying_the_same_mask_twice_takes_two_lifts():
    model = sequential()
    expected = by_hand(model, drawn(1))
    apply_mask(model, drawn(1))
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert torch.equal(model(images()), expected)


def test_a_mask_that_was_never_applied_cannot_be_lifted():
    with pytest.raises(ValueError, match="expected a mask that was put on layer '3' by apply_mask"):
        lift_mask(sequential(), drawn(1))


def test_another_mask_than_the_applied_one_cannot_be_lifted():
    model = sequential()
    apply_mask(model, drawn(1))
    with pytest.raises(ValueError, match="expected a mask that was put on layer '3' by apply_mask"):
        lift_mask(model, drawn(2))


def test_a_mask_cannot_be_lifted_twice():
    model = sequential()
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    with pytest.raises(ValueError, match="expected a mask that was put on"):
        lift_mask(model, drawn(1))


@pytest.mark.parametrize("act", [apply_mask, lift_mask, switched_off])
@pytest.mark.parametrize("layer", ["9", "2", ""])
def test_a_mask_for_a_layer_that_is_not_there_is_refused(act, layer):
    with pytest.raises(ValueError, match=f"expected a model with a linear layer '{layer}', got one without"):
        act(sequential(), drawn(1, layer=layer))


@pytest.mark.parametrize("act", [apply_mask, lift_mask, switched_off])
def test_a_mask_of_another_shape_is_refused(act):
    with pytest.raises(ValueError, match=r"expected a mask of shape \(5, 6\) for layer '3', got \(6, 5\)"):
        act(sequential(), drawn(1, shape=(6, 5)))


def test_a_refused_mask_leaves_the_model_alone():
    model = sequential()
    with pytest.raises(ValueError, match="expected a mask of shape"):
        apply_mask(model, drawn(1, shape=(6, 5)))
    assert type(model[3]) is nn.Linear


@pytest.mark.parametrize("keep", [torch.ones(5, 6), torch.ones(5, 6, dtype=torch.int64), torch.ones(30, dtype=torch.bool)])
def test_a_mask_is_a_matrix_of_bools(keep):
    with pytest.raises(ValueError, match=r"mask: expected a bool tensor \(m, n\), got"):
        Mask("3", keep)


def test_kappa_count_is_the_number_of_weights_switched_off():
    assert Mask("3", torch.tensor([[True, False, False], [True, True, False]])).kappa_count == 3


def test_a_change_of_the_mask_after_it_was_applied_does_not_reach_the_model():
    model, keep = sequential(), torch.ones(5, 6, dtype=torch.bool)
    expected = model(images())
    apply_mask(model, Mask("3", keep))
    keep[:] = False
    assert torch.equal(model(images()), expected)


def test_a_masked_model_can_be_copied():
    model = sequential()
    apply_mask(model, drawn(1))
    twin = copy.deepcopy(model)
    lift_mask(twin, drawn(1))
    assert torch.equal(model(images()), by_hand(twin, drawn(1)))


def test_a_weight_that_is_switched_off_has_no_gradient():
    model = sequential()
    apply_mask(model, drawn(1))
    model(images()).sum().backward()
    gradient = model[3].parametrizations.weight.original.grad
    assert (gradient[~drawn(1).keep] == 0).all() and (gradient[drawn(1).keep] != 0).any()


def test_switched_off_writes_zeros_there_alone():
    model, keep = sequential(bias=True), drawn(1).keep
    before = copy.deepcopy(model.state_dict())
    switched_off(model, drawn(1))
    expected = before | {"3.weight": before["3.weight"] * keep}
    assert states_equal(model.state_dict(), expected) and not torch.equal(before["3.weight"], expected["3.weight"])


def test_a_model_switched_off_computes_as_one_masked():
    masked, written = sequential(), sequential()
    apply_mask(masked, drawn(1))
    switched_off(written, drawn(1))
    assert torch.equal(masked(images()), written(images()))


def test_switching_off_under_another_mask_is_for_good():
    model = sequential()
    apply_mask(model, drawn(1))
    switched_off(model, drawn(2))
    lift_mask(model, drawn(1))
    assert (model[3].weight[~drawn(2).keep] == 0).all()
