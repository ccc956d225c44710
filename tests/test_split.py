"""The split of a model around a layer, head(layer(body(x)), x) = model(x), and that it leaves the model as it
was.
"""

import copy

import pytest
import torch
from torch import nn

from lethe.models import build, evaluating, linear_layers, split_at, tail_at
from tests.layered_models import SMALL, Branches, Small, fixture_built, images, sequential  # noqa: F401 (a fixture)
from tests.seeded import states_equal

# Models that are split at a layer


class Skips(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        return self.last(h + self.masked(h).relu())


class Asserts(Small):
    def forward(self, x):
        assert isinstance(x, torch.Tensor), "expected a tensor"
        return self.last(self.masked(self.first(x.flatten(1)).relu()).relu())


class ReadsTheSizeLate(Small):
    def forward(self, x):
        return self.last(
            self.masked(self.first(x.flatten(1)).relu()).view(len(x), x.size(0) * 6 // x.shape[0])
        )


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
    reason = "expected a model whose logits depend on layer 'masked' alone, got one that bypasses it"
    with pytest.raises(ValueError, match=reason):
        tail_at(Skips(), "masked", images())


@pytest.mark.parametrize("kind", [Skips, Branches, Asserts, ReadsTheSizeLate, ScalesLate])
def test_the_parts_of_any_module_give_the_model(kind):
    model = kind()
    assert torch.equal(
        put_together(split_at(model, "masked", images()), images(seed=7)), model(images(seed=7))
    )


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
    assert (parts.shape, parts.size, tuple(parts.weight.shape), tuple(parts.bias.shape)) == (
        (5, 6),
        30,
        (5, 6),
        (5,),
    )


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
    return [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
    ]


def half_training():
    """In train mode, but for one part."""
    model = Normalises().train()
    model.after.eval()
    return model


@pytest.mark.parametrize(
    "model", [half_training(), Skips().train(), Branches().train()], ids=["batch norm", "skip", "branch"]
)
def test_splitting_and_computing_leave_the_training_flags_alone(model):
    before = flags_of(model)
    put_together(split_at(model, "masked", images()), images())
    assert flags_of(model) == before


@pytest.mark.parametrize(
    "model", [half_training(), Skips(), Branches()], ids=["batch norm", "skip", "branch"]
)
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
