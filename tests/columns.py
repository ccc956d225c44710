"""Images of bright columns, models that tell them apart, and requests to forget some."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.unlearn import ForgetData

CLASSES = 4
CPU = torch.device("cpu")


def images_of(per_class, seed=0, first=0):
    """A bright column of 4 x 4 pixels per class, and noise; the classes in turn."""
    labels = torch.arange(CLASSES).repeat(per_class)
    images = torch.randint(80, (len(labels), 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    images[torch.arange(len(labels)), 0, :, labels] += 120
    return ImageSet(
        images.to(torch.uint8), labels, first + torch.arange(len(labels)), Normalisation((0.3,), (0.2,))
    )


def data_of(*classes, part=None, **world):
    """The request for these classes, or for the images at the positions `part`."""
    train, validation = images_of(10), images_of(3, seed=1, first=100)
    chosen = torch.isin(train.labels, torch.tensor(classes, dtype=torch.int64))
    chosen[torch.tensor(part or [], dtype=torch.int64)] = True
    return ForgetData(train.subset(chosen), train.subset(~chosen), validation, CLASSES, **world)


def classifier(*between, classes=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), *between, nn.ReLU(), nn.Linear(8, classes)
        ).eval()


@pytest.fixture(name="model")
def fixture_model():
    return classifier()


@pytest.fixture(name="trained", scope="module")
def fixture_trained():
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    x, y = next(images_of(10).batches(1000))
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert accuracy(model, images_of(10)) == 1
    return model


def accuracy(model, images):
    x, y = next(images.batches(1000))
    return (model(x).argmax(1) == y).double().mean().item()


def everything(images):
    return next(images.batches(10_000))


def assert_weights(model, expected, atol=1e-6):
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.fixture(name="trained_on")
def fixture_trained_on():
    """A model, and how many images it was given at each training step; copies of it count as well."""
    model, counts = classifier(), []
    model.register_forward_pre_hook(
        lambda module, inputs: counts.append(len(inputs[0])) if module.training else None
    )
    return model, counts
