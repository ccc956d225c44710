"""MSG and kgltop2: which weights they choose, and how these are reset and trained."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import unlearn
from lethe.unlearn.msg import gradient_differences, lowest, reinitialise, smaller_gradients
from tests.by_hand import adam, slope
from tests.three_classes import convolutional, data_of, flat, perceptron, whole


def test_lowest_takes_a_share_of_each_tensor():
    scores = {
        "a": torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 9.0]]),
        "b": torch.tensor([1e9]),
        "c": torch.tensor([0.0, 0.0, 0.0]),
    }
    chosen = lowest(scores, 0.34)
    assert chosen["a"].tolist() == [[False, True], [False, True], [False, False]]
    assert [v.sum().item() for v in chosen.values()] == [2, 0, 1]


def gradients_of(model, images):
    x, y = whole(images)
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())),
            strict=True,
        )
    )


def test_msg_scores_by_the_smaller_of_the_two_gradients():
    model, data = convolutional(), data_of()
    scores, forget, retain = (
        smaller_gradients(model, data, 100),
        gradients_of(model, data.forget),
        gradients_of(model, data.retain),
    )
    for name, score in scores.items():
        torch.testing.assert_close(
            score, torch.minimum(forget[name].abs(), retain[name].abs()), rtol=1e-4, atol=1e-7
        )


def test_msg_sums_the_scores_of_all_batches():
    model, data = convolutional(), data_of(forget=[0, 1, 2, 3])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    forget = data.forget.batches(2, generator=data.generator("MSG", "forget"))
    retain = data.retain.batches(2, generator=data.generator("MSG", "beside forget"))
    for (x_f, y_f), (x_r, y_r) in zip(forget, retain, strict=False):
        g_f, g_r = (
            slope(lambda m, x=x, y=y: F.cross_entropy(m(x), y))(model) for x, y in ((x_f, y_f), (x_r, y_r))
        )
        for total, f, r in zip(expected.values(), g_f, g_r, strict=True):
            total += torch.minimum(f.abs(), r.abs())
    found = smaller_gradients(model, data, 2)
    for name, total in expected.items():
        torch.testing.assert_close(found[name], total, rtol=1e-4, atol=1e-7)


def test_msg_multiplies_the_lowest_by_noise_and_leaves_the_others():
    model, data = convolutional(), data_of()
    chosen, noise = lowest(smaller_gradients(model, data, 100), 0.3), noise_of_msg(data, model)
    result = unlearn("MSG", model, data, unlearn_epochs=1, unlearn_lr=1e-12, batch_size=100).model
    for name, weight in model.named_parameters():
        expected = torch.where(chosen[name], noise[name] * weight, weight)
        torch.testing.assert_close(result.get_parameter(name), expected, rtol=0, atol=1e-6)
        assert chosen[name].sum() == round(0.3 * weight.numel())


def noise_of_msg(data, model):
    generator = data.generator("MSG", "reset")
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def test_msg_then_descends_on_retain_by_adam(monkeypatch):
    model, data = perceptron(), data_of()
    monkeypatch.setattr("lethe.unlearn.msg.reset", lambda *_: None)  # the weights stay
    x, y = whole(data.retain)
    result = unlearn("MSG", model, data, unlearn_epochs=3, unlearn_lr=0.05, batch_size=100).model
    adam(model, [slope(lambda m: F.cross_entropy(m(x), y))] * 3, 0.05)
    torch.testing.assert_close(flat(result), flat(model), rtol=0, atol=1e-5)


def test_kgltop2_scores_by_the_difference_of_the_summed_gradients():
    model, data = (
        convolutional(),
        data_of(forget=[*range(9)]),
    )  # as many retain images as forget images: all of them
    scores, forget, retain = (
        gradient_differences(model, data, 100),
        gradients_of(model, data.forget),
        gradients_of(model, data.retain),
    )
    for name, score in scores.items():
        torch.testing.assert_close(score, (retain[name] - forget[name]).abs(), rtol=1e-4, atol=1e-7)


def test_kgltop2_reinitialises_kernels_alone():
    model, data = convolutional(), data_of()
    result = unlearn(
        "MSG", model, data, msg_variant="kgltop2", reset_share=0.5, unlearn_epochs=1, unlearn_lr=1e-12
    ).model
    moved = {
        name: ((result.get_parameter(name) - p).abs() > 1e-6).sum().item()
        for name, p in model.named_parameters()
    }
    assert {name: count for name, count in moved.items() if count} == {
        "0.weight": 18,
        "3.weight": 12,
        "4.weight": 2,
    }


def test_kgltop2_draws_by_the_outputs_that_a_weight_reaches():
    model = nn.Sequential(nn.Conv2d(4, 64, 3))  # fan_in 4 * 9, fan_out 64 * 9
    reinitialise(model, {"0.weight": torch.ones(64, 4, 3, 3, dtype=torch.bool)}, data_of())
    assert model[0].weight.mean().item() == pytest.approx(0, abs=0.005)
    assert model[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_kgltop2_trains_the_other_entries_of_the_kernels_a_tenth_as_fast(monkeypatch):
    from lethe.unlearn import msg

    model, data, marked = convolutional(), data_of(), {}
    model[6].p = 0.0
    monkeypatch.setattr(
        msg, "reinitialise", lambda student, chosen, data: marked.update(chosen)
    )  # the weights stay
    size = len(data.retain)
    result = unlearn(
        "MSG", model, data, msg_variant="kgltop2", unlearn_epochs=1, unlearn_lr=0.1, batch_size=size
    ).model
    gradients = gradients_of(copy.deepcopy(model).train(), data.retain)
    for name, weight in model.named_parameters():
        gradient = gradients[name] + 5e-4 * weight.detach() / (
            torch.where(marked[name], 1.0, 0.1) if name in marked else 1.0
        )
        scale = torch.where(marked[name], 1.0, 0.1) if name in marked else torch.ones(())
        torch.testing.assert_close(
            result.get_parameter(name), weight - 0.1 * scale * gradient, rtol=1e-3, atol=1e-6
        )
    assert marked.keys() == {"0.weight", "3.weight", "4.weight"}


def test_kgltop2_needs_a_convolution():
    reason = "--msg_variant kgltop2: expected a model with a convolution, got one without"
    with pytest.raises(ValueError, match=reason):
        unlearn("MSG", perceptron(), data_of(), msg_variant="kgltop2")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_msg_resets_some_weights_and_not_all(share):
    with pytest.raises(ValueError, match="--reset_share: expected a number between 0 and 1"):
        unlearn("MSG", perceptron(), data_of(), reset_share=share)
