"""AMUN: its adversarial set, what it mixes, and steps by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import copy_of, unlearn
from lethe.unlearn.amun import Adversarial, Attack, adversarial, mixed
from lethe.unlearn.attacks import predicted
from tests.by_hand import sgd, slope
from tests.three_classes import data_of, flat, perceptron, seeded, whole

ATTACK = Attack(0.04, 50)
SETS = {"AMUN": ("forget", "retain"), "AMUN_no_retain": ("forget",), "AMUN_only": ("retain",)}


def labelled(data, labels):
    """The data, with these labels of the forget images."""
    return replace(data, forget=replace(data.forget, labels=labels), whole=None)


def known(model, data):
    """The data, with the labels that the model gives the forget images."""
    return labelled(data, predicted(model, whole(data.forget)[0]))


def test_every_adversarial_image_is_near_its_image_and_called_something_else():
    model = perceptron()
    data = known(model, data_of())
    found = adversarial(model, data, ATTACK)
    x, y = whole(data.forget)

    distances = torch.cdist(found.images.flatten(1), x.flatten(1))
    assert len(found.labels) + found.failed == len(y) > found.failed
    assert torch.equal(found.labels, predicted(model, found.images))
    assert (found.labels != y[distances.argmin(1)]).all()
    again = adversarial(model, data, ATTACK)
    assert torch.equal(found.images, again.images)


def test_an_image_that_the_model_gets_wrong_is_its_own():
    model, data = perceptron(), data_of(forget=[4])
    data = labelled(data, (predicted(model, whole(data.forget)[0]) + 1) % 3)
    found = adversarial(model, data, ATTACK)
    assert torch.equal(found.images, whole(data.forget)[0])


def test_images_that_nothing_flips_have_no_place_in_it_and_are_counted():
    model = copy.deepcopy(perceptron())
    with torch.no_grad():
        model[3].weight.zero_()
    data = known(model, data_of())
    result = unlearn("AMUN", model, data, unlearn_epochs=1, attack_steps=1)
    assert result.facts == {"adversarial_images": 0, "attack_failed": 6}


def test_three_epochs_by_hand():
    model = perceptron()
    for name, parts in SETS.items():
        data = known(model, data_of())
        found = adversarial(model, data, ATTACK)
        sets = [whole(getattr(data, part)) for part in parts] + [(found.images, found.labels)]
        x, y = (torch.cat(tensors) for tensors in zip(*sets, strict=True))
        descent = slope(lambda m, x=x, y=y: F.cross_entropy(m(x), y))
        expected = copy_of(model)
        sgd(expected, [descent] * 3, [0.1, 0.1, 0.01], momentum=0.9, decay=5e-4)
        result = unlearn(name, model, data, unlearn_epochs=3, unlearn_lr=0.1, decay_every=2)
        torch.testing.assert_close(flat(result.model), flat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_batches_of_single_images_leave_batch_norm_as_it_is(name):
    model = seeded(nn.Flatten, lambda: nn.Linear(16, 8), lambda: nn.BatchNorm1d(8), lambda: nn.Linear(8, 3))
    found = unlearn(name, model, data_of(), unlearn_epochs=1, batch_size=1).model
    assert torch.equal(found[2].running_mean, model[2].running_mean)


def test_both_kinds_of_images_are_mixed_and_no_batch_is_a_single_image():
    data = data_of()
    found = Adversarial(whole(data.retain)[0][:6] + 1, torch.arange(6) % 3, failed=0)
    order = torch.Generator().manual_seed(0)
    batches = list(mixed(data.forget, found, 11, order))  # of 12 images
    x, y = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    assert [len(labels) for _, labels in batches] == [12]
    assert sorted(y.tolist()) == sorted(data.forget.labels.tolist() + found.labels.tolist())
    everything = torch.cat([whole(data.forget)[0], found.images])
    assert {image.sum().item() for image in x} == {image.sum().item() for image in everything}
