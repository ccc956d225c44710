"""How long a training will take: the arithmetic, by a clock that the test turns."""

from types import SimpleNamespace

import torch
from torch import nn

from lethe.data import ImageSet
from lethe.training import estimate
from lethe.training.recipe import Recipe


def test_the_fastest_step_on_a_few_images_stands_for_all_of_them_in_every_epoch(monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])  # steps of 5, 2 and 3 seconds
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    images = ImageSet.of_tensors(torch.zeros(40, 2), torch.zeros(40, dtype=torch.int64))
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    before = torch.get_rng_state()
    seconds = estimate.estimated_seconds(model, images, Recipe(epochs=7), torch.device("cpu"))
    assert seconds == 2.0 / 16 * 40 * 7
    assert torch.equal(torch.get_rng_state(), before)
