"""SFT: one step by hand, and what its three modes hand to the optimiser."""

import math

import pytest
import torch
from torch.nn import functional as F

from lethe.data import ForgetRequest
from lethe.unlearn import ForgetData, unlearn
from tests.bars import (
    CLASS_1,
    CLASSES,
    SEVEN_IMAGES,
    classifier,
    fixture_model,  # noqa: F401
    fixture_splits,  # noqa: F401
    fixture_trained,  # noqa: F401
    same_bits,
    snapshot,
)


@pytest.fixture
def batches_seen(monkeypatch):
    """Every batch that SFT hands to the optimiser."""
    from lethe.unlearn import sft

    seen, descend = [], sft.descend

    def spy(model, batches, **settings):
        seen.extend(batches)
        return descend(model, seen, **settings)

    monkeypatch.setattr(sft, "descend", spy)
    return seen


def stepped_by_hand(model, x, y, lr):
    """The masked weight after one AdamW step from rest: w (1 - lr wd) - lr g / (|g| + eps), wd = 1e-2, eps =
    1e-8.
    """
    weight = model[5].weight.detach().clone().requires_grad_()
    h = model[:5](x).detach()
    loss = F.cross_entropy(model[6:](F.linear(h, weight, model[5].bias)), y)
    (g,) = torch.autograd.grad(loss, weight)
    return (weight * (1 - lr * 1e-2) - lr * g / (g.abs() + 1e-8)).detach()


@pytest.mark.parametrize(
    "mode", ["randomize_forget", "finetune_retain", "randomize_forget_and_finetune_retain"]
)
def test_one_sft_step_is_adamw_on_the_masked_layer(mode, model, splits, batches_seen):
    data = ForgetData.of(splits, CLASS_1)
    result = unlearn("SFT", model, data, sft_mode=mode, sft_steps=1, sft_lr=3e-3, sft_batch=16)
    ((x, y),) = batches_seen
    torch.testing.assert_close(result.model[5].weight, stepped_by_hand(model, x, y, 3e-3), rtol=0, atol=1e-6)
    assert not torch.equal(result.model[5].weight, model[5].weight)
    before, after = snapshot(model), snapshot(result.model)
    assert same_bits(
        {k: v for k, v in after.items() if k != "5.weight"},
        {k: v for k, v in before.items() if k != "5.weight"},
    )


def rows_of(x, images):
    """The position among `images` of every row of x."""
    (all_x, _) = next(images.batches(len(images)))
    return [int((all_x == row).flatten(1).all(1).nonzero()) for row in x]


def test_sft_on_retain_images_keeps_their_labels(model, splits, batches_seen):
    data = ForgetData.of(splits, CLASS_1)
    unlearn("SFT", model, data, sft_mode="finetune_retain", sft_steps=6, sft_batch=15)
    rows = [row for x, _ in batches_seen for row in rows_of(x, data.retain)]
    assert sorted(rows) == list(range(len(data.retain)))  # one pass: every image once
    assert all(torch.equal(data.retain.labels[rows_of(x, data.retain)], y) for x, y in batches_seen)
    assert rows != sorted(rows)


def test_sft_on_both_has_a_batch_of_each_in_every_step(model, splits, batches_seen):
    data = ForgetData.of(splits, CLASS_1)
    unlearn("SFT", model, data, sft_mode="randomize_forget_and_finetune_retain", sft_steps=4, sft_batch=10)
    assert [len(y) for _, y in batches_seen] == [20] * 4
    for x, y in batches_seen:
        rows_of(x[:10], data.forget)
        assert torch.equal(data.retain.labels[rows_of(x[10:], data.retain)], y[10:])


def test_sft_draws_labels_anew_each_step(model, splits, batches_seen):
    data = ForgetData.of(splits, ForgetRequest(indexes=(4,)))
    unlearn("SFT", model, data, sft_steps=40)
    assert {int(y) for _, y in batches_seen} == set(range(CLASSES))


@pytest.mark.parametrize("classes", [CLASSES, 100])
def test_sft_draws_labels_uniformly_from_all_classes(classes, splits, batches_seen):
    train = splits.train
    data = ForgetData(train.of_classes(1), train.without_classes(1), splits.validation, classes)
    unlearn("SFT", classifier(classes), data, sft_steps=200, sft_batch=30)
    counts = torch.cat([y for _, y in batches_seen]).bincount(minlength=classes).double()
    expected = 200 * 30 / classes
    chi_square = ((counts - expected).square() / expected).sum().item()
    assert len(counts) == classes
    assert abs(chi_square - (classes - 1)) < 4 * math.sqrt(2 * (classes - 1))


@pytest.mark.parametrize("mode", ["randomize_forget", "randomize_forget_and_finetune_retain"])
def test_sft_starts_over_where_the_forget_set_is_smaller_than_a_batch(mode, model, splits, batches_seen):
    data = ForgetData.of(splits, SEVEN_IMAGES)
    result = unlearn("SFT", model, data, sft_mode=mode, sft_steps=5, sft_batch=32)
    assert len(result.history) == len(batches_seen) == 5
    assert all(sorted(rows_of(x[:7], data.forget)) == list(range(7)) for x, _ in batches_seen)


def test_sft_lowers_its_own_loss(model, splits):
    result = unlearn(
        "SFT", model, ForgetData.of(splits, CLASS_1), sft_mode="finetune_retain", sft_steps=30, sft_batch=90
    )
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("setting", ["sft_steps", "sft_batch"])
def test_sft_needs_a_step_and_a_batch(setting, model, splits):
    with pytest.raises(ValueError, match=f"--{setting}: expected an integer >= 1, got 0"):
        unlearn("SFT", model, ForgetData.of(splits, CLASS_1), **{setting: 0})


def test_sft_has_three_modes(model, splits):
    reason = "sft_mode: expected one of randomize_forget, finetune_retain, randomize"
    with pytest.raises(ValueError, match=reason):
        unlearn("SFT", model, ForgetData.of(splits, CLASS_1), sft_mode="finetune")
