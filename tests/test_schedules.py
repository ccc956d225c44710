"""The learning rates of a schedule, by hand."""

import pytest
import torch

from lethe.training.optimizers import SGD
from lethe.unlearn.schedules import fall_by_cosine


def test_a_cosine_falls_from_the_start_to_the_lowest_rate_and_stays_there():
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    fall_by_cosine(optimizer, 2, 0.2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert rates == pytest.approx([1.0, 0.6, 0.2, 0.2])
