"""The contract that every registered method keeps, and one truth test for each method that trains or counts something."""

import copy
import functools
import math
import random
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from training import Recipe, fit
from unlearn import METHODS, ForgetData, Oracles, Unlearned, copy_of, count_of, resolved, unlearn
from vision_data import ForgetRequest, ImageSet, Normalisation, Splits

CLASSES, PER_CLASS, VALIDATION_PER_CLASS = 4, 30, 5
INPUTS, MASKED, SIZE = 12, 10, 10 * 12  # the masked layer is 10 x 12
CLASS_1 = ForgetRequest((1,))
SEVEN_IMAGES = ForgetRequest((-1,), number=7)


def images_of(per_class, seed, classes=CLASSES):
    """A bright row or column of 4 x 4 pixels per class, and noise; the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randint(90, (len(labels), 1, 4, 4), generator=generator)
    images[torch.arange(len(labels)), 0, labels % 4] += 120
    images = images.to(torch.uint8)
    return ImageSet(images, labels, torch.arange(len(labels)), Normalisation.of(images, 255))


@pytest.fixture(scope="module")
def splits():
    images = images_of(PER_CLASS + VALIDATION_PER_CLASS, seed=0)
    validation = torch.arange(len(images)) % 7 == 3  # 5 of the 35 images of each class
    test = images_of(5, seed=1)
    return Splits(images.subset(~validation), images.subset(validation), test, "bars", tuple("abcd"), 0)


def classifier(classes=CLASSES):
    """One of everything that a method may stumble over, or needs: a convolution, biases, running statistics, dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = (
            nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten()),
            nn.Linear(16, INPUTS),
            nn.BatchNorm1d(INPUTS),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        return nn.Sequential(*body, nn.Linear(INPUTS, MASKED), nn.ReLU(), nn.Linear(MASKED, classes)).eval()


@pytest.fixture(scope="module")
def trained(splits):
    model = classifier()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        fit(model, splits.train, Recipe(8, "adamw", lr=2e-2, batch_size=20), generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


every_method = pytest.mark.parametrize("entry", list(METHODS), ids=lambda entry: entry.name)
every_request = pytest.mark.parametrize("request_", [CLASS_1, SEVEN_IMAGES], ids=["whole class", "seven images"])


def cheap(entry):
    """Few steps and epochs, under whatever name a method counts them."""
    numbers = {name: p.default for name, p in entry.hyperparameters.items() if name.endswith(("steps", "epochs"))}
    return {name: 4 if default is None else min(default, 4) for name, default in numbers.items()}


@functools.cache
def retrained(request, seed=0):
    """An ideal model of the request: a short recipe, without the forget set."""
    _, retain = request.divide(images_of(PER_CLASS, seed=0), CLASSES, 0)
    model = classifier()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        fit(model, retain, Recipe(2, "adamw", lr=2e-2, batch_size=20), generator=torch.Generator().manual_seed(seed))
    return model


def run(entry, model, splits, request, **world):
    oracles = Oracles(lambda seeds: (retrained(request, seed) for seed in seeds), judges=(world.get("seed", 1),))
    data = ForgetData.of(splits, request, **{"ideal": lambda: retrained(request), "oracles": oracles} | world)
    if entry.facts.whole_class and set(data.forget.classes) != set(data.forget_classes):
        with pytest.raises(ValueError, match="whole class"):
            unlearn(entry.name, model, data, **cheap(entry))
        pytest.skip("it refuses a part of a class, as it declares")
    return unlearn(entry.name, model, data, **cheap(entry))


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(one, other):
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one
    )


def test_the_model_of_these_tests_has_learned_something(trained, splits):
    (x, y) = next(splits.train.batches(1000))
    assert (trained(x).argmax(1) == y).float().mean() > 0.95


# The contract


@every_method
@every_request
def test_the_input_model_is_untouched(entry, request_, model, splits):
    model.train()
    model[2].eval()
    model[1].weight.requires_grad_(False)
    before, modes = snapshot(model), [m.training for m in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    run(entry, model, splits, request_)
    assert same_bits(model.state_dict(), before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@every_method
@every_request
def test_the_output_differs_unless_the_method_leaves_the_weights(entry, request_, model, splits):
    result = run(entry, model, splits, request_)
    says_so = entry.facts.leaves_weights or "unchanged" in result.facts
    assert same_bits(result.model.state_dict(), model.state_dict()) == says_so


@every_method
def test_no_method_leaves_the_weights_where_a_whole_class_goes(entry, model, splits):
    assert "unchanged" not in run(entry, model, splits, CLASS_1).facts


@every_method
@every_request
def test_the_output_is_the_same_architecture_with_finite_weights_in_eval_mode(entry, request_, model, splits):
    model.train()
    model[1].weight.requires_grad_(False)
    result = run(entry, model, splits, request_)
    inner = result.model.model if entry.facts.wraps else result.model
    before, after = model.state_dict(), inner.state_dict()
    assert isinstance(result, Unlearned)
    assert [(k, v.shape, v.dtype) for k, v in after.items()] == [(k, v.shape, v.dtype) for k, v in before.items()]
    assert repr(inner) == repr(model)
    assert all(value.isfinite().all() for value in after.values())
    assert not any(m.training for m in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())


@every_method
def test_the_output_shares_no_memory_with_the_input(entry, model, splits):
    result = run(entry, model, splits, CLASS_1)
    with torch.no_grad():
        for value in result.model.parameters():
            value.fill_(7.0)
    assert not any((p == 7.0).any() for p in model.parameters())


@every_method
@every_request
def test_the_output_carries_no_gradients(entry, request_, model, splits):
    result = run(entry, model, splits, request_)
    assert [name for name, p in result.model.named_parameters() if p.grad is not None] == []


@every_method
@every_request
def test_a_seed_decides_every_bit(entry, request_, model, splits):
    first, again = (run(entry, model, splits, request_, seed=3) for _ in range(2))
    assert same_bits(first.model.state_dict(), again.model.state_dict())
    assert first.history == again.history
    assert first.facts == again.facts
    assert (first.mask is None) == (again.mask is None)
    assert first.mask is None or torch.equal(first.mask.keep, again.mask.keep)


@every_method
@every_request
def test_another_seed_gives_another_result_where_the_method_draws_anything(entry, request_, model, splits, monkeypatch):
    drawn = []
    generator = ForgetData.generator
    monkeypatch.setattr(ForgetData, "generator", lambda data, *purpose: drawn.append(purpose) or generator(data, *purpose))
    one, other = (run(entry, model, splits, request_, seed=seed) for seed in (3, 4))
    same = same_bits(one.model.state_dict(), other.model.state_dict()) and one.history == other.history
    assert same == (not drawn and "oracles" not in entry.facts.needs)  # which oracle, the seed decides


@every_method
def test_the_global_random_state_is_left_alone(entry, model, splits):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    run(entry, model, splits, CLASS_1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2][1])


@every_method
def test_the_global_random_state_decides_nothing(entry, model, splits):
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(run(entry, model, splits, CLASS_1))
    assert same_bits(results[0].model.state_dict(), results[1].model.state_dict())


@every_method
@pytest.mark.parametrize(
    "request_",
    [ForgetRequest((0, 1, 2)), ForgetRequest(indexes=(4,)), ForgetRequest((2,), number=29)],
    ids=["three of four", "one", "all but one"],
)
def test_a_forget_set_of_any_size_works(entry, request_, model, splits):
    result = run(entry, model, splits, request_)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    says_so = entry.facts.leaves_weights or "unchanged" in result.facts
    assert same_bits(result.model.state_dict(), model.state_dict()) == says_so


@every_method
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_an_empty_set_is_refused(entry, name, model, splits):
    data = ForgetData.of(splits, CLASS_1)
    nothing = splits.train.subset(torch.zeros(len(splits.train), dtype=torch.bool))
    with pytest.raises(ValueError, match=f"the {name} set: expected at least one image, got none"):
        unlearn(entry.name, model, replace(data, **{name: nothing}), **cheap(entry))


@every_method
def test_a_flag_that_it_does_not_have_is_refused(entry, model, splits):
    with pytest.raises(ValueError, match=rf"unknown flag of {entry.name} '--no_such_flag'.*[Ff]lags of {entry.name}: ") as raised:
        unlearn(entry.name, model, ForgetData.of(splits, CLASS_1), no_such_flag=1)
    assert all(f"--{name}" in str(raised.value) for name in entry.hyperparameters)


learns_at_a_rate = [entry for entry in METHODS if "unlearn_lr" in entry.hyperparameters]


@pytest.mark.parametrize("entry", learns_at_a_rate, ids=lambda entry: entry.name)
def test_a_learning_rate_that_no_weight_can_hold_is_refused(entry, model, splits):
    settings, data = entry.settings({"unlearn_lr": 1e39}), ForgetData.of(splits, CLASS_1)
    message = r"^--unlearn_lr: expected at most 3.4e\+38, what a weight can hold, got 1e\+39. Give a smaller one$"
    with pytest.raises(ValueError, match=message):
        unlearn(entry.name, model, data, unlearn_lr=1e39)
    with pytest.raises(ValueError, match=message):
        resolved(entry.name, model, data, settings)


@every_method
def test_the_docstring_is_the_help(entry):
    assert entry.summary.endswith(".")
    assert [name for name, p in entry.hyperparameters.items() if not p.help] == []


@every_method
def test_every_default_is_of_its_own_type(entry):
    assert [name for name, p in entry.hyperparameters.items() if p.required] == []
    assert {name: p.check(p.default) for name, p in entry.hyperparameters.items()} == entry.settings({})


@every_method
def test_amounts_and_what_depends_on_other_flags_are_resolved_before_the_method_runs(entry, model, splits):
    data = ForgetData.of(splits, CLASS_1)
    found = resolved(entry.name, model, data, entry.settings({}))
    counts = {name: value for name, value in found.items() if name.endswith("_count")}
    assert counts.keys() == {f"{name}_count" for name in entry.hyperparameters if name in ("topk", "kappa")}
    assert all(1 <= count <= SIZE for count in counts.values())
    assert all(value is not None for value in found.values())
    assert all(entry.hyperparameters[name].default is None for name in found.keys() - counts.keys())


@every_method
def test_a_returned_mask_is_the_change_of_the_model(entry, model, splits):
    result = run(entry, model, splits, CLASS_1)
    if result.mask is None:
        return
    expected = copy_of(model)
    with torch.no_grad():
        expected.get_submodule(result.mask.layer).weight[~result.mask.keep] = 0.0
    assert same_bits(result.model.state_dict(), expected.state_dict())
    counts = resolved(entry.name, model, ForgetData.of(splits, CLASS_1), entry.settings({}))
    assert result.mask.kappa_count == counts["kappa_count"]


def test_an_unknown_method_gets_the_nearest_name(model, splits):
    with pytest.raises(ValueError, match=r"unknown method 'MIMO'\. Did you mean 'MIMU'\? Methods: .*random_mask"):
        unlearn("MIMO", model, ForgetData.of(splits, CLASS_1))


# default


@pytest.mark.parametrize("name", ["default", "raw", "do_nothing", "original", "DEFAULT"])
def test_default_is_the_initial_model(name, model, splits):
    result = unlearn(name, model, ForgetData.of(splits, CLASS_1))
    (x, _) = next(splits.test.batches(100))
    assert result.model is not model
    assert torch.equal(result.model(x), model(x))


# random_mask


@pytest.mark.parametrize(("kappa", "count"), [(1, 1), (0.25, 30), ("50%", 60), ("100%", SIZE), (SIZE, SIZE)])
def test_random_mask_switches_exactly_kappa_weights_off(kappa, count, model, splits):
    result = unlearn("random_mask", model, ForgetData.of(splits, CLASS_1), kappa=kappa)
    assert (model[5].weight != 0).all()
    assert (result.model[5].weight == 0).sum() == count == result.mask.kappa_count
    assert result.mask.layer == "5"


def test_random_mask_draws_every_weight_equally_often(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    seeds, share = 200, 0.25
    off = sum((~unlearn("random_mask", model, replace(data, seed=seed), kappa=share).mask.keep).double() for seed in range(seeds))
    variance = seeds * share * (1 - share)
    assert (off - seeds * share).abs().max() < 4.5 * math.sqrt(variance)
    chi_square = ((off - seeds * share).square() / variance).sum().item()
    assert abs(chi_square - (SIZE - 1)) < 5 * math.sqrt(2 * (SIZE - 1))  # neither too uneven nor too even to be drawn


def test_random_mask_does_not_look_at_the_request(model, splits):
    masks = [unlearn("random_mask", model, ForgetData.of(splits, request)).mask.keep for request in (CLASS_1, SEVEN_IMAGES)]
    assert torch.equal(*masks)


def test_random_mask_takes_another_layer_by_name_or_index(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    assert unlearn("random_mask", model, data, mask_layer="1").mask.layer == "1"  # a name where it is one
    assert unlearn("random_mask", model, data, mask_layer="-1").mask.layer == "7"
    with pytest.raises(ValueError, match="--mask_layer: expected a linear layer, got '2', a BatchNorm1d"):
        unlearn("random_mask", model, data, mask_layer="2")


# SFT


@pytest.fixture
def batches_seen(monkeypatch):
    """Every batch that SFT hands to the optimiser."""
    from unlearn import sft

    seen, descend = [], sft.descend

    def spy(model, batches, **settings):
        seen.extend(batches)
        return descend(model, seen, **settings)

    monkeypatch.setattr(sft, "descend", spy)
    return seen


def stepped_by_hand(model, x, y, lr):
    """The masked weight after one AdamW step from rest: w (1 - lr wd) - lr g / (|g| + eps), wd = 1e-2, eps = 1e-8."""
    weight = model[5].weight.detach().clone().requires_grad_()
    h = model[:5](x).detach()
    loss = F.cross_entropy(model[6:](F.linear(h, weight, model[5].bias)), y)
    (g,) = torch.autograd.grad(loss, weight)
    return (weight * (1 - lr * 1e-2) - lr * g / (g.abs() + 1e-8)).detach()


@pytest.mark.parametrize("mode", ["randomize_forget", "finetune_retain", "randomize_forget_and_finetune_retain"])
def test_one_sft_step_is_adamw_on_the_masked_layer(mode, model, splits, batches_seen):
    data = ForgetData.of(splits, CLASS_1)
    result = unlearn("SFT", model, data, sft_mode=mode, sft_steps=1, sft_lr=3e-3, sft_batch=16)
    ((x, y),) = batches_seen
    torch.testing.assert_close(result.model[5].weight, stepped_by_hand(model, x, y, 3e-3), rtol=0, atol=1e-6)
    assert not torch.equal(result.model[5].weight, model[5].weight)
    before, after = snapshot(model), snapshot(result.model)
    assert same_bits({k: v for k, v in after.items() if k != "5.weight"}, {k: v for k, v in before.items() if k != "5.weight"})


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
    result = unlearn("SFT", model, ForgetData.of(splits, CLASS_1), sft_mode="finetune_retain", sft_steps=30, sft_batch=90)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("setting", ["sft_steps", "sft_batch"])
def test_sft_needs_a_step_and_a_batch(setting, model, splits):
    with pytest.raises(ValueError, match="--sft_steps and --sft_batch: expected integers >= 1"):
        unlearn("SFT", model, ForgetData.of(splits, CLASS_1), **{setting: 0})


def test_sft_has_three_modes(model, splits):
    with pytest.raises(ValueError, match="sft_mode: expected one of randomize_forget, finetune_retain, randomize"):
        unlearn("SFT", model, ForgetData.of(splits, CLASS_1), sft_mode="finetune")


# logit_attribution


def slow_attribution(model, images, label):
    """Mean over the images of `label` of (d logit_label / d W) W, since d logit / d W_ij = (d logit / d z_i) h_j."""
    total = torch.zeros(MASKED, INPUTS)
    (all_x, all_y) = next(images.batches(len(images)))
    members = (all_y == label).nonzero().squeeze(1).tolist()
    for row in members:
        logit = model(all_x[row : row + 1])[0, label]
        (g,) = torch.autograd.grad(logit, model[5].weight)
        total += g * model[5].weight.detach()
    return total / len(members)


@pytest.mark.parametrize("request_", [CLASS_1, ForgetRequest((0, 3)), ForgetRequest((2,), number=9), ForgetRequest((-1,), number=40)])
def test_logit_attribution_switches_off_what_a_slow_loop_ranks_first(request_, model, splits):
    data = ForgetData.of(splits, request_)
    kappa = 17
    leans = []
    for label in data.forget.classes:
        if label in request_.classes and request_.number is None:
            others = [slow_attribution(model, data.retain, c) for c in range(CLASSES) if c not in request_.classes]
            leans.append(slow_attribution(model, data.forget, label) - torch.stack(others).mean(0))
        else:
            leans.append(slow_attribution(model, data.forget, label) - slow_attribution(model, data.retain, label))
    scores = torch.stack(leans).mean(0).flatten()
    ranked = scores.sort(descending=True).values
    assert ranked[kappa - 1] - ranked[kappa] > 1e-6  # no tie that rounding could break
    result = unlearn("logit_attribution", model, data, kappa=kappa)
    assert set((~result.mask.keep).flatten().nonzero().squeeze(1).tolist()) == set(scores.topk(kappa).indices.tolist())


def test_logit_attribution_lowers_the_forgotten_logit(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    (x, _) = next(data.forget.batches(100))
    assert unlearn("logit_attribution", model, data).model(x)[:, 1].mean() < model(x)[:, 1].mean()


# Amounts


@pytest.mark.parametrize(
    ("amount", "total", "count"),
    [
        (1, 8192, 1),
        (50, 8192, 50),
        (8192, 8192, 8192),
        (0.1, 8192, 819),
        (0.5, 10, 5),
        (0.999999, 10, 10),
        ("50%", 10, 5),
        ("0.5%", 1000, 5),
        ("100%", 8192, 8192),
        (" 10% ", 50, 5),
        ("1e1%", 50, 5),
    ],
)
def test_an_amount_is_a_count_a_fraction_or_a_percentage(amount, total, count):
    assert count_of(amount, total, "kappa") == count


@pytest.mark.parametrize(
    "amount",
    [
        *(0, -1, 101, 10**30, 0.0, -0.1, 1.5, 2.0, 1e-9, math.nan, math.inf, -math.inf, True, False),
        *("", "%", "0%", "-5%", "100.1%", "nan%", "inf%", "0.001%", "abc", "50", "0.5", "50%%"),
    ],
)
def test_another_amount_is_refused(amount):
    with pytest.raises(ValueError, match=r"--kappa: expected a count from 1 to 100 .*, got .*\. Correct the amount"):
        count_of(amount, 100, "kappa")


def test_one_point_zero_is_refused_as_ambiguous():
    with pytest.raises(ValueError, match=r"--topk: 1\.0 could mean one weight or all 100\. Write 1 or 100%"):
        count_of(1.0, 100, "topk")


def amounts(total):
    shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
    percentages = st.floats(0, 100, exclude_min=True).map(lambda p: f"{p!r}%")
    return st.one_of(st.integers(1, total), shares, percentages)


def share(amount, total):
    if isinstance(amount, str):
        return float(amount[:-1]) / 100
    return amount / total if isinstance(amount, int) else amount


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.just(total), amounts(total))))
def test_an_amount_is_at_least_one_weight_and_at_most_all(case):
    total, amount = case
    if share(amount, total) * total < 0.5:
        with pytest.raises(ValueError, match="at least one weight"):
            count_of(amount, total, "kappa")
    elif share(amount, total) * total > 0.51:
        count = count_of(amount, total, "kappa")
        assert 1 <= count <= total
        assert abs(count - share(amount, total) * total) <= 0.5 + 1e-6


@given(st.lists(st.floats(0.01, 1, exclude_max=True), min_size=2, max_size=8), st.integers(100, 10**6))
def test_a_larger_amount_is_never_fewer_weights(fractions, total):
    for written in (lambda f: f, lambda f: f"{100 * f!r}%"):
        counts = [count_of(written(f), total, "kappa") for f in sorted(fractions)]
        assert counts == sorted(counts)


# ForgetData


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (ForgetRequest((1,)), {1}),
        (ForgetRequest((1, 3)), {1, 3}),
        (ForgetRequest((1,), number=PER_CLASS), {1}),
        (ForgetRequest((1,), number=PER_CLASS - 1), set()),
        (ForgetRequest((-1,), number=7), set()),
        (ForgetRequest(indexes=(0, 1, 2)), set()),
    ],
)
def test_validation_loses_a_class_that_goes_whole_and_only_then(request_, gone, splits):
    data = ForgetData.of(splits, request_)
    kept = splits.validation.subset(torch.tensor([label not in gone for label in splits.validation.labels.tolist()]))
    assert data.forget_classes == tuple(sorted(gone))
    assert data.validation.indexes.tolist() == kept.indexes.tolist()


def test_forget_data_has_no_test_set(splits):
    assert not [f.name for f in fields(ForgetData) if "test" in f.name]
    data = ForgetData.of(splits, CLASS_1)
    assert not any(getattr(data, f.name) is splits.test for f in fields(ForgetData))


@pytest.mark.parametrize("request_", [CLASS_1, SEVEN_IMAGES, ForgetRequest((0, 1, 2))])
def test_forget_and_retain_set_together_are_the_training_set_in_its_order(request_, splits):
    data = ForgetData.of(splits, request_)
    assert len(data.forget) + len(data.retain) == len(splits.train)
    assert data.train.digest == splits.train.digest


def test_streams_differ_by_purpose_and_seed_and_repeat(splits):
    data = ForgetData.of(splits, CLASS_1)

    def first(data, *purpose):
        return torch.randint(2**31, (), generator=data.generator(*purpose)).item()

    draws = [first(data, "a"), first(data, "b"), first(data, "a", 1), first(replace(data, seed=2), "a")]
    assert len(set(draws)) == 4
    assert first(data, "a") == draws[0]


def test_a_copy_is_in_eval_mode_and_trainable(model):
    model.train().requires_grad_(False)
    copied = copy_of(model)
    assert not any(m.training for m in copied.modules())
    assert all(p.requires_grad for p in copied.parameters())
    assert all(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_new_method_is_a_file_with_a_function(tmp_path, model, splits):
    file = tmp_path / "mine.py"
    file.write_text(
        "from unlearn import copy_of\n\n\n"
        "def forget_nothing(model, data, *, times: int = 1):\n"
        '    """Add nothing.\n\n    Flags:\n        times: how often\n    """\n'
        "    return copy_of(model)\n"
    )
    data = ForgetData.of(splits, CLASS_1)
    assert same_bits(unlearn(f"{file}:forget_nothing", model, data, times=3).model.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"unknown flag of forget_nothing '--time'\. Did you mean '--times'"):
        unlearn(f"{file}:forget_nothing", model, data, time=3)


def test_progress_wraps_what_takes_long(model, splits):
    seen = SimpleNamespace(steps=0)

    def progress(steps, label, total=None):
        for step in steps:
            seen.steps += 1
            yield step

    unlearn("SFT", model, ForgetData.of(splits, CLASS_1, progress=progress), sft_steps=5)
    assert seen.steps == 5
