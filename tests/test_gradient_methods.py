"""Truths and traps of the methods that fine-tune by passes: FT, FT_l1, NegGrad, ascent_descent, RL, SalUn,
SalUn_soft, amnesiac.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet
from lethe.unlearn import METHODS, ForgetData, resolved, unlearn
from lethe.unlearn.passes import Pass, fine_tune, sgd
from lethe.unlearn.random_label import relabelled
from lethe.unlearn.salun import falling, most_salient, quantile, saliency, soft_threshold_changes
from lethe.unlearn.train_mode import train_mode, without_a_last_single

CPU = torch.device("cpu")
SGD_METHODS = ["FT", "FT_l1", "NegGrad", "ascent_descent", "RL", "SalUn", "SalUn_soft"]
EVERY = [*SGD_METHODS, "amnesiac"]
FORGETS_ALONE = ["NegGrad", "ascent_descent", "RL", "SalUn", "SalUn_soft"]


def data_of(images=12, classes=3, forget=4, seed=1, **world):
    """Floats (N, 2); `forget` images of class 0 are to be forgotten, or as many as there are."""
    x = torch.randn(images, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(images) % classes
    chosen = torch.zeros(images, dtype=torch.bool)
    chosen[(y == 0).nonzero().flatten()[:forget]] = True
    return ForgetData.of_tensors(x, y, chosen, seed=seed, **world)


def linear(classes=3):
    model = nn.Linear(2, classes)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.6, 0.7, 2 * classes).view(classes, 2))
        model.bias.copy_(torch.linspace(0.2, -0.1, classes))
    return model


def normed(classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, classes)
        ).eval()


def gradients(model, images, labels=None, **settings):
    loss = F.cross_entropy(model(images.images), images.labels if labels is None else labels, **settings)
    return torch.autograd.grad(loss, list(model.parameters()))


class ByHand:
    """SGD with momentum and decay: g <- g + decay theta; b <- momentum b + g; theta <- theta - lr b."""

    def __init__(self, model, lr, momentum=0.9, decay=5e-4):
        self.model, self.lr, self.momentum, self.decay = model, lr, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in model.parameters()]

    @torch.no_grad()
    def step(self, grads):
        for p, b, g in zip(self.model.parameters(), self.buffers, grads, strict=True):
            b.mul_(self.momentum).add_(g + self.decay * p)
            p.sub_(self.lr * b)


def assert_close(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# One step after another, by hand


def test_ft_descends_on_retain():
    data, by_hand = data_of(), ByHand(linear(), lr=0.1)
    for _ in range(3):
        by_hand.step(gradients(by_hand.model, data.retain))
    result = unlearn("FT", linear(), data, unlearn_epochs=3, unlearn_lr=0.1)
    assert_close(result.model, by_hand.model)
    assert len(result.history) == 3


@pytest.mark.parametrize("name", ["FT_l1", "l1_sparse", "FT_prune"])
def test_the_l1_penalty_is_on_all_weights_and_fades_linearly(name):
    data, by_hand, alpha, epochs = data_of(), ByHand(linear(), lr=0.1), 0.3, 4
    for weight in (alpha, alpha * 3 / 4, alpha * 2 / 4, alpha / 4):
        signs = [p.detach().sign() for p in by_hand.model.parameters()]
        grads = gradients(by_hand.model, data.retain)
        by_hand.step([g + weight * s for g, s in zip(grads, signs, strict=True)])
    assert_close(
        unlearn(name, linear(), data, unlearn_epochs=epochs, unlearn_lr=0.1, l1_alpha=alpha).model,
        by_hand.model,
    )


@pytest.mark.parametrize("name", ["NegGrad", "GA", "ascent_forget"])
def test_neg_grad_ascends_on_forget_while_decay_still_shrinks(name):
    data, by_hand = data_of(), ByHand(linear(), lr=0.1, decay=0.05)
    for _ in range(2):
        by_hand.step([-g for g in gradients(by_hand.model, data.forget)])
    result = unlearn(name, linear(), data, unlearn_epochs=2, unlearn_lr=0.1, weight_decay=0.05)
    assert_close(result.model, by_hand.model)
    before, after = (
        F.cross_entropy(m(data.forget.images), data.forget.labels).item() for m in (linear(), result.model)
    )
    assert after > before
    assert result.history[0]["forget_loss"] == pytest.approx(before)  # the loss itself, not its negative


def test_ascent_descent_ascends_in_its_first_epochs_and_descends_after_in_all():
    data, by_hand = data_of(), ByHand(linear(), lr=0.1, momentum=0.0, decay=0.0)
    for epoch in range(4):
        if epoch < 2:
            by_hand.step([-g for g in gradients(by_hand.model, data.forget)])
        by_hand.step(gradients(by_hand.model, data.retain))
    result = unlearn("ascent_descent", linear(), data, unlearn_epochs=4, ascent_epochs=2, unlearn_lr=0.1)
    assert_close(result.model, by_hand.model)
    assert [sorted(epoch) for epoch in result.history] == [["forget_loss", "retain_loss"]] * 2 + [
        ["retain_loss"]
    ] * 2


@pytest.mark.parametrize("name", ["RL", "random_label"])
def test_rl_passes_over_relabelled_forget_then_retain(name):
    data, by_hand = data_of(), ByHand(linear(), lr=0.1)
    draws = data.generator("RL", "labels")
    for _ in range(3):
        by_hand.step(gradients(by_hand.model, relabelled(data.forget, 3, draws)))
        by_hand.step(gradients(by_hand.model, data.retain))
    assert_close(unlearn(name, linear(), data, unlearn_epochs=3, unlearn_lr=0.1).model, by_hand.model)


def test_salun_is_rl_on_its_mask():
    data, by_hand = data_of(), ByHand(linear(), lr=0.1)
    initial = [p.detach().clone() for p in by_hand.model.parameters()]
    ranked = torch.cat([g.abs().flatten() for g in gradients(linear(), data.forget, reduction="sum")])
    kept = [
        g.abs() >= ranked.sort(descending=True).values[3]
        for g in gradients(linear(), data.forget, reduction="sum")
    ]  # 4 of 9
    draws = data.generator("RL", "labels")
    for _ in range(3):
        for images in (relabelled(data.forget, 3, draws), data.retain):
            by_hand.step(gradients(by_hand.model, images))
            with torch.no_grad():
                for p, start, keep in zip(by_hand.model.parameters(), initial, kept, strict=True):
                    p[~keep] = start[~keep]
    result = unlearn("SalUn", linear(), data, unlearn_epochs=3, unlearn_lr=0.1, density=4 / 9)
    assert_close(result.model, by_hand.model)
    assert result.facts == {"weights": 9, "trained_weights": 4}


@pytest.mark.parametrize("name", ["SalUn_soft", "RL_proximal"])
def test_salun_soft_thresholds_the_way_from_the_initial_model(name):
    data, by_hand = data_of(), ByHand(linear(), lr=0.1)
    start, draws = weights(linear()), data.generator("RL", "labels")
    shares = [2 / 3 * (1 - step / 5) for step in range(6)]  # 3 epochs of 2 steps
    for epoch in range(3):
        for half, images in enumerate((relabelled(data.forget, 3, draws), data.retain)):
            by_hand.step(gradients(by_hand.model, images))
            delta = weights(by_hand.model) - start
            rank = round(shares[2 * epoch + half] * 9)
            threshold = delta.abs().sort().values[rank - 1] if rank else torch.tensor(0.0)
            soft = start + delta.sign() * (delta.abs() - threshold).clamp(min=0)
            torch.nn.utils.vector_to_parameters(soft, by_hand.model.parameters())
    result = unlearn(name, linear(), data, unlearn_epochs=3, unlearn_lr=0.1, density=1 / 3)
    assert_close(result.model, by_hand.model)


def test_amnesiac_trains_on_everything_under_labels_that_are_drawn_once():
    data, model = data_of(), linear()
    wrong = relabelled(data.forget, 3, data.generator("amnesiac", "labels"))
    mixed = wrong.joined(data.retain)
    first, second = ([torch.zeros_like(p) for p in model.parameters()] for _ in range(2))
    for step in range(1, 4):
        for p, m, v, g in zip(model.parameters(), first, second, gradients(model, mixed), strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            with torch.no_grad():
                p.sub_(0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    assert_close(unlearn("amnesiac", linear(), data, unlearn_epochs=3, unlearn_lr=0.01).model, model)


# Labels


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_a_random_label_is_any_class_but_the_true_one(classes):
    labels = torch.arange(classes).repeat(6000 // classes)
    images = ImageSet.of_tensors(torch.zeros(len(labels), 1), labels)
    drawn = relabelled(images, classes, torch.Generator().manual_seed(0)).labels
    assert not (drawn == labels).any()
    counts = ((drawn - labels) % classes).bincount(minlength=classes)[1:].double()
    expected = len(labels) / (classes - 1)
    assert ((counts - expected).square() / expected).sum() < classes - 2 + 5 * math.sqrt(2 * classes)


@pytest.fixture
def batches_seen(monkeypatch):
    """Every batch that a method hands to the optimiser, pass by pass."""
    from lethe.unlearn import passes

    seen, descend = [], passes.descend

    def spy(model, batches, **settings):
        seen.append(list(batches))
        return descend(model, seen[-1], **settings)

    monkeypatch.setattr(passes, "descend", spy)
    return seen


@pytest.mark.parametrize("name", ["RL", "SalUn", "SalUn_soft"])
def test_labels_are_drawn_anew_in_each_epoch_from_all_100_classes(name, batches_seen):
    data = data_of(images=1000, classes=100, forget=10)
    unlearn(name, linear(100), data, unlearn_epochs=60)
    forget, retain = batches_seen[0::2], batches_seen[1::2]
    drawn = torch.stack([torch.cat([y for _, y in one]) for one in forget])
    assert len({tuple(row) for row in drawn.tolist()}) == 60
    assert drawn.min() == 1  # never the true one, 0
    assert len(drawn.unique()) == 99
    assert all(
        torch.cat([y for _, y in one]).bincount(minlength=100).tolist() == [0] + [10] * 99 for one in retain
    )


def test_amnesiac_draws_its_labels_once_and_never_the_true_one(batches_seen):
    data = data_of(images=400, classes=100, forget=4)
    unlearn("amnesiac", linear(100), data, unlearn_epochs=5, batch_size=64)
    of_image = []
    for one in batches_seen:
        x, y = (torch.cat(parts) for parts in zip(*one, strict=True))
        position = [int((data.train.images == row).all(1).nonzero()) for row in x]
        assert sorted(position) == list(range(400))  # every image once
        of_image.append(y[torch.tensor(position).argsort()])
    assert all(torch.equal(of_image[0], labels) for labels in of_image)
    changed = of_image[0] != data.train.labels
    assert changed.nonzero().flatten().tolist() == data.forget.indexes.tolist()


# Masks and thresholds


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_frozen_weights_do_not_move_under_momentum_and_weight_decay(density):
    model, data = normed(), data_of()
    result = unlearn(
        "SalUn",
        model,
        data,
        density=density,
        unlearn_epochs=5,
        unlearn_lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
    )
    keep = torch.cat(
        [k.flatten() for k in most_salient(saliency(copy.deepcopy(model), data.forget.batches(3)), density)]
    )
    moved = weights(result.model) != weights(model)
    assert not moved[~keep].any()
    assert moved[keep].all()
    assert keep.sum() == round(density * len(keep)) == result.facts["trained_weights"]


def test_salun_at_density_1_is_rl():
    data = data_of()
    one, other = unlearn("SalUn", normed(), data, density=1).model, unlearn("RL", normed(), data).model
    assert torch.equal(weights(one), weights(other))


def test_saliency_is_the_sum_over_all_images_in_eval_mode():
    model, data = normed().train(), data_of()
    scores = saliency(model, data.forget.batches(3))
    assert all(m.training for m in model.modules())
    model.eval()
    by_image = [gradients(model, data.forget.subset(torch.tensor([i]))) for i in range(len(data.forget))]
    for score, *grads in zip(scores, *by_image, strict=True):
        torch.testing.assert_close(score, torch.stack(grads).sum(0).abs())
    assert len(scores) == len(list(model.parameters())) == 6  # batch norm and biases too


def test_gradients_of_different_batches_cancel_in_the_saliency():
    """A batch of one image of each of two classes: what the first asks of the bias, the second takes back."""
    model = nn.Linear(1, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batches = [(torch.tensor([[1.0]]), torch.tensor([0])), (torch.tensor([[3.0]]), torch.tensor([1]))]
    weight, bias = saliency(model, batches)
    assert weight.tolist() == [[1.0], [1.0]]  # |-.5 + 1.5|
    assert bias.tolist() == [0.0, 0.0]


def test_the_mask_ranks_all_weights_together_and_ties_by_order():
    keep = most_salient([torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 5.0])], 0.5)
    assert keep[0].tolist() == [[True, False], [True, False]]
    assert keep[1].tolist() == [False, True]


def test_soft_thresholding_by_hand_and_from_the_same_start_throughout():
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    soft_threshold_changes([weight], optimizer, iter([0.5, 0.0]))
    weight.grad = torch.tensor([-4.0, 1.0, 2.0, -3.0])
    optimizer.step()  # ways 4, -1, -2, 3; the 2nd smallest is 2
    assert weight.tolist() == [3.0, 1.0, 1.0, 2.0]
    weight.grad = torch.tensor([2.0, 0.0, 0.0, 0.0])
    optimizer.step()  # nothing is thresholded any more: from the start, not from the epoch before
    assert weight.tolist() == [1.0, 1.0, 1.0, 2.0]


def test_the_share_falls_linearly_to_0():
    assert list(falling(0.8, 5)) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert list(falling(0.8, 1)) == [0.8]


def test_the_quantile_of_more_values_than_torch_takes():
    values = torch.zeros(2**24 + 8)
    values[:5] = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert quantile(values, 1.0) == 5.0
    assert quantile(values, 0.0) == 0.0
    assert quantile(torch.tensor([3.0, 1.0, 2.0]), 2 / 3) == 2.0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_salun_soft_has_as_many_shares_as_steps(batch_size, monkeypatch):
    shares = []
    monkeypatch.setattr(
        "lethe.unlearn.salun.falling",
        lambda *start_and_steps: shares.append(falling(*start_and_steps)) or shares[0],
    )
    unlearn(
        "SalUn_soft", normed(), data_of(images=15, forget=5), batch_size=batch_size
    )  # 5 forget, 10 retain: some leave one
    assert list(shares[0]) == []


# What the passes promise


@pytest.mark.parametrize("name", FORGETS_ALONE)
def test_batches_of_the_forget_class_leave_the_running_statistics_alone(name):
    retain_batches = 0 if name == "NegGrad" else 5  # one an epoch
    result = unlearn(name, normed(), data_of(), unlearn_epochs=5, batch_size=12)
    assert result.model[1].num_batches_tracked == retain_batches


def test_rl_forgets_a_class_in_eval_mode_behind_batch_norm():
    """With batch statistics it would learn which batches are of one class, and would not forget the class."""
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 3
    images = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])[labels] + 0.3 * noise
    data = ForgetData.of_tensors(images, labels, labels == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    everything = [Pass("train", data.train)]
    model = fine_tune(
        model,
        data,
        "FT",
        lambda _: everything,
        optimizer=sgd(model, 0.1, 0.9, 5e-4),
        unlearn_epochs=40,
        batch_size=64,
    ).model

    def share(model, images):
        return (model(images.images).argmax(1) == images.labels).float().mean().item()

    result = unlearn("RL", model, data).model
    assert share(model, data.forget) > 0.98
    assert share(result, data.forget) < 0.1
    assert share(result, data.retain) > 0.98


@pytest.mark.parametrize("name", ["FT", "FT_l1", "amnesiac"])
def test_the_others_train_batch_norm_too(name):
    model = normed()
    assert not torch.equal(unlearn(name, model, data_of()).model[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("images", "forget", "batch_size"), [(12, 1, 256), (13, 4, 3), (12, 4, 1), (4, 1, 2)]
)
def test_no_batch_of_one_image_stops_batch_norm(name, images, forget, batch_size):
    result = unlearn(name, normed(), data_of(images, forget=forget), batch_size=batch_size)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_a_last_batch_of_one_is_spread_over_the_others():
    assert [without_a_last_single(data_of(n).train, 3) for n in (12, 13, 14, 3, 4)] == [3, 5, 3, 3, 4]
    assert without_a_last_single(data_of(4).train, 1) == 1


@pytest.mark.parametrize("name", EVERY)
def test_dropout_is_on_and_the_seed_alone_decides_it(name):
    def result(model, global_seed, seed=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            return weights(unlearn(name, model, data_of(seed=seed), unlearn_lr=0.1).model)

    without = normed()
    without[3].p = 0.0
    assert torch.equal(result(normed(), 1), result(normed(), 2))
    assert not torch.allclose(result(normed(), 1), result(normed(), 1, seed=2), atol=1e-4)
    assert not torch.allclose(result(normed(), 1), result(without, 1), atol=1e-4)


def test_train_mode_ends_in_eval_mode_and_puts_the_random_state_back_after_an_error():
    model, state = normed(), torch.get_rng_state()
    with (
        pytest.raises(KeyError),
        train_mode(model, torch.Generator().manual_seed(0), CPU, single_images=True),
    ):
        assert [m.training for m in model] == [True, False, True, True, True]
        torch.rand(3)
        raise KeyError
    assert not any(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", EVERY)
def test_every_epoch_is_shown_in_eval_mode(name):
    shown = []
    data = data_of(on_epoch=lambda model, epoch: shown.append((epoch, model.training)))
    result = unlearn(name, normed(), data, unlearn_epochs=3)
    assert shown == [(1, False), (2, False), (3, False)]
    assert len(result.history) == 3


@pytest.mark.parametrize("name", EVERY)
def test_the_model_of_the_caller_stays(name):
    model = normed()
    before = copy.deepcopy(model.state_dict())
    result = unlearn(name, model, data_of())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(weights(result.model), weights(model))


# Divergence


@pytest.mark.parametrize("name", EVERY)
def test_a_method_that_diverges_names_itself(name):
    reason = rf"^{name} diverged in epoch \d+: \w+_loss .* Choose a smaller --unlearn_lr"
    with pytest.raises(FloatingPointError, match=reason):
        unlearn(name, nn.Sequential(linear(), nn.Linear(3, 3)), data_of(), unlearn_lr=1e30, unlearn_epochs=50)


def test_neg_grad_shows_a_loss_that_climbs():
    history = unlearn("NegGrad", linear(), data_of(), unlearn_lr=1.0, unlearn_epochs=20).history
    losses = [epoch["forget_loss"] for epoch in history]
    assert losses == sorted(losses)
    assert losses[-1] > 10


def test_weights_that_overflow_in_the_last_step_are_noticed():
    reason = "FT diverged in epoch 1: retain_loss .*, or weights that are not finite"
    with pytest.raises(FloatingPointError, match=reason):
        unlearn("FT", linear(), data_of(), unlearn_lr=3e37, weight_decay=3e37, unlearn_epochs=1)


def test_the_published_l1_alpha_shrinks_what_the_default_keeps():
    x, labels = torch.eye(3).repeat(40, 1), torch.arange(120) % 3
    data = ForgetData.of_tensors(x, labels, torch.arange(120) < 9)
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(4 * torch.eye(3))
    kept, shrunk = (
        unlearn("FT_l1", model, data, batch_size=2, **alpha).model for alpha in ({}, {"l1_alpha": 0.2})
    )
    assert kept.weight.diagonal().min() > 3.9
    assert shrunk.weight.diagonal().max() < 2.5


# Flags


OUT_OF_RANGE = [
    ("unlearn_epochs", 0, "an integer >= 1"),
    ("batch_size", 0, "an integer >= 1"),
    ("unlearn_lr", 0.0, "a number > 0"),
    ("unlearn_lr", -1.0, "a number > 0"),
    ("unlearn_lr", math.nan, "a number > 0"),
    ("momentum", 1.0, "a number from 0 to below 1"),
    ("weight_decay", -1e-4, "a number >= 0"),
    ("l1_alpha", 0.0, "a number > 0"),
    *(("density", share, "a number above 0 and at most 1") for share in (0.0, 1.1, math.nan)),
    ("density", 1e-3, r"a share in \(0, 1\] of at least one of 9 weights"),
    ("ascent_epochs", 0, "an integer >= 1"),
    ("ascent_epochs", 11, "an integer from 1 to --unlearn_epochs 10"),
]


@pytest.mark.parametrize(
    ("name", "flag", "value", "expected"),
    [(name, *case) for name in EVERY for case in OUT_OF_RANGE if case[0] in METHODS[name].hyperparameters],
)
def test_a_flag_out_of_range_is_refused_before_and_when_it_runs(name, flag, value, expected):
    settings = METHODS[name].settings({}) | {flag: value}
    with pytest.raises(ValueError, match=f"--{flag}: expected {expected}, got"):
        METHODS[name](linear(), data_of(), **settings)
    with pytest.raises(ValueError, match=f"--{flag}: expected {expected}, got"):
        resolved(name, linear(), data_of(), settings)


SRL_NAMES = ["SRL", "SRGradMask", "SRGradFocus", "SRL_OPT", "SRGradFocusOPT", "SRSalUn"]


@pytest.mark.parametrize("name", ["RL", "SalUn", "SalUn_soft", "amnesiac", *SRL_NAMES])
def test_random_labels_need_another_class(name):
    data = ForgetData.of_tensors(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.arange(4) < 2)
    with pytest.raises(ValueError, match="random labels: expected at least 2 classes, got 1"):
        unlearn(name, linear(1), data)
    with pytest.raises(ValueError, match="random labels: expected at least 2 classes, got 1"):
        resolved(name, linear(1), data, METHODS[name].settings({}))
