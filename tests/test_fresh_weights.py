"""Fresh weights for chosen entries, frozen ones for the rest, and an optimiser for a pass."""

import torch
from torch import nn
from torch.nn import functional as F

from lethe.unlearn import copy_of
from lethe.unlearn.fresh_weights import as_new_layers, redrawn, reset_entries
from lethe.unlearn.frozen_weights import freeze_outside
from lethe.unlearn.passes import Pass, fine_tune
from tests.by_hand import adam, sgd, slope
from tests.three_classes import data_of, flat, perceptron, whole


def seed(number):
    return torch.Generator().manual_seed(number)


def test_chosen_entries_are_drawn_as_a_new_layers_and_the_others_keep_their_bits():
    model = perceptron()
    before = {name: p.clone() for name, p in model.named_parameters()}
    chosen = {"1.weight": torch.rand(10, 16, generator=seed(0)) < 0.5, "1.bias": torch.arange(10) < 3}

    reset_entries(model, chosen, as_new_layers(seed(1)))

    weight, bias = model[1].weight, model[1].bias
    marked = chosen["1.weight"]
    assert torch.equal(weight[~marked], before["1.weight"][~marked])
    assert (weight[marked] != before["1.weight"][marked]).all()
    assert weight[marked].abs().max() <= 16**-0.5
    assert bias[:3].tolist() == [0, 0, 0]
    assert torch.equal(bias[3:], before["1.bias"][3:])
    assert torch.equal(model[3].weight, before["3.weight"])


def test_a_redrawn_model_is_the_seeds():
    model = perceptron()
    one, same, other = (flat(redrawn(model, seed(number))) for number in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, flat(model))


def test_neither_momentum_nor_decay_moves_a_frozen_entry_whichever_optimiser_steps():
    weight = nn.Parameter(torch.ones(2))
    first = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    second = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    freeze_outside([torch.tensor([True, False])], [weight], first, second)

    for optimizer in (first, second, first):
        weight.grad = torch.ones(2)
        optimizer.step()

    assert weight[1] == 1
    assert weight[0] < 1


def test_a_pass_may_have_an_optimiser_of_its_own_whose_state_is_its_own():
    data, model = data_of(), perceptron()
    student = copy_of(model)
    adam_w = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.05)
    plain = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    plan = [Pass("forget", data.forget, climb=True, optimizer=adam_w), Pass("retain", data.retain)]

    fine_tune(student, data, "test", lambda _: plan, plain, 1, batch_size=100)

    (x_f, y_f), (x_r, y_r) = whole(data.forget), whole(data.retain)
    expected = copy_of(model)
    adam(expected, [slope(lambda m: -F.cross_entropy(m(x_f), y_f))], 1e-2, decoupled=0.05)
    sgd(expected, [slope(lambda m: F.cross_entropy(m(x_r), y_r))], 0.1, momentum=0.9)
    torch.testing.assert_close(flat(student), flat(expected))
    assert all(p.grad is None for p in student.parameters())
