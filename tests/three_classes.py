"""Small models of three classes, and requests to forget some of their images."""

import torch
from torch import nn

from lethe.unlearn import ForgetData

CLASSES, HIDDEN = 3, 10  # 10: published code takes a last dimension of 10 for the classifier


def data_of(forget_classes=(0,), forget=None, count=18, shape=(1, 4, 4), **world):
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, *shape, generator=generator) + labels.view(-1, *(1 for _ in shape))
    chosen = torch.isin(labels, torch.tensor(forget_classes)) if forget is None else torch.tensor(forget)
    return ForgetData.of_tensors(images, labels, chosen, **world)


def seeded(*layers):
    """The layers that the functions make, under one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(*(make() for make in layers)).eval()


def perceptron(bias=True):
    return seeded(
        nn.Flatten, lambda: nn.Linear(16, HIDDEN, bias), nn.ReLU, lambda: nn.Linear(HIDDEN, CLASSES, bias)
    )


def convolutional():
    return seeded(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU,
        lambda: nn.Conv2d(4, 2, (1, 3)),
        lambda: nn.Conv2d(2, 2, 1),
        nn.Flatten,
        nn.Dropout,
        lambda: nn.Linear(16, CLASSES),
    )


def whole(images):
    return next(images.batches(len(images)))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
