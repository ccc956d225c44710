"""bad_teacher: three steps by hand, and a teacher that is drawn anew."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import resolved, unlearn
from lethe.unlearn.bad_teacher import incompetent
from lethe.unlearn.forget_and_retain import with_share_of_retain
from tests.by_hand import adam, slope
from tests.columns import (
    accuracy,
    assert_weights,
    classifier,
    data_of,
    everything,
    fixture_model,  # noqa: F401
    fixture_trained,  # noqa: F401
)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_three_steps_of_bad_teacher_by_hand(temperature, model):
    # Where a ReLU is off on forget, the gradient is only rounding of retain's, and Adam makes a step of it.
    model[2] = nn.Tanh()
    data = data_of(1)
    images, forgets = with_share_of_retain(data, 1.0, "bad_teacher")
    x, ignorant = everything(images)[0], incompetent(model, data)
    p = (torch.where(forgets[:, None], ignorant(x), model(x)) / temperature).softmax(1).detach()

    def imitation(rows):
        return lambda m: (
            (p[rows] * (p[rows].log() - (m(x[rows]) / temperature).log_softmax(1))).sum() / len(rows)
        )

    steps = [
        imitation(rows)
        for rows in torch.randperm(40, generator=data.generator("bad_teacher", "order")).split(15)
    ]
    expected = copy.deepcopy(model)
    adam(expected, [slope(step) for step in steps], 1e-2)
    settings = {"unlearn_lr": 1e-2, "batch_size": 15, "retain_share": 1.0, "teacher_temperature": temperature}
    assert_weights(unlearn("bad_teacher", model, data, **settings).model, expected.parameters())


def test_the_history_of_bad_teacher_is_its_loss(model):
    data = data_of(1)
    total = torch.zeros(())
    for images, taught_by in ((data.forget, incompetent(model, data)), (data.retain, model)):
        x = everything(images)[0]
        total = total + F.kl_div(
            model(x).log_softmax(1), taught_by(x).log_softmax(1), reduction="sum", log_target=True
        )
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
    """torch's attention over two tokens of four numbers; it has no public method that resets its weights."""

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
    message = (
        r"bad_teacher: expected modules that can draw .* got Scaled \(2\) with scale and no reset_parameters"
    )
    with pytest.raises(ValueError, match=message):
        unlearn("bad_teacher", model, data)
    settings = {
        "unlearn_epochs": 1,
        "unlearn_lr": 1e-4,
        "batch_size": 2,
        "retain_share": 0.5,
        "teacher_temperature": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        resolved("bad_teacher", model, data, settings)


def test_bad_teacher_forgets_a_class_and_keeps_the_others(trained):
    data = data_of(1)
    result = unlearn("bad_teacher", trained, data, unlearn_epochs=60, unlearn_lr=1e-2, retain_share=1.0)
    assert accuracy(result.model, data.forget) < 0.5
    assert accuracy(result.model, data.retain) > 0.9
