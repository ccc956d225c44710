"""Methods that learn from a teacher, from noise, or from what lies across a boundary: one step by hand, and what went wrong elsewhere."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.by_hand import adam, sgd, slope
from unlearn import METHODS, ForgetData, resolved, unlearn, unsir
from unlearn.bad_teacher import incompetent
from unlearn.blocks import classifier_of
from unlearn.boundary_expanding import Widened
from unlearn.boundary_shrink import moved, nearest_class, relabelled
from unlearn.forget_and_retain import logits_of, with_share_of_retain
from unlearn.lotus import accuracy_unseen, gumbel, noisy_targets
from unlearn.unsir import drawn_per_class, impairing, noise_against
from vision_data import ImageSet, Normalisation

METHODS_HERE = ["bad_teacher", "UNSIR", "boundary_shrink", "boundary_expanding", "LoTUS"]
CLASSES = 4
CPU = torch.device("cpu")


def images_of(per_class, seed=0, first=0):
    """A bright column of 4 x 4 pixels per class, and noise; the classes in turn."""
    labels = torch.arange(CLASSES).repeat(per_class)
    images = torch.randint(80, (len(labels), 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    images[torch.arange(len(labels)), 0, :, labels] += 120
    return ImageSet(images.to(torch.uint8), labels, first + torch.arange(len(labels)), Normalisation((0.3,), (0.2,)))


def data_of(*classes, part=None, **world):
    """The request for these classes, or for the images at the positions `part`."""
    train, validation = images_of(10), images_of(3, seed=1, first=100)
    chosen = torch.isin(train.labels, torch.tensor(classes, dtype=torch.int64))
    chosen[torch.tensor(part or [], dtype=torch.int64)] = True
    return ForgetData(train.subset(chosen), train.subset(~chosen), validation, CLASSES, **world)


def classifier(*between, classes=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), *between, nn.ReLU(), nn.Linear(8, classes)).eval()


@pytest.fixture
def model():
    return classifier()


@pytest.fixture(scope="module")
def trained():
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    x, y = next(images_of(10).batches(1000))
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert accuracy(model, images_of(10)) == 1
    return model


def accuracy(model, images):
    x, y = next(images.batches(1000))
    return (model(x).argmax(1) == y).double().mean().item()


def everything(images):
    return next(images.batches(10_000))


def assert_weights(model, expected, atol=1e-6):
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.fixture
def trained_on():
    """A model, and how many images it was given at each training step; copies of it count as well."""
    model, counts = classifier(), []
    model.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])) if module.training else None)
    return model, counts


def cut_to_whole_class(name):
    return data_of(1) if name == "UNSIR" else data_of(part=[0, 5, 6, 11])


# What they share


@pytest.mark.parametrize("name", METHODS_HERE)
def test_divergence_is_an_error(name, model):
    setting = {} if name == "UNSIR" else {"unlearn_epochs": 6}
    with pytest.raises(FloatingPointError, match=f"{name} diverged in epoch .*Choose a smaller --unlearn_lr"):
        unlearn(name, model, cut_to_whole_class(name), unlearn_lr=1e37, **setting)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        *((name, {"unlearn_lr": 0.0}, "--unlearn_lr: expected a number > 0") for name in METHODS_HERE),
        *((name, {"batch_size": 0}, "--batch_size: expected an integer >= 1") for name in METHODS_HERE),
        *((name, {"unlearn_epochs": 0}, "--unlearn_epochs: expected an integer >= 1") for name in METHODS_HERE if name != "UNSIR"),
        *((name, {"retain_share": 0.0}, "--retain_share: expected a number above 0 and at most 1") for name in ("bad_teacher", "LoTUS")),
        *((name, {"retain_share": 1.1}, "--retain_share: expected a number above 0 and at most 1") for name in ("bad_teacher", "LoTUS")),
        ("bad_teacher", {"teacher_temperature": 0.0}, "--teacher_temperature: expected a number > 0"),
        ("LoTUS", {"lotus_alpha": 0.0}, "--lotus_alpha: expected a number above 0 and at most 50"),
        ("LoTUS", {"lotus_alpha": 51.0}, "--lotus_alpha: expected a number above 0 and at most 50"),
        ("boundary_shrink", {"bound": 0.0}, "--bound: expected a number > 0"),
        ("UNSIR", {"impair_epochs": 0}, "--impair_epochs: expected an integer >= 1"),
        ("UNSIR", {"repair_epochs": -1}, "--repair_epochs: expected an integer >= 0"),
        ("UNSIR", {"noise_steps": 0}, "--noise_steps: expected an integer >= 1"),
        ("UNSIR", {"retained_per_class": 0}, "--retained_per_class: expected an integer >= 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(name, setting, message, model):
    with pytest.raises(ValueError, match=message):
        unlearn(name, model, cut_to_whole_class(name), **setting)


@pytest.mark.parametrize("name", METHODS_HERE)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_no_batch_size_is_too_small_for_batch_norm(name, batch_size, monkeypatch):
    monkeypatch.setattr(unsir, "NOISE_COPIES", 1)
    result = unlearn(name, classifier(nn.BatchNorm1d(8)), cut_to_whole_class(name), batch_size=batch_size)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


@pytest.mark.parametrize(("share", "count"), [(1.0, 36), (0.5, 18), (0.3, 10), (1e-6, 1)])
def test_a_share_of_retain_joins_the_forget_images(share, count):
    data = data_of(part=[0, 5, 6, 11])
    images, forgets = with_share_of_retain(data, share, "test")
    assert (int(forgets.sum()), int((~forgets).sum())) == (4, count)
    assert set(images.indexes[forgets].tolist()) == {0, 5, 6, 11}
    assert len(set(images.indexes.tolist())) == 4 + count
    assert images.labels.tolist() == list(range(4 + count))
    assert torch.equal(images.images, images_of(10).images[images.indexes])


@pytest.mark.parametrize("name", ["bad_teacher", "LoTUS"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [14]),  # the 4 forget images, and .3 of 36
        ({"retain_share": 0.5}, [22]),
        ({"batch_size": 5}, [5, 5, 4]),
    ],
)
def test_an_epoch_is_a_pass_over_forget_and_a_share_of_retain_in_batches(name, settings, expected, trained_on):
    model, counts = trained_on
    unlearn(name, model, data_of(part=[0, 5, 6, 11]), unlearn_epochs=1, **settings)
    assert counts == expected


def test_the_share_of_retain_is_drawn_by_the_seed():
    drawn = [with_share_of_retain(data_of(1, seed=seed), 0.3, "test")[0].indexes.tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


# bad_teacher


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_three_steps_of_bad_teacher_by_hand(temperature, model):
    model[2] = nn.Tanh()  # where a ReLU is off on forget, the gradient is only the rounding of retain's, and Adam makes a step of it
    data = data_of(1)
    images, forgets = with_share_of_retain(data, 1.0, "bad_teacher")
    x, ignorant = everything(images)[0], incompetent(model, data)
    p = (torch.where(forgets[:, None], ignorant(x), model(x)) / temperature).softmax(1).detach()

    def imitation(rows):
        return lambda m: (p[rows] * (p[rows].log() - (m(x[rows]) / temperature).log_softmax(1))).sum() / len(rows)

    steps = [imitation(rows) for rows in torch.randperm(40, generator=data.generator("bad_teacher", "order")).split(15)]
    expected = copy.deepcopy(model)
    adam(expected, map(slope, steps), 1e-2)
    settings = {"unlearn_lr": 1e-2, "batch_size": 15, "retain_share": 1.0, "teacher_temperature": temperature}
    assert_weights(unlearn("bad_teacher", model, data, **settings).model, expected.parameters())


def test_the_history_of_bad_teacher_is_its_loss(model):
    data = data_of(1)
    total = torch.zeros(())
    for images, taught_by in ((data.forget, incompetent(model, data)), (data.retain, model)):
        x = everything(images)[0]
        total = total + F.kl_div(model(x).log_softmax(1), taught_by(x).log_softmax(1), reduction="sum", log_target=True)
    result = unlearn("bad_teacher", model, data, retain_share=1.0)
    assert result.history == [{"imitation_loss": pytest.approx(total.item() / 40, abs=1e-6)}]


def test_the_incompetent_teacher_is_drawn_anew():
    model = classifier(nn.BatchNorm1d(8))
    model[2].running_mean.fill_(5.0)
    model[2].weight.data.fill_(3.0)
    teacher = incompetent(model, data_of(1))
    assert (teacher[2].running_mean == 0).all() and (teacher[2].weight == 1).all()
    assert not torch.isclose(teacher[1].weight, model[1].weight).any()
    assert not torch.isclose(teacher[4].weight, model[4].weight).any()
    assert (model[2].running_mean == 5).all()
    assert teacher[1].weight.abs().max() <= 1 / math.sqrt(16)
    assert not any(module.training for module in teacher.modules())


def test_the_incompetent_teacher_is_drawn_by_the_seed_alone(model):
    drawn = []
    for seed, state in ((1, 1), (1, 2), (2, 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            drawn.append(incompetent(model, data_of(1, seed=seed))[1].weight)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


class Attending(nn.Module):
    """torch's attention over two tokens of four numbers; it has no public name for drawing its weights anew."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.view(-1, 2, 4)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


def test_torchs_attention_is_drawn_anew():
    model, data = classifier(Attending()), data_of(1)
    drawn = incompetent(model, data)[2].attention
    assert not torch.isclose(drawn.in_proj_weight, model[2].attention.in_proj_weight).any()
    assert not torch.isclose(drawn.out_proj.weight, model[2].attention.out_proj.weight).any()
    unlearn("bad_teacher", model, data)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x * self.scale


def test_a_model_that_can_not_be_drawn_anew_is_refused():
    model, data = classifier(Scaled()), data_of(1)
    message = r"bad_teacher: expected modules that can draw .* got Scaled \(2\) with scale and no reset_parameters"
    with pytest.raises(ValueError, match=message):
        unlearn("bad_teacher", model, data)
    settings = {"unlearn_epochs": 1, "unlearn_lr": 1e-4, "batch_size": 2, "retain_share": 0.5, "teacher_temperature": 1.0}
    with pytest.raises(ValueError, match=message):
        resolved("bad_teacher", model, data, settings)


def test_bad_teacher_forgets_a_class_and_keeps_the_others(trained):
    data = data_of(1)
    result = unlearn("bad_teacher", trained, data, unlearn_epochs=60, unlearn_lr=1e-2, retain_share=1.0)
    assert accuracy(result.model, data.forget) < 0.5
    assert accuracy(result.model, data.retain) > 0.9


# UNSIR


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
    torch.testing.assert_close(noise_against(model, data, 2, 2), x.detach(), rtol=0, atol=1e-5)


def test_the_noise_is_made_in_eval_mode_and_leaves_the_model_alone():
    model = classifier(nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    noise = noise_against(model, data_of(2), 2, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(noise, noise_against(model.eval(), data_of(2), 2, 3))


def test_the_noise_is_not_taken_for_its_class(trained):
    noise = noise_against(trained, data_of(2), 2, 25)
    assert (trained(noise).argmax(1) != 2).all()


@pytest.mark.parametrize("batch_size", [7, 64, 10_000])
def test_a_pass_of_the_impair_part_has_80_copies_of_the_noise_under_its_own_class(batch_size):
    noise = torch.arange(64.0).view(64, 1, 1, 1).expand(-1, 1, 4, 4) + 1000
    labels = torch.tensor([1, 3]).repeat_interleave(32)
    retained = images_of(3).of_classes(0, 2)
    batches = list(impairing(noise, labels, retained, batch_size, torch.Generator().manual_seed(0)))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    made = x[:, 0, 0, 0] >= 1000
    which = (x[made, 0, 0, 0] - 1000).long()
    assert which.bincount().tolist() == [80] * 64
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
    noise = torch.cat([noise_against(model, data, label, 3) for label in (1, 3)]).repeat(80, 1, 1, 1)
    x, y = everything(data.retain)
    mixed_x, mixed_y = torch.cat([noise, x]), torch.cat([torch.tensor([1, 3]).repeat_interleave(32).repeat(80), y])
    settings = {"noise_steps": 3, "batch_size": 10_000, "unlearn_lr": 1e-2, "impair_epochs": 3}
    expected = copy.deepcopy(model)
    adam(expected, [slope(lambda m: F.cross_entropy(m(mixed_x), mixed_y))] * 3, 1e-2)
    assert_weights(unlearn("UNSIR", model, data, **settings, repair_epochs=0).model, expected.parameters(), atol=1e-5)
    adam(expected, [slope(lambda m: F.cross_entropy(m(x), y))] * 2, 1e-2)  # from rest again
    got = unlearn("UNSIR", model, data, **settings, repair_epochs=2)
    assert_weights(got.model, expected.parameters(), atol=1e-5)
    assert [list(row) for row in got.history] == [["impair_loss"]] * 3 + [["repair_loss"]] * 2


@pytest.mark.parametrize(("retained_per_class", "retained"), [(2, 6), (500, 30)])
def test_both_parts_see_so_many_images_of_each_retained_class(retained_per_class, retained, trained_on):
    model, counts = trained_on
    unlearn("UNSIR", model, data_of(1), batch_size=10_000, noise_steps=1, retained_per_class=retained_per_class)
    assert counts == [80 * 32 + retained, retained]


def test_unsir_refuses_a_part_of_a_class(model):
    settings = {"impair_epochs": 1, "repair_epochs": 1, "noise_steps": 1, "unlearn_lr": 1e-4, "batch_size": 8, "retained_per_class": 5}
    for data in (data_of(part=[0]), data_of(1, part=[0])):
        with pytest.raises(ValueError, match="UNSIR: expected a forget request for whole classes, got one that takes a part of class 0"):
            unlearn("UNSIR", model, data)
        with pytest.raises(ValueError, match="whole classes"):
            resolved("UNSIR", model, data, settings)


def test_unsir_never_looks_at_the_forget_images(trained):
    data = data_of(1)
    other = replace(data, forget=replace(data.forget, images=255 - data.forget.images[:]))
    one, two = (unlearn("UNSIR", trained, d).model.state_dict() for d in (data, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


# boundary_shrink


@pytest.mark.parametrize("white", [255, 16])
def test_a_pixel_moves_by_the_bound_in_its_own_range_and_stays_in_it(white):
    normalisation = Normalisation((0.5, 0.2), (0.25, 0.1), white)
    pixels = torch.tensor([[0.0, 0.5, 0.95], [0.05, 0.5, 1.0]]).view(1, 2, 1, 3)
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (normalisation.mean, normalisation.std))
    direction = torch.tensor([[-1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]]).view(1, 2, 1, 3)
    x = moved((pixels - mean) / std, direction, normalisation, 0.1)
    expected = torch.tensor([[0.0, 0.6, 1.0], [0.0, 0.4, 1.0]]).view(1, 2, 1, 3)
    torch.testing.assert_close(x * std + mean, expected, rtol=0, atol=1e-6)


def test_without_a_normalisation_pixels_move_as_they_are():
    x = torch.tensor([[-3.0, 0.0, 9.0]])
    assert torch.equal(moved(x, x.sign(), Normalisation((), ()), 0.5), torch.tensor([[-3.5, 0.0, 9.5]]))


def test_the_nearest_class_by_hand():
    """Two pixels, three classes with logits (a, b, a - 1): class 0 loses a and gains b."""
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, -1.0]))
    x = torch.tensor([[0.5, 0.4], [9.0, 0.0]])
    nearest, crossed = nearest_class(model, x, torch.tensor([0, 0]), Normalisation((), ()), 0.1)
    assert nearest.tolist() == [1, 2]  # at (.4, .5) it is class 1; at (8.9, .1) class 0 still, and class 2 the next
    assert crossed.tolist() == [True, False]
    assert all(p.grad is None for p in model.parameters())


def test_labels_are_those_of_the_initial_model_in_eval_mode(trained):
    model = nn.Sequential(*copy.deepcopy(trained), nn.Dropout(0.9))
    images = data_of(1).forget
    in_train, crossed = relabelled(model.train(), images, 0.1, CPU)
    in_eval, _ = relabelled(model.eval(), images, 0.1, CPU)
    assert torch.equal(in_train.labels, in_eval.labels)
    assert not (in_eval.labels == images.labels).any()
    assert 0 <= crossed <= 1


def test_two_epochs_of_boundary_shrink_by_hand(trained):
    data = data_of(part=[0, 5, 6, 11])
    x, y = everything(data.forget)
    pixels = (data.forget.images.double() / 255).flatten(1)
    leaf = x.double().requires_grad_(True)
    frozen = copy.deepcopy(trained).double()
    F.cross_entropy(frozen(leaf), y, reduction="sum").backward()
    moved_pixels = (pixels + 0.1 * leaf.grad.flatten(1).sign()).clamp(0, 1)
    logits = frozen(((moved_pixels - 0.3) / 0.2).view(-1, 1, 4, 4)).detach()
    nearest = torch.tensor(
        [max((k for k in range(CLASSES) if k != true), key=row.__getitem__) for row, true in zip(logits, y, strict=True)]
    )
    expected = copy.deepcopy(trained)
    sgd(expected, [slope(lambda f: F.cross_entropy(f(x), nearest))] * 2, 0.3, 0.5)
    result = unlearn("boundary_shrink", trained, data, unlearn_epochs=2, unlearn_lr=0.3, momentum=0.5)
    assert_weights(result.model, list(expected.parameters()), atol=1e-5)
    assert result.facts == {"crossed_share": (logits.argmax(1) != y).double().mean().item()}


def test_boundary_shrink_forgets_a_class(trained):
    data = data_of(1)
    assert accuracy(unlearn("boundary_shrink", trained, data, unlearn_lr=1e-2).model, data.forget) == 0


# boundary_expanding


def test_two_epochs_of_boundary_expanding_by_hand(model):
    data = data_of(1)
    x, _ = everything(data.forget)
    extra = Widened(model, "3", data.generator("boundary_expanding", "extra class")).extra
    wide = copy.deepcopy(model)
    wide[3] = nn.Linear(8, CLASSES + 1)
    with torch.no_grad():
        wide[3].weight.copy_(torch.cat([model[3].weight, extra.weight]))
        wide[3].bias.copy_(torch.cat([model[3].bias, extra.bias]))
    sgd(wide, [slope(lambda f: F.cross_entropy(f(x), torch.full((10,), CLASSES)))] * 2, 0.3, 0.9)
    result = unlearn("boundary_expanding", model, data, unlearn_epochs=2, unlearn_lr=0.3)
    assert_weights(result.model, [wide[1].weight, wide[1].bias, wide[3].weight[:CLASSES], wide[3].bias[:CLASSES]], atol=1e-5)


def test_boundary_expanding_leaves_no_extra_class(model):
    seen = []
    data = data_of(1, on_epoch=lambda student, epoch: seen.append(student(images_of(1).normalisation(images_of(1).images)).shape))
    result = unlearn("boundary_expanding", model, data, unlearn_epochs=2)
    assert [(k, v.shape) for k, v in result.model.state_dict().items()] == [(k, v.shape) for k, v in model.state_dict().items()]
    assert repr(result.model) == repr(model)
    assert seen == [(4, CLASSES)] * 2
    assert not any(m._forward_pre_hooks for m in result.model.modules())


def test_boundary_expanding_shows_each_epoch_a_model_of_the_callers_architecture(model):
    shown = []
    data = data_of(1, on_epoch=lambda student, epoch: shown.append((epoch, {k: v.shape for k, v in student.state_dict().items()})))
    unlearn("boundary_expanding", model, data, unlearn_epochs=2)
    own = {k: v.shape for k, v in model.state_dict().items()}
    assert shown == [(1, own), (2, own)]


@pytest.mark.parametrize("outputs", [CLASSES, 100])
def test_the_extra_class_comes_after_all_outputs_of_the_model(outputs):
    model = classifier(classes=outputs)
    wide = Widened(model, "3", torch.Generator().manual_seed(0)).train()
    x, _ = everything(images_of(1))
    assert wide(x).shape == (4, outputs + 1)
    assert torch.equal(wide(x)[:, :outputs], model(x))
    assert torch.equal(wide.eval()(x), model(x))
    assert wide.extra.weight.abs().max() <= 8**-0.5


def test_a_classifier_without_a_bias_gets_an_extra_class_without_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES, bias=False))
    assert Widened(model, classifier_of(model, data_of(1)), torch.Generator()).extra.bias is None


def test_a_model_that_is_one_linear_layer_can_be_expanded():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    data = ForgetData.of_tensors(x, labels, labels == 1)
    model = nn.Linear(5, 3)
    assert unlearn("boundary_expanding", model, data).model(x).shape == (12, 3)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Softmax(1)),
        nn.Sequential(nn.Conv2d(1, CLASSES, 4), nn.Flatten()),
    ],
    ids=["softmax after it", "no linear layer"],
)
def test_a_model_whose_logits_are_no_linear_layers_is_refused(model):
    with pytest.raises(ValueError, match="expected a model whose last linear layer gives its 4 logits"):
        unlearn("boundary_expanding", model, data_of(1))


def test_boundary_expanding_forgets_a_class(trained):
    data = data_of(1)
    result = unlearn("boundary_expanding", trained, data, unlearn_lr=1e-2)
    assert accuracy(result.model, data.forget) == 0


# LoTUS


def test_gumbel_noise_has_the_mean_and_the_variance_of_its_distribution():
    noise = gumbel(torch.Size((200_000,)), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_a_retained_image_is_taught_a_class_drawn_from_the_teachers_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]]).expand(40_000, -1)
    targets = noisy_targets(logits, torch.zeros(40_000, dtype=torch.bool), 123.0, torch.Generator().manual_seed(0))
    assert torch.equal(targets.sort(1).values, torch.tensor([0.0, 0, 0, 1]).expand(40_000, -1))
    torch.testing.assert_close(targets.mean(0), logits[0].softmax(0), rtol=0, atol=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_forgotten_image_is_taught_the_relaxed_draw_at_the_temperature(temperature):
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0], [0.0, 3.0, 0.0, 0.0]])
    noise = gumbel(logits.shape, torch.Generator().manual_seed(3)).float()
    targets = noisy_targets(logits, torch.tensor([True, False]), temperature, torch.Generator().manual_seed(3))
    exponentials = ((logits + noise)[0] / temperature).exp()
    torch.testing.assert_close(targets[0], exponentials / exponentials.sum())
    assert targets[1].tolist() == F.one_hot((logits + noise)[1].argmax(), 4).tolist()


def test_three_steps_of_lotus_by_hand(trained):
    data = data_of(1)
    images, forgets = with_share_of_retain(data, 1.0, "LoTUS")
    x, noise = everything(images)[0], data.generator("LoTUS", "noise")
    temperature = math.exp(3 * 1.0)  # all of class 1 is known, and of a whole class nothing should be
    losses = []

    def step(rows):
        def loss(m):
            noisy = trained(x[rows]).detach() + gumbel(torch.Size((len(rows), CLASSES)), noise).float()
            t = torch.where(forgets[rows, None], (noisy / temperature).softmax(1), F.one_hot(noisy.argmax(1), CLASSES).float())
            losses.append(-(t * m(x[rows]).log_softmax(1)).sum() / len(rows))
            return losses[-1]

        return slope(loss)

    expected = copy.deepcopy(trained)
    adam(expected, [step(rows) for rows in torch.randperm(40, generator=data.generator("LoTUS", "order")).split(15)], 1e-3, decoupled=0.2)
    settings = {"unlearn_epochs": 1, "batch_size": 15, "unlearn_lr": 1e-3, "retain_share": 1.0, "lotus_alpha": 3.0, "weight_decay": 0.2}
    result = unlearn("LoTUS", trained, data, **settings)
    assert_weights(result.model, expected.parameters())
    mean = sum(losses).item() / 3
    assert result.history == [{"loss": pytest.approx(mean, abs=1e-5), "gap": 1.0, "temperature": pytest.approx(temperature)}]


def test_the_teacher_is_the_initial_model_in_eval_mode():
    model = classifier(nn.Dropout(0.5))
    data = data_of(1)
    modes = [unlearn("LoTUS", mode, data).model.state_dict() for mode in (copy.deepcopy(model).train(), model)]
    assert all(torch.equal(modes[0][name], modes[1][name]) for name in modes[0])
    assert torch.equal(logits_of(model.train(), data.forget, CPU), model.eval()(everything(data.forget)[0]))


def test_the_accuracy_to_reach_is_none_on_whole_classes_and_validations_on_the_rest(trained):
    wrong = images_of(3, seed=1, first=100)
    wrong = replace(wrong, labels=torch.cat([wrong.labels[:6], (wrong.labels[6:] + 1) % CLASSES]))  # half right, half wrong
    assert accuracy(trained, wrong) == 0.5
    for data, expected in ((data_of(1), 0.0), (data_of(part=[0, 2]), 0.5), (data_of(1, part=[0, 2]), 0.5 * 2 / 12)):
        assert accuracy_unseen(trained, replace(data, validation=wrong)) == pytest.approx(expected)


def test_the_gap_is_measured_anew_each_epoch(trained):
    data = data_of(1)
    seen = [accuracy(trained, data.forget)]
    watched = replace(data, on_epoch=lambda student, epoch: seen.append(accuracy(student, data.forget)))
    result = unlearn("LoTUS", trained, watched, unlearn_lr=2e-2, lotus_alpha=2.0)
    gaps = [row["gap"] for row in result.history]
    assert [*gaps, result.facts["gap"]] == seen
    assert len(set(gaps)) > 1
    assert [row["temperature"] for row in result.history] == pytest.approx([math.exp(2 * gap) for gap in gaps])


def test_lotus_ends_once_the_forget_images_are_known_less_than_unseen_ones(trained):
    data = data_of(part=[0, 2])
    unknown = replace(data, forget=replace(data.forget, labels=data.forget.labels + 1))  # the model is wrong on all of them
    result = unlearn("LoTUS", trained, unknown)
    assert result.facts["epochs_run"] == len(result.history) == 1
    assert result.history[0]["gap"] == -accuracy(trained, data.validation)
    assert not torch.equal(result.model[1].weight, trained[1].weight)  # never a silent no-op


@pytest.mark.parametrize(("gap", "epochs_run"), [(-0.02, 1), (-0.005, 3)])
def test_lotus_ends_at_a_gap_of_a_hundredth_below_0(gap, epochs_run, trained, monkeypatch):
    monkeypatch.setattr("unlearn.lotus.accuracy_unseen", lambda model, data: 1 - gap)  # and all forget images stay known
    result = unlearn("LoTUS", trained, data_of(part=[0, 2]), unlearn_epochs=3, unlearn_lr=1e-9)
    assert result.facts == {"epochs_run": epochs_run, "gap": pytest.approx(gap)}


def test_lotus_needs_validation_images_unless_whole_classes_go(model):
    images = images_of(10)
    x, y = everything(images)
    with pytest.raises(ValueError, match="LoTUS: expected validation images.* got none"):
        unlearn("LoTUS", model, ForgetData.of_tensors(x, y, torch.tensor([3, 4])))
    assert unlearn("LoTUS", model, ForgetData.of_tensors(x, y, y == 2)).history[0]["gap"] >= 0


# the learning rate of both boundary methods


@pytest.mark.parametrize(("method", "of_images"), [("boundary_shrink", 1e-7), ("boundary_expanding", 3e-7)])
def test_a_boundary_method_goes_slowly_where_a_class_of_the_forgotten_stays(method, of_images, model):
    defaults = METHODS[method].settings({})
    of_a_class = resolved(method, model, data_of(1), defaults)
    assert of_a_class["unlearn_lr"] == 1e-4
    assert resolved(method, model, data_of(part=[0, 5]), defaults)["unlearn_lr"] == of_images
    assert resolved(method, model, data_of(1, part=[0]), defaults | {"unlearn_lr": 0.5})["unlearn_lr"] == 0.5
