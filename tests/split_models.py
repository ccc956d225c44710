"""Models that can be split at a layer of 5 x 6 weights, and the images for them."""

import pytest
import torch
from torch import nn

from lethe.data import ImageSet, Normalisation
from lethe.models import split_at
from tests.seeded import generator, seeded


class InDoubles(nn.Module):
    """A model of float64 behind float32 images, so that its features can be compared to 1e-10."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers).double()

    def forward(self, x):
        return self.layers(x.double())


class WithAWayAround(nn.Module):
    """The head needs the images: a skip connection leads around the masked layer."""

    def __init__(self, bias, dtype=torch.float64):
        super().__init__()
        self.first = nn.Linear(9, 6, bias=bias, dtype=dtype)
        self.masked = nn.Linear(6, 5, bias=bias, dtype=dtype)
        self.last = nn.Linear(5, 4, bias=bias, dtype=dtype)
        self.around = nn.Linear(9, 4, bias=False, dtype=dtype)

    def forward(self, x):
        x = x.to(self.first.weight.dtype).flatten(1)
        return self.last(self.masked(self.first(x).relu()).relu()) + self.around(x)


def plain(bias):
    return InDoubles(
        nn.Linear(9, 6, bias=bias),
        nn.ReLU(),
        nn.Linear(6, 5, bias=bias),
        nn.ReLU(),
        nn.Linear(5, 4, bias=bias),
    )


MODELS = {
    "plain": (lambda: plain(False), "layers.3"),
    "plain with bias": (lambda: plain(True), "layers.3"),
    "around": (lambda: WithAWayAround(False), "masked"),
    "around with bias": (lambda: WithAWayAround(True), "masked"),
}


@pytest.fixture(name="split_model", params=MODELS)
def fixture_split_model(request):
    """A model and the model split at its masked 5 x 6 layer."""
    make, name = MODELS[request.param]
    model = seeded(make).eval()
    return model, split_at(model, name, torch.zeros(2, 1, 3, 3))


@pytest.fixture(name="images")
def fixture_images():
    labels = torch.tensor([0, 1, 2, 3, 1, 0, 3, 2, 1, 0, 0])
    pixels = torch.randint(256, (11, 1, 3, 3), generator=generator()).to(torch.uint8)
    return ImageSet(pixels, labels, torch.arange(11), Normalisation((0.4,), (0.3,)))
