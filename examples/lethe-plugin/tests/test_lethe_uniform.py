import math
from types import SimpleNamespace

import torch
from lethe_uniform.forget_entropy import forget_entropy
from torch import nn
from torch.nn import functional as F

from lethe import ForgetData, ForgetRequest, Outputs, forget, load_splits


def test_one_step_goes_towards_even_probabilities():
    data = ForgetData.of(load_splits("digits", "."), ForgetRequest((0,)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, _ = next(data.forget.batches(len(data.forget)))
    (gradient, _) = torch.autograd.grad(-F.log_softmax(model(x), 1).mean(), model.parameters())
    expected = model[1].weight - 0.5 * gradient

    stepped = forget(model, data, "Uniform", unlearn_epochs=1, unlearn_lr=0.5).model

    torch.testing.assert_close(stepped[1].weight, expected)


def test_even_predictions_have_the_largest_entropy():
    even = Outputs(torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64))

    assert math.isclose(forget_entropy(SimpleNamespace(forget=even)), math.log(10))
