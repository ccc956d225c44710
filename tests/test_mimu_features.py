"""MIMU's features against hooks and slow loops, one image at a time."""

import pytest
import torch
from torch import nn

from lethe.models import split_at
from lethe.unlearn.mimu.graph import Vertices, averaged, averaged_by_class, drawn_by_class, factors_of
from tests.mimu_settings import GRADIENTS
from tests.seeded import CPU, assert_close, generator, normal, seeded
from tests.split_models import InDoubles, fixture_images, fixture_split_model  # noqa: F401 (fixtures)

# One image at a time


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


@pytest.mark.parametrize(
    "cut", [nn.ReLU6(), nn.Sequential(nn.Dropout(), nn.ReLU())], ids=["relu6", "dropout"]
)
def test_the_output_activation_is_cut_off_where_the_logits_do_not_notice(cut, images):
    model = seeded(
        lambda: InDoubles(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5), cut, nn.Linear(5, 4))
    ).eval()
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
    parts = [
        seen_at(layer, model, x, y, "margin") for i, (x, y) in enumerate(one_at_a_time(images)) if i in rows
    ]
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
        for actual, expected in zip(
            (vertices.h, vertices.a, vertices.gradient), loop_averages(layer, model, some, rows), strict=True
        ):
            assert_close(actual[graph], expected)


def test_averages_by_class_are_those_of_a_slow_loop(split_model, images):
    model, layer = split_model
    vertices = averaged_by_class(factors_of(layer, images, "margin", CPU), (2, 0), layer.weight)
    for graph, label in enumerate((2, 0)):
        rows = (images.labels == label).nonzero().squeeze(1).tolist()
        for actual, expected in zip(
            (vertices.h, vertices.a, vertices.gradient),
            loop_averages(layer, model, images, rows),
            strict=True,
        ):
            assert_close(actual[graph], expected)


def test_features_are_standardised_each(split_model, images):
    _, layer = split_model
    features = averaged_by_class(
        factors_of(layer, images, "margin", CPU), images.classes, layer.weight
    ).standardised()
    assert features.shape == (4, 5, 6, 4)
    assert_close(features.mean((1, 2)), torch.zeros(4, 4, dtype=torch.float64))
    assert_close(features.var((1, 2), correction=0), torch.ones(4, 4, dtype=torch.float64))


def test_features_are_input_output_weight_gradient(split_model, images):
    _, layer = split_model
    vertices = averaged(factors_of(layer, images, "margin", CPU), 1, layer.weight)
    features = vertices.standardised()[0]
    raw = torch.stack(
        [vertices.h[0].expand(5, 6), vertices.a[0][:, None].expand(5, 6), layer.weight, vertices.gradient[0]],
        -1,
    )
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
    gradient = normal(
        1, 5, 6, dtype=torch.float32
    )  # what the cross-entropy leaves of an image that the model is sure of
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
