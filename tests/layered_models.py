"""The architectures, and small models with what makes a layer hard to find or to split at."""

import pytest
import torch
from torch import nn

from lethe.models import ARCHITECTURES, build

EVERY = [
    entry.name for entry in ARCHITECTURES if entry.name != "resnet9"
]  # it takes no 8 x 8; tests/test_architectures.py has all
SMALL, COLOUR = (1, 8, 8), (3, 32, 32)


def images(shape=SMALL, count=3, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="built", scope="module", params=EVERY)
def fixture_built(request):
    """Each architecture for small images; a test that changes it works on a copy."""
    return build(request.param, SMALL, 10, seed=1)


def sequential(*, bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 6, bias=bias),
        nn.ReLU(),
        nn.Linear(6, 5, bias=bias),
        nn.Tanh(),
        nn.Linear(5, 4, bias=bias),
    ).eval()


class Small(nn.Module):
    """flatten -> first -> relu -> masked -> relu -> last, what else happens is up to `forward`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.masked, self.last = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.eval()


class Branches(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        if h.sum() > 1e9:
            h = -h
        return self.last(self.masked(h).relu())
