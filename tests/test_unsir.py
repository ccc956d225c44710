"""UNSIR: noise against a class, and the impair and the repair part by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import METHODS, resolved, unlearn
from lethe.unlearn.unsir import drawn_per_class, impairing, noise_against
from tests.by_hand import adam, slope
from tests.columns import (
    assert_weights,
    classifier,
    data_of,
    everything,
    fixture_model,  # noqa: F401
    fixture_trained,  # noqa: F401
    fixture_trained_on,  # noqa: F401
    images_of,
)


def test_two_steps_of_the_noise_by_hand(model):
    data = data_of(2)
    x = torch.randn(32, 1, 4, 4, generator=data.generator("UNSIR", "noise", 2))
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in (1, 2):
        x = x.detach().requires_grad_(True)
        errors = -model(x).log_softmax(1)[:, 2]
        (g,) = torch.autograd.grad(-errors.mean() + 0.1 * (x**2).sum() / 32, x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        x = x - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(noise_against(model, data, 2, 32, 2), x.detach(), rtol=0, atol=1e-5)


def test_the_noise_is_made_in_eval_mode_and_leaves_the_model_alone():
    model = classifier(nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    noise = noise_against(model, data_of(2), 2, 32, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(noise, noise_against(model.eval(), data_of(2), 2, 32, 3))


def test_the_noise_is_not_taken_for_its_class(trained):
    noise = noise_against(trained, data_of(2), 2, 32, 25)
    assert (trained(noise).argmax(1) != 2).all()


@pytest.mark.parametrize("batch_size", [7, 64, 10_000])
def test_a_pass_of_the_impair_part_has_the_copies_of_the_noise_under_its_own_class(batch_size):
    noise = torch.arange(64.0).view(64, 1, 1, 1).expand(-1, 1, 4, 4) + 1000
    labels = torch.tensor([1, 3]).repeat_interleave(32)
    retained = images_of(3).of_classes(0, 2)
    batches = list(impairing(noise, labels, 5, retained, batch_size, torch.Generator().manual_seed(0)))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    made = x[:, 0, 0, 0] >= 1000
    which = (x[made, 0, 0, 0] - 1000).long()
    assert which.bincount().tolist() == [5] * 64
    assert torch.equal(y[made], torch.where(which < 32, 1, 3))
    images, true = everything(retained)
    rows = [int((images == row).flatten(1).all(1).nonzero()) for row in x[~made]]
    assert sorted(rows) == list(range(6))
    assert torch.equal(y[~made], true[rows])
    assert all(len(y) > 1 for _, y in batches)


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 1, 1]), (4, [4, 4, 4]), (500, [10, 10, 10])])
def test_so_many_images_of_each_retained_class_are_drawn(count, expected):
    drawn = drawn_per_class(data_of(1), count)
    assert [int((drawn.labels == label).sum()) for label in (0, 2, 3)] == expected
    assert not (drawn.labels == 1).any()
    assert len(set(drawn.indexes.tolist())) == sum(expected)


def test_impair_and_repair_by_hand(model):
    data = data_of(1, 3)
    noise = torch.cat([noise_against(model, data, label, 8, 3) for label in (1, 3)]).repeat(5, 1, 1, 1)
    x, y = everything(data.retain)
    mixed_x, mixed_y = (
        torch.cat([noise, x]),
        torch.cat([torch.tensor([1, 3]).repeat_interleave(8).repeat(5), y]),
    )
    rates = {"impair_lr": 1e-2, "repair_lr": 3e-2}
    settings = {
        "noise_images": 8,
        "noise_copies": 5,
        "noise_steps": 3,
        "batch_size": 10_000,
        "impair_epochs": 3,
        **rates,
    }
    expected = copy.deepcopy(model)
    adam(expected, [slope(lambda m: F.cross_entropy(m(mixed_x), mixed_y))] * 3, 1e-2)
    assert_weights(
        unlearn("UNSIR", model, data, **settings, repair_epochs=0).model, expected.parameters(), atol=1e-5
    )
    adam(expected, [slope(lambda m: F.cross_entropy(m(x), y))] * 2, 3e-2)  # from rest again
    got = unlearn("UNSIR", model, data, **settings, repair_epochs=2)
    assert_weights(got.model, expected.parameters(), atol=1e-5)
    assert [list(row) for row in got.history] == [["impair_loss"]] * 3 + [["repair_loss"]] * 2


@pytest.mark.parametrize(("retained_per_class", "retained"), [(2, 6), (500, 30)])
def test_both_parts_see_so_many_images_of_each_retained_class(retained_per_class, retained, trained_on):
    model, counts = trained_on
    unlearn(
        "UNSIR", model, data_of(1), batch_size=10_000, noise_steps=1, retained_per_class=retained_per_class
    )
    assert counts == [20 * 256 + retained, retained]


def test_unsir_refuses_a_part_of_a_class(model):
    settings = METHODS["UNSIR"].settings({})
    for data in (data_of(part=[0]), data_of(1, part=[0])):
        reason = "UNSIR: expected a forget request for whole classes, got one that takes a part of class 0"
        with pytest.raises(ValueError, match=reason):
            unlearn("UNSIR", model, data)
        with pytest.raises(ValueError, match="whole classes"):
            resolved("UNSIR", model, data, settings)


def test_unsir_never_looks_at_the_forget_images(trained):
    data = data_of(1)
    other = replace(data, forget=replace(data.forget, images=255 - data.forget.images[:]))
    one, two = (unlearn("UNSIR", trained, d).model.state_dict() for d in (data, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
