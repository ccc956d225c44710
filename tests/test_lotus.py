"""LoTUS: its draws, three steps by hand, the gap that it closes, and when it ends."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import ForgetData, unlearn
from lethe.unlearn.forget_and_retain import logits_of, with_share_of_retain
from lethe.unlearn.lotus import accuracy_unseen, gumbel, noisy_targets
from tests.by_hand import adam, slope
from tests.columns import (
    CLASSES,
    CPU,
    accuracy,
    assert_weights,
    classifier,
    data_of,
    everything,
    fixture_model,  # noqa: F401
    fixture_trained,  # noqa: F401
    images_of,
)


def test_gumbel_noise_has_the_mean_and_the_variance_of_its_distribution():
    noise = gumbel(torch.Size((200_000,)), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_a_retained_image_is_taught_a_class_drawn_from_the_teachers_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]]).expand(40_000, -1)
    targets = noisy_targets(
        logits, torch.zeros(40_000, dtype=torch.bool), 123.0, torch.Generator().manual_seed(0)
    )
    assert torch.equal(targets.sort(1).values, torch.tensor([0.0, 0, 0, 1]).expand(40_000, -1))
    torch.testing.assert_close(targets.mean(0), logits[0].softmax(0), rtol=0, atol=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_forgotten_image_is_taught_the_relaxed_draw_at_the_temperature(temperature):
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0], [0.0, 3.0, 0.0, 0.0]])
    noise = gumbel(logits.shape, torch.Generator().manual_seed(3)).float()
    targets = noisy_targets(
        logits, torch.tensor([True, False]), temperature, torch.Generator().manual_seed(3)
    )
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
            t = torch.where(
                forgets[rows, None],
                (noisy / temperature).softmax(1),
                F.one_hot(noisy.argmax(1), CLASSES).float(),
            )
            losses.append(-(t * m(x[rows]).log_softmax(1)).sum() / len(rows))
            return losses[-1]

        return slope(loss)

    expected = copy.deepcopy(trained)
    adam(
        expected,
        [step(rows) for rows in torch.randperm(40, generator=data.generator("LoTUS", "order")).split(15)],
        1e-3,
        decoupled=0.2,
    )
    settings = {
        "unlearn_epochs": 1,
        "batch_size": 15,
        "unlearn_lr": 1e-3,
        "retain_share": 1.0,
        "lotus_alpha": 3.0,
        "weight_decay": 0.2,
    }
    result = unlearn("LoTUS", trained, data, **settings)
    assert_weights(result.model, expected.parameters())
    mean = sum(losses).item() / 3
    assert result.history == [
        {"loss": pytest.approx(mean, abs=1e-5), "gap": 1.0, "temperature": pytest.approx(temperature)}
    ]


def test_the_teacher_is_the_initial_model_in_eval_mode():
    model = classifier(nn.Dropout(0.5))
    data = data_of(1)
    modes = [
        unlearn("LoTUS", mode, data).model.state_dict() for mode in (copy.deepcopy(model).train(), model)
    ]
    assert all(torch.equal(modes[0][name], modes[1][name]) for name in modes[0])
    assert torch.equal(logits_of(model.train(), data.forget, CPU), model.eval()(everything(data.forget)[0]))


def test_the_accuracy_to_reach_is_none_on_whole_classes_and_validations_on_the_rest(trained):
    wrong = images_of(3, seed=1, first=100)
    wrong = replace(
        wrong, labels=torch.cat([wrong.labels[:6], (wrong.labels[6:] + 1) % CLASSES])
    )  # half right, half wrong
    assert accuracy(trained, wrong) == 0.5
    for data, expected in (
        (data_of(1), 0.0),
        (data_of(part=[0, 2]), 0.5),
        (data_of(1, part=[0, 2]), 0.5 * 2 / 12),
    ):
        assert accuracy_unseen(trained, replace(data, validation=wrong)) == pytest.approx(expected)


def test_the_gap_is_measured_anew_each_epoch(trained):
    data = data_of(1)
    seen = [accuracy(trained, data.forget)]
    watched = replace(data, on_epoch=lambda student, epoch: seen.append(accuracy(student, data.forget)))
    result = unlearn("LoTUS", trained, watched, unlearn_lr=2e-2, lotus_alpha=2.0)
    gaps = [row["gap"] for row in result.history]
    assert [*gaps, result.facts["gap"]] == seen
    assert len(set(gaps)) > 1
    assert [row["temperature"] for row in result.history] == pytest.approx(
        [math.exp(2 * gap) for gap in gaps]
    )


def test_lotus_ends_once_the_forget_images_are_known_less_than_unseen_ones(trained):
    data = data_of(part=[0, 2])
    unknown = replace(
        data, forget=replace(data.forget, labels=data.forget.labels + 1)
    )  # the model is wrong on all of them
    result = unlearn("LoTUS", trained, unknown)
    assert result.facts["epochs_run"] == len(result.history) == 1
    assert result.history[0]["gap"] == -accuracy(trained, data.validation)
    assert result.history[0]["temperature"] == pytest.approx(
        math.exp(-8 * accuracy(trained, data.validation))
    )  # below 1: sharper
    assert not torch.equal(result.model[1].weight, trained[1].weight)  # never a silent no-op


@pytest.mark.parametrize(("gap", "epochs_run"), [(-0.02, 1), (-0.005, 3)])
def test_lotus_ends_at_a_gap_of_a_hundredth_below_0(gap, epochs_run, trained, monkeypatch):
    monkeypatch.setattr(
        "lethe.unlearn.lotus.accuracy_unseen", lambda model, data: 1 - gap
    )  # and all forget images stay known
    result = unlearn("LoTUS", trained, data_of(part=[0, 2]), unlearn_epochs=3, unlearn_lr=1e-9)
    assert result.facts == {"epochs_run": epochs_run, "gap": pytest.approx(gap)}


def test_lotus_needs_validation_images_unless_whole_classes_go(model):
    images = images_of(10)
    x, y = everything(images)
    with pytest.raises(ValueError, match="LoTUS: expected validation images.* got none"):
        unlearn("LoTUS", model, ForgetData.of_tensors(x, y, torch.tensor([3, 4])))
    assert unlearn("LoTUS", model, ForgetData.of_tensors(x, y, y == 2)).history[0]["gap"] >= 0


@pytest.mark.parametrize(("data", "alpha"), [(data_of(1), 32.0), (data_of(part=[0, 2]), 8.0)])
def test_alpha_is_32_for_whole_classes_as_in_the_source(data, alpha, trained):
    (row,) = unlearn("LoTUS", trained, data, unlearn_epochs=1).history
    assert row["temperature"] == pytest.approx(math.exp(alpha * row["gap"]))
