"""L2UL: what holds the weights, the loss by hand, wrong labels, and where it stops."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lethe.unlearn import resolved, unlearn
from lethe.unlearn.impl import copy_of
from lethe.unlearn.l2ul import adversarial, held_importances, reversed_scale, signed_cross_entropy
from tests.by_hand import sgd, slope
from tests.three_classes import convolutional, data_of, flat, perceptron, whole


def test_the_scale_is_reversed_with_both_ends():
    assert reversed_scale(torch.tensor([[2.0, 4.0], [3.0, 2.5]])).tolist() == [[1.0, 0.0], [0.5, 0.75]]
    assert reversed_scale(torch.tensor([7.0])).tolist() == [1.0]


def test_the_importances_are_those_of_single_images():
    model, data = convolutional(), data_of()
    found = held_importances(copy_of(model), data.forget, data.device)
    x, _ = whole(data.forget)
    total = [torch.zeros_like(p) for p in model.parameters()]
    for image in x:
        for s, g in zip(total, slope(lambda m, i=image: m(i[None]).norm())(model), strict=True):
            s += g.abs() / len(x)
    for (name, importance), expected in zip(found.items(), total, strict=True):
        torch.testing.assert_close(importance, reversed_scale(expected), rtol=1e-3, atol=1e-4, msg=name)


def test_the_forget_images_of_a_batch_count_negative():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 0])
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = -1 / 3 * each[0] + 2 / 3 * each[1:].mean()
    torch.testing.assert_close(signed_cross_entropy(logits, labels, 1), expected)


def test_every_wrong_label_is_wrong_and_every_image_within_the_radius():
    model, data = perceptron(), data_of()
    made = adversarial(copy_of(model), data, 3, 0.5, 5)
    x, y = whole(data.forget)
    assert len(made) == 3 * len(x)
    assert not (made.labels == y.repeat(3)).any()
    distances = (made.images - x.repeat(3, 1, 1, 1)).flatten(1).norm(dim=1)
    assert distances.max() <= 0.5 + 1e-5
    assert distances.min() > 0


def test_without_adversarial_images_it_is_neg_grad_with_a_stop():
    model, data = perceptron(), data_of((1,))
    settings = {"adversarial_images": 0, "unlearn_lr": 0.05, "momentum": 0.5, "weight_decay": 0.1}
    result = unlearn("L2UL_adv", model, data, unlearn_epochs=2, **settings)
    x, y = whole(data.forget)
    expected = copy.deepcopy(model)
    steps = len(result.history)
    sgd(expected, [slope(lambda m: -F.cross_entropy(m(x), y))] * steps, 0.05, momentum=0.5, decay=0.1)
    torch.testing.assert_close(flat(result.model), flat(expected), rtol=0, atol=1e-6)


def test_it_ends_with_the_epoch_that_misclassifies_every_forget_image():
    settings = {"adversarial_images": 0, "unlearn_lr": 0.3}
    result = unlearn("L2UL_adv", perceptron(), data_of((1,)), **settings)
    scores = [epoch["forget_score"] for epoch in result.history]
    assert scores[-1] == 0
    assert all(scores[:-1])
    assert len(scores) < 100


def test_the_weights_are_held_by_their_importance():
    model, data = perceptron(), data_of((1,))
    settings = {"adversarial_images": 0, "unlearn_lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
    result = unlearn("L2UL", model, data, unlearn_epochs=2, reg_lambda=3.0, **settings)
    assert len(result.history) == 2
    x, y = whole(data.forget)
    importances = held_importances(copy_of(model), data.forget, data.device).values()
    expected, start = copy.deepcopy(model), [p.detach().clone() for p in model.parameters()]

    def loss(m):
        held = zip(importances, m.parameters(), start, strict=True)
        return -F.cross_entropy(m(x), y) + sum(1.5 * (i * (p - s) ** 2).sum() for i, p, s in held)

    sgd(expected, [slope(loss)] * 2, 0.05)
    torch.testing.assert_close(flat(result.model), flat(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "radius"), [((3, 32, 32), 4.0), ((1, 16, 12), 1.0)])
def test_the_radius_scales_with_the_root_of_the_pixels(shape, radius):
    found = resolved("L2UL", perceptron(), data_of(shape=shape), {})
    assert found["attack_radius"] == pytest.approx(radius)


def test_a_step_on_forget_and_adversarial_images_by_hand():
    model, data = perceptron(), data_of()
    made = adversarial(copy_of(model), data, 3, 0.5, 4)
    (x_f, y_f), (x_a, y_a) = whole(data.forget), whole(made)
    share = len(x_f) / (len(x_f) + len(x_a))

    def loss(m):
        return (1 - share) * F.cross_entropy(m(x_a), y_a) - share * F.cross_entropy(m(x_f), y_f)

    expected = copy.deepcopy(model)
    sgd(expected, [slope(loss)], 0.1, decay=1e-4)
    settings = {"adversarial_images": 3, "attack_radius": 0.5, "attack_steps": 4, "unlearn_lr": 0.1}
    found = unlearn("L2UL_adv", model, data, unlearn_epochs=1, **settings).model
    torch.testing.assert_close(flat(found), flat(expected), rtol=0, atol=1e-6)


def test_the_adversarial_images_are_nearer_to_their_labels():
    model, data = perceptron(), data_of()
    made = adversarial(copy_of(model), data, 2, 2.0, 60)
    x, _ = whole(data.forget)
    before, after = (
        F.cross_entropy(model(images), made.labels).item() for images in (x.repeat(2, 1, 1, 1), made.images)
    )
    assert after < 0.8 * before
