"""Squared gradients of single images: by their layers or one by one, they are those of plain autograd on one image at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build
from unlearn.fisher_diagonal import SquaredGradients

CLASSES = 3


def seeded(make):
    """A model in eval mode whose batch norms have seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make().double()
        model.train()(torch.randn(20, 1, 8, 8, dtype=torch.float64))
    return model.eval()


class Peculiar(nn.Module):
    """A layer that runs twice, one whose weight is used elsewhere too, or one that sees a row of vectors an image."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.second = kind, nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.token = nn.Linear(8, 8)

    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        if self.kind == "runs twice":
            h = self.first(h)
        if self.kind == "weight elsewhere":
            h = h + F.linear(h, self.first.weight)
        if self.kind == "row of vectors":
            h = self.token(h.view(-1, 8, 8)).flatten(1)
        return self.second(h)


def of_layers(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


KNOWN = {
    "mlp": lambda: build("mlp", (1, 8, 8), CLASSES, seed=1),
    "cnn": lambda: build("cnn", (1, 8, 8), CLASSES, seed=1),
    "resnet18": lambda: build("resnet18", (1, 8, 8), CLASSES, seed=1, options={"width": 2}),
    "vgg16_bn": lambda: build("vgg16_bn", (1, 8, 8), CLASSES, seed=1, options={"width": 2}),
    "stride, padding, dilation, bias": of_layers(
        lambda: nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        lambda: nn.ReLU(inplace=True),
        nn.Flatten,
        lambda: nn.Linear(160, 6, bias=False),
        lambda: nn.BatchNorm1d(6),
        lambda: nn.Linear(6, CLASSES),
    ),
    "a layer that never runs": lambda: Peculiar("runs once"),
}
OTHERS = {
    "groups": of_layers(lambda: nn.Conv2d(1, 4, 3), lambda: nn.Conv2d(4, 4, 3, groups=2), nn.Flatten, lambda: nn.Linear(64, CLASSES)),
    "circular": of_layers(lambda: nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), nn.Flatten, lambda: nn.Linear(64, CLASSES)),
    "padding in words": of_layers(lambda: nn.Conv2d(1, 1, 3, padding="same"), nn.Flatten, lambda: nn.Linear(64, CLASSES)),
    "layer norm": of_layers(nn.Flatten, lambda: nn.LayerNorm(64), lambda: nn.Linear(64, CLASSES)),
    **{kind: lambda kind=kind: Peculiar(kind) for kind in ("runs twice", "weight elsewhere", "row of vectors")},
}


@pytest.mark.parametrize(("name", "by_layers"), [*((name, True) for name in KNOWN), *((name, False) for name in OTHERS)])
def test_they_are_those_of_one_image_at_a_time(name, by_layers):
    model = seeded((KNOWN | OTHERS)[name])
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers = [
        (torch.arange(5) % CLASSES, torch.linspace(0.1, 0.9, 5).double()),
        (torch.ones(5, dtype=torch.int64), torch.ones(5).double()),
    ]
    squares = SquaredGradients(model, x[:2])
    assert squares.by_layers == by_layers
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for labels, weights in answers:
        for i in range(5):
            loss = F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1])
            own = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
            for parameter, gradient in zip(expected, own, strict=True):
                expected[parameter] += weights[i] * gradient.square()
    found = squares(x, lambda logits: answers)
    assert list(found) == list(expected)
    for parameter, value in expected.items():
        torch.testing.assert_close(found[parameter], value, rtol=1e-8, atol=1e-14)


def test_the_model_is_left_as_it_was():
    model = seeded(KNOWN["cnn"])
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    SquaredGradients(model, x)(x, lambda logits: [(logits.argmax(1), logits[:, 0])])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
