"""--dual_optimizer: forget by an AdamW of its own, retain by the method's optimiser."""

import pytest
import torch
from torch.nn import functional as F

from lethe.unlearn import METHODS, copy_of, resolved, unlearn
from tests.by_hand import adam, sgd, slope
from tests.three_classes import data_of, flat, perceptron, whole

TAKE_IT = [e for e in METHODS if e.file is None and "dual_optimizer" in e.hyperparameters]


def test_these_methods_have_a_forget_and_a_retain_pass():
    assert {entry.name for entry in TAKE_IT} == {"RL", "SalUn", "SCRUB", "ascent_descent", "SFRon"}


def in_turns(model, data, rounds, rate, lr):
    """Of ascent_descent: AdamW on minus the forget loss, then SGD on the retain loss, each with its state."""
    (x_f, y_f), (x_r, y_r) = whole(data.forget), whole(data.retain)
    student = copy_of(model)
    ascend, descend = (
        slope(lambda m: -F.cross_entropy(m(x_f), y_f)),
        slope(lambda m: F.cross_entropy(m(x_r), y_r)),
    )
    parameters = list(student.parameters())
    of_forget = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.999), weight_decay=0.05)
    of_retain = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    for _ in range(rounds):
        for optimizer, gradient in ((of_forget, ascend), (of_retain, descend)):
            for p, g in zip(parameters, gradient(student), strict=True):
                p.grad = g
            optimizer.step()
    return student


def test_each_optimiser_sees_its_own_gradients_alone():
    model, data = perceptron(), data_of()
    flags = {"unlearn_epochs": 3, "ascent_epochs": 3, "unlearn_lr": 0.1, "momentum": 0.9, "batch_size": 100}
    found = unlearn("ascent_descent", model, data, dual_optimizer=1e-2, **flags).model
    torch.testing.assert_close(flat(found), flat(in_turns(model, data, 3, 1e-2, 0.1)), rtol=1e-4, atol=1e-6)


def test_where_retain_does_not_move_it_is_adamw_on_forget():
    """A rate so small that no weight sees it."""
    model, data = perceptron(), data_of()
    x, y = whole(data.forget)
    flags = {"unlearn_epochs": 2, "ascent_epochs": 2, "unlearn_lr": 1e-30, "batch_size": 100}
    found = unlearn("ascent_descent", model, data, dual_optimizer=1e-2, **flags).model
    expected = copy_of(model)
    adam(expected, [slope(lambda m: -F.cross_entropy(m(x), y))] * 2, 1e-2, decoupled=0.05)
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), [("RL", {}), ("SalUn", {"density": 1.0})])
def test_where_forget_does_not_move_it_is_sgd_on_retain(name, settings):
    model, data = perceptron(), data_of()
    x, y = whole(data.retain)
    flags = {"unlearn_epochs": 2, "unlearn_lr": 0.1, "batch_size": 100, "dual_optimizer": 1e-30}
    found = unlearn(name, model, data, **flags, **settings).model
    expected = copy_of(model)
    sgd(expected, [slope(lambda m: F.cross_entropy(m(x), y))] * 2, 0.1, momentum=0.9, decay=5e-4)
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entry", TAKE_IT, ids=lambda entry: entry.name)
def test_it_changes_the_result_and_none_does_not(entry):
    model, data = perceptron(), data_of()
    few = {"unlearn_epochs": 2, "batch_size": 3}
    plain, none, dual = (
        flat(unlearn(entry.name, model, data, **few, **given).model)
        for given in ({}, {"dual_optimizer": None}, {"dual_optimizer": 1e-3})
    )
    assert torch.equal(plain, none)
    assert not torch.equal(plain, dual)


def test_frozen_weights_stay_frozen_under_its_decay():
    model, data = perceptron(), data_of()
    result = unlearn("SalUn", model, data, density=0.2, dual_optimizer=1e-2)
    still = (flat(result.model) == flat(model)).sum().item()
    assert still >= result.facts["weights"] - result.facts["trained_weights"]


@pytest.mark.parametrize("name", ["NGPlus", "SRL", "FT", "NegGrad", "DELETE"])
def test_a_method_with_one_kind_of_step_refuses_it_in_one_line(name):
    with pytest.raises(ValueError, match=rf"unknown flag of {name} '--dual_optimizer'") as raised:
        unlearn(name, perceptron(), data_of(), dual_optimizer=1e-3)
    assert "\n" not in str(raised.value)


def test_scrub_with_an_add_on_has_one_kind_of_step():
    given = {"addon": "OPT", "dual_optimizer": 1e-3}
    with pytest.raises(ValueError, match="--dual_optimizer: SCRUB has no such flag with the add-on OPT"):
        resolved("SCRUB", perceptron(), data_of(), given)
