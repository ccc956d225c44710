"""Scissorhands: the projection by hand, what is reset, and a step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import copy_of, resolved, unlearn
from lethe.unlearn.fisher_information import batch_gradient
from lethe.unlearn.fresh_weights import as_new_layers, reset_entries
from lethe.unlearn.scissorhands import most_sensitive, names_of_scales, project, step
from tests.by_hand import sgd, slope
from tests.three_classes import convolutional, data_of, flat, perceptron, whole

AWAY = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}  # |g_o|^2 = 2


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        ({"a": [-4.0, 1.0], "b": [0.0]}, {"a": [-2.0, 1.0], "b": [2.0]}),  # <g, g_o> = -2 |g_o|^2: v = 2
        ({"a": [-0.2, 1.0], "b": [0.0]}, {"a": [0.3, 1.0], "b": [0.5]}),  # -.1 |g_o|^2: v = .5
        ({"a": [1.0, 1.0], "b": [-1.0]}, {"a": [1.0, 1.0], "b": [-1.0]}),  # no conflict over both
    ],
)
def test_a_gradient_that_would_learn_forget_is_turned_away(g, expected):
    gradients = {name: torch.tensor(values) for name, values in g.items()}
    project(gradients, AWAY)
    assert {name: gradient.tolist() for name, gradient in gradients.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }


def test_small_gradients_are_turned_away_as_far():
    gradients = {"a": torch.tensor([-4e-6, 0.0]), "b": torch.tensor([0.0])}
    away = {name: 1e-6 * g for name, g in AWAY.items()}
    project(gradients, away)
    assert sum((gradients[name] * away[name]).sum() for name in away).item() == pytest.approx(0, abs=1e-18)


def test_the_weights_with_the_largest_weight_times_gradient_are_marked():
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    scores = torch.cat([(p * g).abs().flatten() for p, g in zip(model.parameters(), slopes, strict=True)])
    marked = most_sensitive(model, [(x, y)], 0.1)
    flags = torch.cat([mask.flatten() for mask in marked.values()])
    assert flags.sum() == round(0.1 * len(scores))
    assert scores[flags].min() >= scores[~flags].max()


def test_the_size_is_of_each_batch_and_they_are_averaged():
    """Batches whose gradients cancel are not none."""
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    parts = [(x[:3], y[:3]), (x[3:], y[3:])]
    total = sum(torch.autograd.grad(F.cross_entropy(model(a), b), model[1].weight)[0].abs() for a, b in parts)
    expected = (total * model[1].weight).abs()
    flags = most_sensitive(model, parts, 0.5)["1.weight"]
    assert expected[flags].min() >= expected[~flags].max()


def test_of_one_weight_at_most_one_is_reset():
    model = perceptron()
    count = flat(model).numel()
    result = unlearn("Scissorhands", model, data_of(), sparsity=1 - 1 / count, unlearn_epochs=1)
    assert result.facts["marked"] == 1
    assert result.facts["reset"] <= 1


def test_batch_norm_and_the_first_blocks_are_not_reset():
    model = convolutional()
    assert names_of_scales(model) == {"1.weight", "1.bias"}
    given = {"sparsity": 0.0, "unlearn_epochs": 1, "unlearn_lr": 1e-30, "last_blocks": 1}
    after = unlearn("Scissorhands", model, data_of(), **given).model
    changed = {
        name for name, p in after.named_parameters() if (p - model.get_parameter(name)).abs().max() > 1e-20
    }
    assert changed == {"4.weight", "4.bias", "7.weight", "7.bias"}


def test_no_scale_is_reset():
    layers = (nn.InstanceNorm1d(4, affine=True), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.PReLU(4))
    expected = {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "3.weight"}
    assert names_of_scales(nn.Sequential(*layers, nn.Linear(4, 3))) == expected


def test_once_forget_is_through_a_step_is_one_of_the_retain_loss():
    model, (x, y) = perceptron(), whole(data_of().retain)
    gradient = slope(lambda m: F.cross_entropy(m(x), y))
    against = {name: -g for name, g in batch_gradient(model, x, y).items()}
    expected, student = copy_of(model), copy_of(model)
    sgd(expected, [gradient], 0.1)
    step(student, (x, y), None, 0.5, against, torch.optim.SGD(student.parameters(), lr=0.1))
    torch.testing.assert_close(flat(student), flat(expected))


def test_the_sensitivity_and_the_way_away_are_of_the_model_in_eval_mode(monkeypatch):
    modes = []

    def noted(model, x, y):
        modes.append(model.training)
        return batch_gradient(model, x, y)

    monkeypatch.setattr("lethe.unlearn.scissorhands.batch_gradient", noted)
    unlearn("Scissorhands", convolutional(), data_of(), unlearn_epochs=2)
    assert modes == [False] * 3


def test_as_many_batches_count_for_the_sensitivity_as_are_asked_for():
    model, data = perceptron(), data_of()  # two batches of three
    one, two, many = (
        flat(unlearn("Scissorhands", model, data, prune_batches=n, batch_size=3, unlearn_epochs=1).model)
        for n in (1, 2, 50)
    )
    assert torch.equal(two, many)
    assert not torch.equal(one, two)


def test_more_batches_of_forget_than_of_retain():
    data = data_of(forget=list(range(15)))
    result = unlearn("Scissorhands", perceptron(), data, batch_size=4, unlearn_epochs=2)
    assert [list(row) for row in result.history] == [["retain_loss"]] * 2


def test_two_epochs_by_hand():
    """One batch of each: the first step of each epoch, over the last block and the classifier."""
    model, data = perceptron(), data_of()
    (x_f, y_f), (x_r, y_r) = whole(data.forget), whole(data.retain)
    expected = copy_of(model)
    marked = most_sensitive(expected, [(x_f, y_f)], 0.2)
    draws = as_new_layers(data.generator("Scissorhands", "reset"))
    reset_entries(expected, {name: marked[name] for name in ("3.weight", "3.bias")}, draws)

    def gradient(student):
        away = torch.autograd.grad(-F.cross_entropy(student(x_f), y_f), list(student[3].parameters()))
        loss = F.cross_entropy(student(x_r), y_r) - 0.5 * F.cross_entropy(student(x_f), y_f)
        g = dict(zip("abcd", torch.autograd.grad(loss, list(student.parameters())), strict=True))
        project({"c": g["c"], "d": g["d"]}, dict(zip("cd", away, strict=True)))
        return list(g.values())

    sgd(expected, [gradient] * 2, 0.1, momentum=0.9, decay=5e-4)
    found = unlearn(
        "Scissorhands",
        model,
        data,
        sparsity=0.8,
        last_blocks=0,
        shs_lambda=0.5,
        unlearn_lr=0.1,
        unlearn_epochs=2,
    )
    torch.testing.assert_close(flat(found.model), flat(expected), rtol=1e-4, atol=1e-5)


def test_half_of_the_blocks_by_default_and_no_more_than_there_are():
    assert resolved("Scissorhands", convolutional(), data_of(), {}) == {"last_blocks": 1}
    with pytest.raises(ValueError, match="--last_blocks: expected at most 3, the blocks before .*, got 4"):
        resolved("Scissorhands", convolutional(), data_of(), {"last_blocks": 4})


def test_a_model_without_a_block_before_its_classifier_has_its_classifier_reset():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    result = unlearn("Scissorhands", model, data_of(), unlearn_epochs=1)
    assert result.facts["reset"] == result.facts["marked"]
