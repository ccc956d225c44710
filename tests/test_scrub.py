"""SCRUB: its steps by a slow transcription, in turns and jointly; and retrain, to compare with."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.unlearn import METHODS, ForgetData, resolved, unlearn
from lethe.unlearn.rewinding import forget_error, nearest, unseen_error
from lethe.unlearn.scrub import decay, distance, forget_batch
from tests.by_hand import adam, sgd, slope
from tests.numbered_images import noise_data

CLASSES = 3
WHOLE = {"batch_size": 100}
IN_TURNS = {**WHOLE, "forget_batch_size": 100}
LARGE = {"scrub_recipe": "large", **IN_TURNS}


def data_of(*forget, size=14):
    return noise_data(forget, size, CLASSES)


def classifier(*between):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), *between, nn.Tanh(), nn.Linear(6, CLASSES)).eval()


def slow_distance(teacher_logits, student_logits, temperature):
    """T^2 / N sum over images and classes of p log(p / q)."""
    total = 0.0
    for t, s in zip(teacher_logits, student_logits, strict=True):
        p, q = torch.softmax(t / temperature, 0), torch.softmax(s / temperature, 0)
        total = total + sum(p[k] * torch.log(p[k] / q[k]) for k in range(len(p)))
    return temperature**2 * total / len(teacher_logits)


def test_the_distance_is_the_divergence_of_the_student_from_the_teacher():
    teacher, student = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(teacher, student, 3.0).item() == pytest.approx(
        slow_distance(teacher, student, 3.0).item()
    )
    assert distance(teacher, student, 3.0).item() != pytest.approx(
        distance(student, teacher, 3.0).item(), rel=1e-3
    )


def everything(images):
    return next(images.batches(10_000))


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_epochs_in_turns_are_those_of_a_slow_transcription(momentum):
    """Of the large recipe; its learning rate is a tenth after the third epoch."""
    teacher, data = classifier(), data_of(0, 3, 4)
    (x_f, _), (x_r, y_r) = everything(data.forget), everything(data.retain)
    student = copy.deepcopy(teacher)

    away = slope(lambda m: -slow_distance(teacher(x_f), m(x_f), 2.0))
    stay = slope(
        lambda m: 0.7 * F.cross_entropy(m(x_r), y_r) + 0.4 * slow_distance(teacher(x_r), m(x_r), 2.0)
    )
    sgd(student, [away, stay, away, stay, stay, stay], lr=[0.3] * 5 + [0.03], momentum=momentum, decay=0.01)
    settings = {
        "gamma": 0.7,
        "kl_alpha": 0.4,
        "temperature": 2.0,
        "unlearn_lr": 0.3,
        "weight_decay": 0.01,
        "ascent_epochs": 2,
    }
    found = unlearn("SCRUB", teacher, data, unlearn_epochs=4, momentum=momentum, **LARGE, **settings).model
    torch.testing.assert_close(list(found.parameters()), list(student.parameters()), rtol=0, atol=1e-5)


def test_steps_of_a_pass_are_by_their_own_batch_sizes():
    counts = []
    model = classifier()
    model.register_forward_pre_hook(
        lambda module, inputs: counts.append(len(inputs[0])) if module.training else None
    )
    unlearn("SCRUB", model, data_of(*range(10), size=25), unlearn_epochs=2, ascent_epochs=1, batch_size=6)
    assert (
        counts == [2] * 5 + [6, 6, 3] * 2
    )  # an eighth of 10 forget images is 2; then 15 retain images, twice


@pytest.mark.parametrize(("count", "size"), [(1, 2), (16, 2), (17, 3), (128, 16), (4096, 512), (5331, 512)])
def test_an_eighth_of_the_forget_images_is_a_step_from_2_to_512(count, size):
    assert forget_batch(count) == size


@pytest.mark.parametrize(
    ("recipe", "tenths"),
    [
        ("own", [0] * 12),
        ("large", [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
        ("small", [0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3]),
    ],
)
def test_the_rate_falls_to_a_tenth_after_the_recipes_epochs(recipe, tenths):
    assert [decay(epoch, recipe) for epoch in range(12)] == pytest.approx([0.1**count for count in tenths])


def test_the_student_moves_away_on_forget_and_the_teacher_does_not_move():
    teacher, data = classifier(), data_of(0, 3, 4)
    before = copy.deepcopy(teacher.state_dict())
    result = unlearn("SCRUB", teacher, data, unlearn_lr=0.1, unlearn_epochs=5, ascent_epochs=4, **LARGE)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(
        torch.equal(p, q) for p, q in zip(result.model.parameters(), teacher.parameters(), strict=True)
    )
    away = [epoch["forget_loss"] for epoch in result.history if "forget_loss" in epoch]
    assert len(away) == 4
    assert away[-1] > away[1] > 0  # it climbs what it says it climbs


@pytest.mark.parametrize(("recipe", "temperature", "decay"), [("small", 2.0, 0.1), (None, 1.0, 5e-4)])
def test_the_small_recipe_and_the_default_are_adam_with_its_weight_decay(recipe, temperature, decay):
    teacher, data = classifier(), data_of(0, 3, 4)
    x, y = everything(data.retain)
    student = copy.deepcopy(teacher)
    stay = slope(lambda m: F.cross_entropy(m(x), y) + 0.5 * slow_distance(teacher(x), m(x), temperature))
    adam(student, [stay] * 3, 0.02, decay=decay)
    settings = {"scrub_recipe": recipe, "unlearn_epochs": 3, "unlearn_lr": 0.02, "ascent_epochs": 0, **WHOLE}
    found = unlearn("SCRUB", teacher, data, **settings).model
    torch.testing.assert_close(list(found.parameters()), list(student.parameters()), rtol=0, atol=1e-6)


def test_the_joint_form_combines_the_gradients_of_both_objectives():
    """With an add-on that keeps everything. At the first step the distances have no gradient."""
    teacher, data = classifier(), data_of(0, 3, 4)
    (x_f, _), (x_r, y_r) = everything(data.forget), everything(data.retain)
    student = copy.deepcopy(teacher)

    def joint(m):
        stay = F.cross_entropy(m(x_r), y_r) + slow_distance(teacher(x_r), m(x_r), 1.0)
        return 0.8 * stay - 0.2 * slow_distance(teacher(x_f), m(x_f), 1.0)

    adam(student, [slope(joint)] * 3, 0.05)
    settings = {
        "unlearn_epochs": 3,
        "unlearn_lr": 0.05,
        "beta": 0.8,
        "addon": "GradMask",
        "quantile": 0.0,
        **WHOLE,
    }
    found = unlearn("SCRUB", teacher, data, **settings).model
    torch.testing.assert_close(list(found.parameters()), list(student.parameters()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("SCRUBGradMask", {"quantile", "memory", "memory_start"}),
        ("SCRUBFocus", {"memory", "memory_start"}),
        ("SCRUBSalUn", {"quantile"}),
    ],
)
def test_a_joint_name_has_the_flags_of_the_joint_form_and_of_its_add_on(name, flags):
    own = METHODS[name].hyperparameters.keys()
    assert (
        not {
            "addon",
            "scrub_recipe",
            "ascent_epochs",
            "forget_batch_size",
            "momentum",
            "weight_decay",
            "rewind",
        }
        & own
    )
    assert {"quantile", "memory", "memory_start"} & own == flags


@pytest.mark.parametrize("forget", [(0,), tuple(range(12))], ids=["forget is shorter", "retain is shorter"])
@pytest.mark.parametrize("addon", [None, "GradFocus"])
def test_either_set_may_be_the_shorter(forget, addon):
    result = unlearn(
        "SCRUB", classifier(nn.BatchNorm1d(6)), data_of(*forget), addon=addon, batch_size=4, unlearn_epochs=2
    )
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_settings_come_from_the_recipe_where_they_are_not_given():
    model, data = classifier(), data_of(0)
    found = {
        recipe: resolved("SCRUB", model, data, METHODS["SCRUB"].settings({"scrub_recipe": recipe}))
        for recipe in (None, "large", "small")
    }
    kurmanji = {
        "large": (3, 5e-4, 256, 512, 2, 0.99, 1e-3, 4.0, 5e-4),
        "small": (10, 5e-4, 32, 64, 3, 1.0, 0.5, 2.0, 0.1),
        None: (5, 5e-4, 64, 2, 3, 1.0, 0.5, 1.0, 5e-4),
    }
    flags = (
        "unlearn_epochs",
        "unlearn_lr",
        "batch_size",
        "forget_batch_size",
        "ascent_epochs",
        "gamma",
        "kl_alpha",
        "temperature",
    )
    for recipe, values in kurmanji.items():
        assert tuple(found[recipe][flag] for flag in (*flags, "weight_decay")) == values
    assert (found["large"]["momentum"], "momentum" in found["small"]) == (0.9, False)
    joint = resolved("SCRUBFocus", model, data, METHODS["SCRUBFocus"].settings({"unlearn_lr": 0.5}))
    assert (joint["beta"], joint["gamma"], joint["kl_alpha"], joint["unlearn_lr"]) == (0.95, 1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"beta": 0.5}, "--beta: SCRUB has no such flag without an --addon: .* or give an --addon$"),
        (
            {"beta": 0.5, "scrub_recipe": "large"},
            "--beta: SCRUB has no such flag without an --addon: .* or give an --addon$",
        ),
        (
            {"addon": "OPT", "ascent_epochs": 1},
            "--ascent_epochs: .* with the add-on OPT, which takes both sets in one step, .* Leave out one",
        ),
        (
            {"addon": "OPT", "scrub_recipe": "small"},
            "--scrub_recipe: SCRUB has no such flag with the add-on OPT",
        ),
        ({"addon": "OPT", "beta": 1.0}, "--beta: expected a number between 0 and 1"),
        ({"addon": "OTP"}, "--addon: unknown add-on 'OTP'. Did you mean 'OPT'"),
        ({"momentum": 0.5}, "--momentum: .* except with --scrub_recipe large: the optimiser is Adam"),
        (
            {"momentum": 0.5, "scrub_recipe": "small"},
            "--momentum: .* except with --scrub_recipe large: .* Leave it out, or give that recipe$",
        ),
        ({"momentum": 1.0, "scrub_recipe": "large"}, "--momentum: expected a number from 0 to below 1"),
        ({"addon": "OPT", "rewind": True}, "--rewind: SCRUB has no such flag with the add-on OPT"),
        ({"quantile": 0.5}, "--quantile: expected an --addon that has it, got none"),
        ({"gamma": -1.0}, "--gamma: expected a number >= 0, got -1.0"),
        ({"kl_alpha": -1.0}, "--kl_alpha: expected a number >= 0"),
        ({"temperature": 0.0}, "--temperature: expected a number > 0"),
        ({"ascent_epochs": -1}, "--ascent_epochs: expected an integer >= 0"),
        ({"forget_batch_size": 0}, "--forget_batch_size: expected an integer >= 1"),
        ({"unlearn_lr": 0.0}, "--unlearn_lr: expected a number > 0"),
        ({"weight_decay": -1.0}, "--weight_decay: expected a number >= 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        unlearn("SCRUB", classifier(), data_of(0), **flags)


@pytest.mark.parametrize(
    "flags", [{"ascent_epochs": 9, "unlearn_epochs": 9, "scrub_recipe": "large"}, {"addon": "GradFocus"}]
)
def test_divergence_is_an_error(flags):
    reason = r"SCRUB diverged in epoch \d+.*Choose a smaller --unlearn_lr"
    with pytest.raises(FloatingPointError, match=reason):
        unlearn("SCRUB", classifier(), data_of(0, 3), unlearn_lr=1e37, **flags)


# SCRUB+R


def test_unseen_error_takes_each_class_as_often_as_forget_has_it():
    """Forget: two images of class 0 and one of class 1; validation: all of class 0 right, half of class 1,
    none of class 2.
    """
    pixels = torch.zeros(7, 1, 1, 3, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    said = torch.tensor([0, 0, 1, 1, 0, 0, 1])
    pixels[torch.arange(7), 0, 0, said] = 1
    validation = ImageSet(pixels, labels, torch.arange(7), Normalisation((0.0,), (1.0,)))
    few = ImageSet(pixels[:4], torch.tensor([0, 0, 1, 2]), torch.arange(4), Normalisation((0.0,), (1.0,)))
    data = ForgetData(few.subset(torch.tensor([0, 1, 2])), few, validation, CLASSES)
    assert unseen_error(nn.Flatten(), data) == pytest.approx(
        100 / 3 / 3
    )  # a third of class 1 is wrong, and a third of forget is class 1
    assert forget_error(nn.Flatten(), data) == 0


def epochs_of(teacher, data, **settings):
    """The weights after each epoch, and the method's result."""
    seen = []
    watched = replace(data, on_epoch=lambda model, epoch: seen.append(copy.deepcopy(model)))
    return seen, unlearn("SCRUB", teacher, watched, **settings)


def test_the_epoch_is_given_back_whose_forget_error_is_nearest_to_the_unseen_error():
    teacher, data = classifier(), data_of(0, 3, 4, 7, 8, size=24)
    x, y = everything(data.forget.joined(data.retain))
    adam(teacher, [slope(lambda m: F.cross_entropy(m(x), y))] * 300, 0.03)
    settings = {
        "unlearn_epochs": 6,
        "ascent_epochs": 3,
        "unlearn_lr": 0.01,
        "batch_size": 4,
        "forget_batch_size": 2,
    }
    seen, plain = epochs_of(teacher, data, **settings)
    again, rewound = epochs_of(teacher, data, rewind=True, **settings)
    assert [round(forget_error(model, data)) for model in seen] == [0, 0, 20, 20, 20, 20]
    assert unseen_error(plain.model, data) == pytest.approx(5)
    assert rewound.facts == {
        "rewound_to_epoch": 2,
        "forget_error": 0.0,
        "unseen_error": unseen_error(plain.model, data),
    }
    assert all(
        torch.equal(p, q) for p, q in zip(rewound.model.parameters(), seen[1].parameters(), strict=True)
    )
    assert (len(again), plain.facts) == (6, {})


@pytest.mark.parametrize(
    ("epochs", "aim", "error"),
    [({0.0: 2, 10.0: 3}, 5.0, 10.0), ({0.0: 4, 10.0: 3}, 5.0, 0.0), ({0.0: 4, 10.0: 3}, 6.0, 10.0)],
)
def test_of_two_errors_as_near_the_later_epochs_is_chosen(epochs, aim, error):
    assert nearest(epochs, aim) == error


@pytest.mark.parametrize("forgotten", [(0, 3, 6, 9, 12), (1,)])
def test_rewinding_needs_validation_images_of_each_class_that_is_forgotten(forgotten):
    data = data_of(*forgotten)
    data = replace(data, validation=data.validation.without_classes(int(data.forget.labels[0])))
    reason = r"--rewind: expected validation images of every class .*got none of class [01] .*Leave out"
    with pytest.raises(ValueError, match=reason):
        resolved("SCRUB", classifier(), data, METHODS["SCRUB"].settings({"rewind": True}))


# retrain


@pytest.mark.parametrize("name", ["retrain", "ideal", "exact"])
def test_retrain_is_a_copy_of_the_ideal_model(name):
    ideal = classifier()
    with torch.no_grad():
        ideal[1].weight.mul_(2)
    data = data_of(0)
    found = unlearn(
        name,
        classifier(),
        ForgetData(data.forget, data.retain, data.validation, CLASSES, ideal=lambda: ideal),
    ).model
    assert found is not ideal
    assert all(torch.equal(value, ideal.state_dict()[key]) for key, value in found.state_dict().items())


def test_retrain_without_an_ideal_model_says_what_to_do():
    reason = "retrain: expected the ideal model, got none. Give ForgetData an `ideal`"
    with pytest.raises(ValueError, match=reason):
        unlearn("retrain", classifier(), data_of(0))


def test_retrain_refuses_another_architecture():
    data = data_of(0)
    with pytest.raises(ValueError, match="expected an ideal model of the initial model's architecture"):
        unlearn(
            "retrain",
            classifier(),
            ForgetData(data.forget, data.retain, data.validation, CLASSES, ideal=lambda: nn.Linear(4, 3)),
        )
