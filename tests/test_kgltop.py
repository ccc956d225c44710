"""The challenge's top solutions: what they damage, by hand, and what they descend."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.end_layers import first_layer_of
from lethe.unlearn.kgltop1 import contrast_loss, from_uniform
from lethe.unlearn.kgltop3 import balanced_weights
from lethe.unlearn.kgltop4 import entropy, redraw_smallest
from lethe.unlearn.kgltop6 import divergence
from tests.by_hand import sgd, slope
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole

NOTHING = 1e-12  # a learning rate that moves no weight


def moved(before, after):
    """The tensors that differ by more than rounding."""
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {name for (name, p), q in pairs if (p - q).abs().max() > 1e-6}


def with_validation(data):
    return ForgetData(data.forget, data.retain, data.retain, CLASSES, seed=data.seed)


# kgltop1


def test_uniform_predictions_have_no_distance_from_uniform():
    assert from_uniform(torch.full((3, 5), 2.0), torch.zeros(3)).item() == pytest.approx(0, abs=1e-6)
    two = torch.tensor([[0.0, math.log(3)]])  # p = (1/4, 3/4)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert from_uniform(two, torch.zeros(1)).item() == pytest.approx(expected)


def test_the_contrast_with_equal_retain_logits_is_the_log_of_their_number():
    of_retain = torch.tensor([1.0, 2.0, 3.0]).expand(7, 3)
    forget = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert contrast_loss(forget, of_retain).item() == pytest.approx(math.log(7))


def test_the_contrast_by_hand():
    forget, of_retain = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0], [math.log(3), 0.0]])
    assert contrast_loss(forget, of_retain).item() == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2)


def test_kgltop1_reads_no_label_of_forget():
    data = data_of()
    mislabelled = replace(data, forget=replace(data.forget, labels=2 - data.forget.labels))
    one, other = (
        unlearn("kgltop1", perceptron(), each, unlearn_epochs=2).model for each in (data, mislabelled)
    )
    assert torch.equal(flat(one), flat(other))


def test_kgltop1_by_hand():
    model, data = perceptron(), data_of()
    (x_f, _), (x_r, y_r) = whole(data.forget), whole(data.retain)
    expected = copy.deepcopy(model)

    def flatten(m):
        return -m(x_f).log_softmax(1).mean()

    def contrast(m):
        return -(m(x_f) @ m(x_r).detach().T / 2).log_softmax(1).mean()

    def repair(m):
        return F.cross_entropy(m(x_r), y_r)

    pushes, repairs = ([torch.zeros_like(p) for p in model.parameters()] for _ in range(2))

    def step(loss, velocity, rate, decay=0.0):
        slopes = slope(loss)(expected)
        with torch.no_grad():
            for p, b, g in zip(expected.parameters(), velocity, slopes, strict=True):
                p -= rate * b.mul_(0.9).add_(g + decay * p)

    sgd(expected, [slope(flatten)], 0.2)
    for rate in (0.1, (0.1 + 1e-6) / 2):  # by a cosine
        step(contrast, pushes, rate)
        step(repair, repairs, 0.05, decay=0.3)
    settings = {"flatten_lr": 0.2, "contrast_lr": 0.1, "unlearn_lr": 0.05, "weight_decay": 0.3}
    found = unlearn("kgltop1", model, data, unlearn_epochs=2, temperature=2.0, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-5)


# kgltop3


def test_kgltop3_without_noise_by_hand():
    model, data = perceptron(), data_of(forget=[0, 3, 6, 9, 12, 1])  # 1, 5 and 6 images stay of each class
    batches = list(data.retain.batches(4, generator=data.generator("kgltop3", "order")))
    share = {0: 12 / (3 * 1), 1: 12 / (3 * 5), 2: 12 / (3 * 6)}

    def loss_of(x, y):
        weight = sum(share[label] for label in y.tolist()) / len(y)
        return slope(lambda m: weight * F.cross_entropy(m(x), y))

    expected = copy.deepcopy(model)
    rates = [0.1 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    sgd(expected, [loss_of(x, y) for x, y in batches], rates, momentum=0.9, decay=5e-4)
    settings = {"unlearn_lr": 0.1, "batch_size": 4, "first_noise": 0.0, "last_noise": 0.0}
    found = unlearn("kgltop3", model, data, unlearn_epochs=1, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-6)


def test_kgltop3_adds_noise_before_its_last_epoch():
    model = convolutional()
    settings = {"unlearn_lr": NOTHING, "first_noise": 0.0, "last_noise": 0.3}
    result = unlearn("kgltop3", model, data_of(), unlearn_epochs=2, **settings).model
    assert moved(model, result) == {"0.weight", "0.bias"}


def test_kgltop3_adds_noise_to_the_first_convolution_alone():
    model, data = convolutional(), data_of()
    result = unlearn("kgltop3", model, data, unlearn_epochs=2, unlearn_lr=NOTHING).model
    assert moved(model, result) == {"0.weight", "0.bias"}


def test_its_noise_has_the_standard_deviation_that_is_asked_for():
    model = seeded(lambda: nn.Conv2d(1, 2000, 3), nn.Flatten, lambda: nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 1, 4, 4))
    settings = {"unlearn_epochs": 1, "unlearn_lr": NOTHING, "last_noise": 0.0}
    result = unlearn("kgltop3", model, data_of(), first_noise=0.3, **settings).model
    difference = result[0].weight - model[0].weight
    assert difference.mean().item() == pytest.approx(0, abs=0.01)
    assert difference.std().item() == pytest.approx(0.3, rel=0.05)


def test_the_class_weights_are_those_of_the_classes_own_numbers():
    labels = torch.tensor([1, 1, 1, 2])
    images = ImageSet(torch.zeros(4, 1, 1, 1), labels, torch.arange(4), Normalisation((), ()))
    expected = torch.tensor([0.0, 4 / (2 * 3), 4 / (2 * 1), 0.0])
    torch.testing.assert_close(balanced_weights(images, 4), expected)


def test_without_a_convolution_the_first_linear_layer_is_the_first():
    assert first_layer_of(perceptron(), data_of()) == "1"
    assert first_layer_of(convolutional(), data_of()) == "0"


# kgltop4


def test_kgltop4_redraws_the_smallest_of_all_layers_within_their_bounds():
    model = seeded(lambda: nn.Conv2d(1, 8, 3), nn.Flatten, lambda: nn.Linear(32, 50))
    with torch.no_grad():
        model[0].weight.mul_(100)  # of these the largest stay
        model[2].bias.fill_(1e-9)
    before = [p.clone() for p in model.parameters()]
    assert redraw_smallest(model, 0.98, data_of()) == round(0.98 * (72 + 8 + 1600 + 50))
    kernel, _, weight, bias = (q != p for p, q in zip(before, model.parameters(), strict=True))
    assert weight.all()
    assert 0 < (~kernel).sum() <= 35
    assert not model[2].bias.any()
    assert bias.all()
    assert model[0].weight[kernel].abs().max() <= 1 / 3
    assert 0.9 * 32**-0.5 < model[2].weight.abs().max() <= 32**-0.5


def test_an_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    expected = [math.log(2), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    assert entropy(logits).tolist() == pytest.approx(expected)


def test_kgltop4_ends_with_weights_that_half_precision_holds():
    result = unlearn("kgltop4", convolutional(), data_of(), unlearn_epochs=1).model
    assert all(torch.equal(p, p.half().float()) for p in result.parameters())


def test_kgltop4_by_hand_where_nothing_is_redrawn():
    model, data = perceptron(), data_of(forget=[0, 3, 6, 9, 12, 1])
    x, y = whole(data.retain)
    weights = torch.tensor([1.0, 5.0, 6.0]) ** -0.1

    def loss(m):
        apart = entropy(m(x)) - entropy(model(x)).detach()
        return F.cross_entropy(m(x), y, weight=weights) + 3 * (apart**2).mean()

    expected = copy.deepcopy(model)
    sgd(expected, [slope(loss)] * 3, 0.3, momentum=0.9, decay=5e-4)
    settings = {"redrawn_share": 1e-6, "unlearn_lr": 0.3, "entropy_weight": 3.0}
    found = unlearn("kgltop4", model, data, unlearn_epochs=3, **settings)
    assert found.facts["redrawn"] == 0
    torch.testing.assert_close(flat(found.model), flat(expected), rtol=0, atol=1e-3)  # rounded to half


# kgltop6


def test_kgltop6_starts_without_a_distance_where_nothing_is_redrawn(monkeypatch):
    monkeypatch.setattr("lethe.unlearn.kgltop6.redraw", lambda *_: None)
    data = with_validation(data_of())
    settings = {"validation_epochs": 1, "validation_lr": NOTHING, "unlearn_epochs": 1}
    history = unlearn("kgltop6", perceptron(), data, **settings).history
    assert history[0]["validation_loss"] == pytest.approx(0, abs=1e-6)


def test_kgltop6_redraws_both_ends():
    model, data = convolutional(), with_validation(data_of())
    settings = {"validation_epochs": 1, "validation_lr": NOTHING, "unlearn_epochs": 1, "unlearn_lr": NOTHING}
    result = unlearn("kgltop6", model, data, **settings)
    assert moved(model, result.model) == {"0.weight", "0.bias", "7.weight", "7.bias"}
    assert result.facts == {"trained_on_validation": len(data.validation)}


def test_kgltop6_learns_soft_answers_labels_and_the_distance_on_retain(monkeypatch):
    monkeypatch.setattr("lethe.unlearn.kgltop6.redraw", lambda *_: None)
    model, data = perceptron(), with_validation(data_of())
    settings = {"validation_epochs": 1, "validation_lr": NOTHING, "unlearn_epochs": 1, "unlearn_lr": NOTHING}
    history = unlearn("kgltop6", model, data, batch_size=100, **settings).history
    x, y = whole(data.retain)
    with torch.no_grad():
        soft = entropy(model(x) / 5).mean()  # a cross-entropy with itself
        expected = soft + F.cross_entropy(model(x), y)
    assert history[1]["retain_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_kgltop6_by_hand_where_nothing_is_redrawn(monkeypatch):
    monkeypatch.setattr("lethe.unlearn.kgltop6.redraw", lambda *_: None)
    model, data = perceptron(), with_validation(data_of())
    x, y = whole(data.retain)
    q_0 = (model(x) / 5).softmax(1).detach()

    def loss(m):
        log_q = (m(x) / 5).log_softmax(1)
        soft = -(q_0 * log_q).sum(1).mean()
        divergence = (q_0 * (q_0.log() - log_q)).sum(1).mean()
        return soft + F.cross_entropy(m(x), y) + divergence

    expected = copy.deepcopy(model)
    rates = [0.5 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    sgd(expected, [slope(loss)] * 3, rates, momentum=0.9, decay=5e-4)
    settings = {"validation_epochs": 1, "validation_lr": NOTHING, "unlearn_epochs": 3, "unlearn_lr": 0.5}
    found = unlearn("kgltop6", model, data, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-5)


def test_a_divergence_by_hand():
    taught, learned = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[0.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert divergence(taught, learned, 2.0).item() == pytest.approx(expected)


def test_kgltop6_needs_validation_images():
    with pytest.raises(
        ValueError, match="^kgltop6: expected validation images, which it trains on, got none"
    ):
        unlearn("kgltop6", perceptron(), data_of())


# kgltop7


@pytest.mark.parametrize(
    ("epochs", "settings", "expected"),
    [
        (1, {"noisy_tensors": 2}, {"7.weight", "7.bias"}),  # no noise before the first epoch
        (2, {"noisy_tensors": 0}, {"7.weight", "7.bias"}),
    ],
)
def test_kgltop7_redraws_the_classifier(epochs, settings, expected):
    model = convolutional()
    small = {"unlearn_lr": NOTHING, "last_lr": NOTHING, "part_epochs": 2, **settings}
    result = unlearn("kgltop7", model, data_of(), unlearn_epochs=epochs, **small).model
    assert moved(model, result) == expected


def test_kgltop7_adds_noise_to_some_tensors_and_never_to_batch_norm():
    model = convolutional()
    small = {"unlearn_lr": NOTHING, "last_lr": NOTHING, "part_epochs": 2, "noisy_tensors": 3}
    result = unlearn("kgltop7", model, data_of(), unlearn_epochs=2, **small).model
    noisy = moved(model, result) - {"7.weight", "7.bias"}
    assert 1 <= len(noisy) <= 3
    assert not noisy & {"1.weight", "1.bias"}


def test_kgltop7_trains_a_part_of_the_tensors_and_batch_norm_first():
    model = convolutional()
    settings = {"unlearn_epochs": 1, "part_epochs": 1, "trained_tensors": 2, "last_lr": 0.1}
    result = unlearn("kgltop7", model, data_of(), **settings).model
    trained = moved(model, result) - {"7.weight", "7.bias"}
    assert {"1.weight", "1.bias"} <= trained
    assert len(trained) <= 4


def test_kgltop7_takes_a_new_optimiser_each_epoch_and_another_rate_in_the_last(monkeypatch):
    monkeypatch.setattr("lethe.unlearn.kgltop7.redraw", lambda *_: None)
    model, data = perceptron(), data_of()
    x, y = whole(data.retain)
    expected = copy.deepcopy(model)
    for rate in (0.1, 0.1, 0.03):
        sgd(expected, [slope(lambda m: F.cross_entropy(m(x), y))], rate, decay=5e-4)
    settings = {"part_epochs": 0, "unlearn_lr": 0.1, "last_lr": 0.03}
    found = unlearn("kgltop7", model, data, unlearn_epochs=3, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-6)


def test_kgltop7_adds_noise_before_its_second_epoch():
    model = convolutional()
    settings = {"unlearn_lr": NOTHING, "last_lr": NOTHING, "part_epochs": 2, "trained_tensors": 20}
    result = unlearn("kgltop7", model, data_of(), unlearn_epochs=2, noisy_tensors=20, **settings).model
    every = {name for name, _ in model.named_parameters()}
    assert moved(model, result) == every - {"1.weight", "1.bias"}
