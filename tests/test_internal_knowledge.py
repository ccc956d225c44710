"""What an unlearned model still holds: the probe against hand-made features and scikit-learn, relearning
against a literal loop.
"""

import copy
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation, load_splits
from lethe.evaluation import (
    Relearned,
    anamnesis_index,
    outputs_of,
    penultimate_features,
    probe,
    probe_score,
    relearn_steps,
)
from lethe.evaluation.probe import halves
from lethe.models import Mask, apply_mask, build, switched_off
from lethe.training import Recipe, fit, generator_for

FORGOTTEN = 3
FEW = settings(max_examples=50)


@pytest.fixture(autouse=True)
def _own_random_numbers():
    """Every test starts from one seed, and leaves the global stream as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def labels_of(**counts):
    """labels_of(c0=2, c5=1) -> tensor([0, 0, 5])."""
    return torch.cat([torch.full((n,), int(name[1:])) for name, n in counts.items()])


def at(*places):
    """Features (N, 2): `number` images at each (x, y, number)."""
    return torch.tensor([[float(x), float(y)] for x, y, number in places for _ in range(number)])


def clouds(per_class, *, d=6, spread=1.0, seed=0):
    """Overlapping Gaussian classes: features (N, d), of unlike scale and offset, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(4).repeat(per_class)
    x = torch.randn(4, d, generator=generator)[y] + spread * torch.randn(len(y), d, generator=generator)
    return x * torch.logspace(-3, 3, d) + 100, y


def parted(x, y, forgotten=(0,)):
    """The four tensors of probe_score."""
    gone = torch.isin(y, torch.tensor(forgotten))
    return x[gone], y[gone], x[~gone], y[~gone]


# The probe


def test_separable_classes_are_all_found():
    forget, retain = at((0, 0, 9)), at((5, 0, 20), (0, 5, 20))

    assert probe_score(forget, labels_of(c0=9), retain, labels_of(c1=20, c2=20)) == 100.0


@pytest.mark.parametrize(("number", "score"), [(40, 0.0), (4, 100.0)])
def test_of_two_classes_with_the_same_features_the_larger_is_found(number, score):
    forget, retain = at((1, 1, 20)), at((1, 1, number), (-1, 3, 30))

    assert probe_score(forget, labels_of(c0=20), retain, labels_of(c1=number, c2=30)) == score


def test_found_is_the_share_of_the_held_out_half_that_lies_apart():
    forget, labels = at((-4, 0, 12), (4, 4, 12)), labels_of(c0=24)
    held_out = halves(labels, 5)[1]
    apart = int((held_out < 12).sum())

    assert 0 < apart < 12
    assert probe_score(forget, labels, at((4, 4, 60)), labels_of(c1=60), seed=5) == pytest.approx(
        100 * apart / 12
    )


def test_the_tested_half_is_not_learned():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(
        80, 300, generator=generator
    )  # more features than images: whatever is learned is known by heart

    assert probe_score(noise[:20], labels_of(c0=20), noise[20:], labels_of(c1=60)) < 50


@pytest.mark.parametrize("forgotten", [(0,), (1, 2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_agrees_with_scikit_learn_called_by_hand(forgotten, seed):
    forget, forget_labels, retain, retain_labels = parted(*clouds(150), forgotten)
    known, held_out = halves(forget_labels, seed)
    x = np.concatenate([retain.numpy(), forget[known].numpy()]).astype(np.float64)
    y = np.concatenate([retain_labels.numpy(), forget_labels[known].numpy()])
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    by_hand = LogisticRegression(solver="lbfgs", tol=1e-8, max_iter=10_000).fit((x - mean) / deviation, y)
    found = (
        by_hand.predict((forget[held_out].double().numpy() - mean) / deviation)
        == forget_labels[held_out].numpy()
    )

    score = probe_score(forget, forget_labels, retain, retain_labels, seed=seed)

    assert 20 < score < 95
    assert score == pytest.approx(
        100 * found.mean(), abs=100.1 / len(held_out)
    )  # one image may lie on the border


def test_scale_and_offset_of_a_feature_do_not_matter():
    x, y = clouds(50)

    assert probe_score(*parted(x, y)) == probe_score(*parted(x * 2.0 ** torch.arange(6) - 8, y))


def test_a_feature_that_is_constant_in_training_changes_nothing():
    forget, forget_labels, retain, retain_labels = parted(*clouds(50))
    dead = [
        torch.cat([features, torch.full((len(features), 1), 0.1)], dim=1) for features in (forget, retain)
    ]

    assert probe_score(dead[0], forget_labels, dead[1], retain_labels) == probe_score(
        forget, forget_labels, retain, retain_labels
    )


def test_the_order_of_retain_does_not_matter():
    forget, forget_labels, retain, retain_labels = parted(*clouds(50))
    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(0))

    shuffled = probe_score(forget, forget_labels, retain[order], retain_labels[order])

    assert shuffled == probe_score(forget, forget_labels, retain, retain_labels)


def test_the_seed_alone_draws_the_halves():
    features = parted(*clouds(50))

    first = [probe_score(*features, seed=seed) for seed in range(5)]
    torch.manual_seed(99)

    assert [probe_score(*features, seed=seed) for seed in range(5)] == first
    assert len(set(first)) > 1


def test_features_may_have_a_gradient_and_stay_as_they_are():
    features = parted(*clouds(50))
    before = [tensor.clone() for tensor in features]
    features[0].requires_grad_()

    probe_score(*features)

    assert all(torch.equal(one, other) for one, other in zip(features, before, strict=True))


@FEW
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 9))
def test_halves_part_the_images_and_every_class(labels, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    known, held_out = halves(labels, seed)

    assert sorted([*known.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert len(known) - len(held_out) in (0, 1)
    assert all(abs(int((labels[known] == c).sum() - (labels[held_out] == c).sum())) <= 1 for c in range(5))


def test_halves_are_drawn():
    parts = {tuple(sorted(halves(labels_of(c0=10), seed)[0].tolist())) for seed in range(20)}

    assert len(parts) > 15


NAN = torch.tensor([[0.0, math.nan], [0.0, 0.0]])


ONE = {"forget": at((0, 0, 1)), "forget_labels": labels_of(c0=1)}
NOBODY = {"forget": torch.empty(0, 2), "forget_labels": torch.empty(0, dtype=torch.int64)}
ROWS = r"floating-point {} features \(N, d\), got torch.float32 of shape {}"
LABELS = r"int64 {} labels of shape \(2,\), got {}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (ONE, "at least 2 forget images, got 1. Probe a larger"),
        (NOBODY, "at least 2 forget images, got 0"),
        ({"forget": torch.zeros(2)}, ROWS.format("forget", r"\(2,\). Give a row")),
        ({"retain": torch.zeros(2, 0)}, ROWS.format("retain", r"\(2, 0\)")),
        ({"retain": torch.zeros(2, 2).long()}, "floating-point retain features .* got torch.int64"),
        ({"retain": torch.zeros(2, 3)}, "as many features in forget as in retain, got 2 and 3. Take both"),
        (
            {"forget_labels": labels_of(c0=3)},
            LABELS.format("forget", r"torch.int64 of shape \(3,\). Give one class"),
        ),
        ({"retain_labels": torch.ones(2)}, LABELS.format("retain", r"torch.float32 of shape \(2,\)")),
        ({"forget": NAN}, "finite forget features, got NaN or infinity for 1 of 2 images. Lower"),
        ({"retain": NAN.nan_to_num(math.inf)}, "finite retain features, got NaN or infinity for 1 of 2"),
        (
            {"forget_labels": labels_of(c0=1, c4=1)},
            r"at least 2 forget images of a class that retain has not, got 1 of \[0, 4\]. Leave",
        ),
        (
            {"retain_labels": labels_of(c0=2)},
            "images of at least 2 classes, got class 0 alone. Give a retain set",
        ),
    ],
)
def test_what_can_not_be_probed(changed, message):
    good = {
        "forget": at((0, 0, 2)),
        "forget_labels": labels_of(c0=2),
        "retain": at((1, 1, 2)),
        "retain_labels": labels_of(c1=2),
    }

    assert probe_score(**good) == 100.0
    with pytest.raises(ValueError, match=f"expected {message}"):
        probe_score(**(good | changed))


def test_one_forget_image_of_a_class_is_enough_where_retain_has_it():
    forget = at((0, 0, 1), (9, 9, 1))

    assert (
        probe_score(forget, labels_of(c0=1, c1=1), at((0, 0, 9), (9, 9, 9)), labels_of(c0=9, c1=9)) == 100.0
    )


def test_a_probe_that_does_not_converge_gives_no_number(monkeypatch):
    monkeypatch.setattr(probe, "MAX_ITER", 1)

    reason = "expected a probe that converges within 1 iterations, got one that did not. Give features"
    with pytest.raises(ValueError, match=reason):
        probe_score(*parted(*clouds(50)))


# Features


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits", "nowhere").train


def trained_on(images, *, epochs):
    model = build("mlp", (1, 8, 8), 10, seed=1, options={"hidden": (32, 16)})
    fit(
        model,
        images,
        Recipe(epochs, "adamw", lr=1e-2, batch_size=64),
        generator=torch.Generator().manual_seed(0),
    )
    return model


@pytest.fixture(scope="module")
def initial(digits):
    return trained_on(digits, epochs=8)


@pytest.fixture(scope="module")
def ideal(digits):
    return trained_on(digits.without_classes(FORGOTTEN), epochs=8)


def probed(model, forget, retain):
    return probe_score(
        penultimate_features(model, forget), forget.labels, penultimate_features(model, retain), retain.labels
    )


def test_the_probe_finds_a_class_in_a_trained_model(initial, ideal, digits):
    forget, retain = digits.of_classes(FORGOTTEN), digits.without_classes(FORGOTTEN)

    assert probed(initial, forget, retain) >= 90
    assert probed(ideal, forget, retain) < probed(initial, forget, retain)


def test_the_probe_finds_a_class_that_only_the_logits_deny(initial, digits):
    forget, retain = digits.of_classes(FORGOTTEN), digits.without_classes(FORGOTTEN)
    silenced = copy.deepcopy(initial)
    with torch.no_grad():
        silenced.linear3.weight[FORGOTTEN] = -1.0

    assert not outputs_of(silenced, forget.batches(64)).correct.any()
    assert probed(silenced, forget, retain) == probed(initial, forget, retain)


def image_set(count, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(
        images, torch.arange(count) % classes, torch.arange(count), Normalisation((0.5,), (0.25,))
    )


class Branching(nn.Module):
    """A model that can't be traced, with a linear layer that never runs behind the one that runs last."""

    def __init__(self):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(5, 4), nn.Linear(16, 5), nn.Linear(1, 1)

    def forward(self, x):
        h = self.first(x.flatten(1))
        return self.last(h.relu() if h.sum() > 1e6 else h.tanh())


def with_running_statistics():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(6, 4),
        nn.Softplus(),
    )


@pytest.mark.parametrize(
    ("make", "last", "head"),
    [(Branching, "last", nn.Identity()), (with_running_statistics, "5", nn.Softplus())],
)
def test_features_are_what_the_last_linear_layer_sees(make, last, head, monkeypatch):
    monkeypatch.setattr(probe, "forward_batch", lambda _: 4)
    model, images = make().eval(), image_set(11)

    features = penultimate_features(model, images)

    with torch.no_grad():
        assert torch.allclose(
            head(model.get_submodule(last)(features)), model(images.normalisation(images.images)), atol=1e-6
        )
    assert not features.requires_grad


def test_a_model_keeps_its_modes_and_its_state():
    model = with_running_statistics().train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())

    first, second = (penultimate_features(model, image_set(5)) for _ in range(2))

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert torch.equal(first, second)  # no dropout


def test_one_image_has_features():
    assert penultimate_features(with_running_statistics(), image_set(1)).shape == (1, 6)


def test_an_applied_mask_holds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 4))
    apply_mask(model, Mask("1", torch.zeros(6, 16, dtype=torch.bool)))

    features = penultimate_features(model, image_set(3))

    assert torch.equal(features, model[1].bias.detach().expand(3, 6))


@pytest.mark.parametrize(
    ("model", "count", "message"),
    [
        (nn.Flatten(), 0, "expected at least 1 image, got 0. Take the features"),
        (
            nn.Flatten(),
            3,
            "whose last linear layer sees one vector an image, got a Flatten without one. Give the probe",
        ),
        (nn.Linear(4, 2), 3, r"one vector an image, got '', which sees \(2, 1, 4, 4\) for 2 images"),
    ],
)
def test_what_has_no_features(model, count, message):
    with pytest.raises(ValueError, match=message):
        penultimate_features(model, image_set(count))


# Relearning


def literal_steps(model, forget, goal, *, seed, lr, batch_size, cap, judged_on):
    """The definition, slowly: Adam from its formulas, batches by hand, percent as a fraction of integers."""
    model = copy.deepcopy(model).eval()
    parameters = list(model.parameters())
    x, y = forget.normalisation(forget.images), forget.labels
    drawn = torch.randperm(len(y), generator=generator_for(seed, "evaluation", "relearning", "judged"))[
        :judged_on
    ]
    generator = generator_for(seed, "evaluation", "relearning", "batches")
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    queue = []
    for t in range(cap + 1):
        with torch.no_grad():
            right = int((model(x[drawn]).argmax(dim=1) == y[drawn]).sum())
        if 100 * 100 * right >= 95 * goal * len(drawn):
            return t, False
        if t == cap:
            return cap, True
        if not queue:
            order = torch.randperm(len(y), generator=generator)
            queue = [order[i : i + batch_size] for i in range(0, len(y), batch_size)]
        rows = queue.pop(0)
        loss = -F.log_softmax(model(x[rows]), dim=1)[torch.arange(len(rows)), y[rows]].mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, m, v, g in zip(parameters, first, second, gradients, strict=True):
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g**2)
                p -= lr * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)


@pytest.fixture(scope="module")
def forget(digits):
    return digits.of_classes(FORGOTTEN, 5)


@pytest.mark.parametrize(
    "recipe",
    [
        {"seed": 1, "lr": 1e-3, "batch_size": 128, "cap": 1000, "judged_on": 1000},
        {"seed": 2, "lr": 3e-3, "batch_size": 50, "cap": 1000, "judged_on": 40},
        {"seed": 3, "lr": 1e-4, "batch_size": 32, "cap": 7, "judged_on": 1000},
    ],
)
def test_steps_are_those_of_the_literal_loop(ideal, forget, recipe):
    steps, censored = literal_steps(ideal, forget, 98, **recipe)

    assert steps >= 5
    assert relearn_steps(ideal, forget, 98.0, **recipe) == Relearned(steps, censored)


def test_relearning_is_gradual_enough_to_compare_models(initial, ideal, forget):
    damaged = copy.deepcopy(initial)
    with torch.no_grad():
        damaged.linear3.weight[[FORGOTTEN, 5]] *= 0.3

    steps = relearn_steps(damaged, forget, 98.0).steps

    assert 0 < steps < relearn_steps(ideal, forget, 98.0).steps


def test_a_model_that_is_there_takes_no_step(initial, forget):
    assert relearn_steps(initial, forget, 98.0) == Relearned(0, censored=False)


def test_the_cap_censors_one_step_early_but_not_at_the_last(ideal, forget):
    needed = relearn_steps(ideal, forget, 98.0, lr=3e-3)

    assert not needed.censored
    assert relearn_steps(ideal, forget, 98.0, lr=3e-3, cap=needed.steps) == needed
    assert relearn_steps(ideal, forget, 98.0, lr=3e-3, cap=needed.steps - 1) == Relearned(
        needed.steps - 1, censored=True
    )


@pytest.mark.parametrize(
    ("right", "images", "score", "there"),
    [
        (95, 100, 100.0, True),
        (94, 100, 100.0, False),
        (57, 100, 60.0, True),  # 100 * 0.57 is below 57
        (19, 29, 100 * 20 / 29, True),  # 0.95 * 100 * (20 / 29) / 100 * 29 is above 19
        (18, 29, 100 * 20 / 29, False),
        (17, 30, 60.0, False),  # 17.1 of 30 are 18
        (18, 30, 60.0, True),
    ],
)
def test_the_goal_is_95_percent_of_the_score_exactly(right, images, score, there):
    labels = torch.cat([torch.zeros(right), torch.ones(images - right)]).long()
    images = replace(image_set(images), labels=labels)
    says_0 = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        says_0[1].weight.zero_()
        says_0[1].bias.copy_(torch.tensor([1.0, 0.0]))

    assert relearn_steps(says_0, images, score, cap=1, lr=0.0) == (
        Relearned(0, False) if there else Relearned(1, True)
    )


def test_the_same_seed_gives_the_same_steps(ideal, forget):
    def steps(seed):
        return relearn_steps(ideal, forget, 98.0, seed=seed, lr=3e-3, batch_size=8, judged_on=50)

    first = [steps(seed) for seed in range(3)]
    torch.manual_seed(99)

    assert [steps(seed) for seed in range(3)] == first
    assert len(set(first)) > 1


def test_the_model_is_untouched(forget):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 10)
    ).train()
    model[1].requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]

    assert relearn_steps(model, forget, 98.0, cap=3).steps == 3

    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_learn_in_the_copy(ideal, forget):
    frozen = copy.deepcopy(ideal).requires_grad_(False)

    assert relearn_steps(frozen, forget, 98.0, lr=3e-3) == relearn_steps(ideal, forget, 98.0, lr=3e-3)


class Watched(nn.Module):
    """Tells of every pass in which mode it was, whether it was a step, and of how many images."""

    def __init__(self, notice=lambda *_: None):
        super().__init__()
        self.linear, self.notice = nn.Linear(16, 4), notice

    def forward(self, x):
        self.notice(self.training, torch.is_grad_enabled(), len(x))
        return self.linear(x.flatten(1))


def test_steps_and_judgements_alternate_in_eval_mode():
    passes = []
    model = Watched(lambda *seen: passes.append(seen)).train()

    relearn_steps(model, image_set(10), 100.0, lr=0.0, batch_size=4, cap=4, judged_on=7)

    judged = (False, False, 7)
    steps = [(False, True, size) for size in (4, 4, 2, 4)]  # the last batch of an epoch is smaller
    assert passes == [judged, steps[0], judged, steps[1], judged, steps[2], judged, steps[3], judged]


class Decaying(nn.Module):
    """Says class 1 until its only weight, which has no gradient, has shrunk."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        of_1 = self.weight.detach() + 0 * self.weight - 0.99
        return torch.stack([torch.zeros(len(x)), of_1.expand(len(x))], dim=1)


def test_weights_do_not_decay():
    assert relearn_steps(Decaying(), image_set(4, classes=1), 100.0, lr=1.0, cap=20) == Relearned(
        20, censored=True
    )


def all_off(model):
    return Mask("linear3", torch.zeros_like(model.linear3.weight, dtype=torch.bool))


def test_zeros_that_a_mask_wrote_learn_again(initial, forget):
    model = copy.deepcopy(initial)
    switched_off(model, all_off(model))

    relearned = relearn_steps(model, forget, 98.0)

    assert not relearned.censored
    assert relearned.steps > 0
    assert not model.linear3.weight.any()


def test_a_mask_that_is_only_applied_stays_on(initial, forget):
    model = copy.deepcopy(initial)
    apply_mask(model, all_off(model))

    assert relearn_steps(model, forget, 98.0, cap=30) == Relearned(30, censored=True)


def test_a_model_that_diverged_knows_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    nn.init.constant_(model[1].weight, math.nan)  # of NaN logits argmax says class 0

    reason = "logits with a finite maximum, got NaN or infinity for 5 of 5 images"
    with pytest.raises(ValueError, match=reason):
        relearn_steps(model, image_set(5, classes=1), 100.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"forget": image_set(0)}, "expected at least 1 forget image, got 0. Ask for a forget set"),
        ({"initial_score": 0.0}, "forget_score in percent, above 0 and at most 100, got 0.0. Give the score"),
        ({"initial_score": 100.5}, "at most 100, got 100.5"),
        ({"initial_score": math.nan}, "at most 100, got nan"),
        ({"cap": 0}, "expected cap >= 1, got 0. Give a number of steps."),
        ({"batch_size": -1}, "expected batch_size >= 1, got -1. Give a number of images."),
        ({"judged_on": 0}, "expected judged_on >= 1, got 0. Give a number of images."),
    ],
)
def test_what_can_not_be_relearned(changed, message):
    with pytest.raises(ValueError, match=message):
        relearn_steps(Watched(), **({"forget": image_set(4), "initial_score": 90.0} | changed))


def test_what_was_relearned_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Relearned(1, False).steps = 2


@pytest.mark.parametrize(
    ("steps", "ideal_steps", "index"),
    [(0, 0, 1.0), (7, 7, 1.0), (10, 20, 10.01 / 20.01), (0, 1, 1 / 101), (5, 0, 501)],
)
def test_anamnesis_index(steps, ideal_steps, index):
    assert anamnesis_index(steps, ideal_steps) == pytest.approx(index, rel=1e-12)


@pytest.mark.parametrize("pair", [(-1, 3), (3, -1)])
def test_no_model_takes_fewer_than_no_steps(pair):
    with pytest.raises(ValueError, match="expected steps >= 0, got .* Give what relearn_steps counted"):
        anamnesis_index(*pair)
