"""Images of bars, the model that tells them apart, and requests to forget some."""

import copy

import pytest
import torch
from torch import nn

from lethe.data import ForgetRequest, ImageSet, Normalisation, Splits
from lethe.training import Recipe, fit

CLASSES, PER_CLASS, VALIDATION_PER_CLASS = 4, 30, 5
INPUTS, MASKED, SIZE = 12, 10, 10 * 12  # the masked layer is 10 x 12
CLASS_1 = ForgetRequest((1,))
SEVEN_IMAGES = ForgetRequest((-1,), number=7)


def images_of(per_class, seed, classes=CLASSES):
    """A bright row or column of 4 x 4 pixels per class, and noise; the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randint(90, (len(labels), 1, 4, 4), generator=generator)
    images[torch.arange(len(labels)), 0, labels % 4] += 120
    images = images.to(torch.uint8)
    return ImageSet(images, labels, torch.arange(len(labels)), Normalisation.of(images, 255))


@pytest.fixture(name="splits", scope="module")
def fixture_splits():
    images = images_of(PER_CLASS + VALIDATION_PER_CLASS, seed=0)
    validation = torch.arange(len(images)) % 7 == 3  # 5 of the 35 images of each class
    test = images_of(5, seed=1)
    return Splits(images.subset(~validation), images.subset(validation), test, "bars", tuple("abcd"), 0)


def classifier(classes=CLASSES):
    """One of everything that a method may stumble over, or needs: a convolution, biases, running statistics,
    dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = (
            nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten()),
            nn.Linear(16, INPUTS),
            nn.BatchNorm1d(INPUTS),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        return nn.Sequential(*body, nn.Linear(INPUTS, MASKED), nn.ReLU(), nn.Linear(MASKED, classes)).eval()


@pytest.fixture(name="trained", scope="module")
def fixture_trained(splits):
    model = classifier()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        fit(
            model,
            splits.train,
            Recipe(8, "adamw", lr=2e-2, batch_size=20),
            generator=torch.Generator().manual_seed(0),
        )
    return model


@pytest.fixture(name="model")
def fixture_model(trained):
    return copy.deepcopy(trained)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(one, other):
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and one[name].numpy().tobytes() == other[name].numpy().tobytes()
        for name in one
    )
