"""Gradients of single images: by their layers or one by one, they are those of plain autograd on one image at
a time.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.models import build
from lethe.unlearn.layer_gradients import ImageGradients

CLASSES = 3


def seeded(make):
    """A model in eval mode whose batch norms have seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make().double()
        model.train()(torch.randn(20, 1, 8, 8, dtype=torch.float64))
    return model.eval()


class Peculiar(nn.Module):
    """A layer that runs twice, one whose weight is used elsewhere too, or one that sees a row of vectors an
    image.
    """

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
        if self.kind == "rows of patches":
            h = self.token(h.view(-1, 8)).view(len(x), -1)
        if self.kind == "no gradient":
            with torch.no_grad():
                h = self.token(h.view(-1, 8)).view(len(x), -1)
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
    "groups": of_layers(
        lambda: nn.Conv2d(1, 4, 3),
        lambda: nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten,
        lambda: nn.Linear(64, CLASSES),
    ),
    "circular": of_layers(
        lambda: nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.Flatten,
        lambda: nn.Linear(64, CLASSES),
    ),
    "padding in words": of_layers(
        lambda: nn.Conv2d(1, 1, 3, padding="same"), nn.Flatten, lambda: nn.Linear(64, CLASSES)
    ),
    "layer norm": of_layers(nn.Flatten, lambda: nn.LayerNorm(64), lambda: nn.Linear(64, CLASSES)),
    **{
        kind: lambda kind=kind: Peculiar(kind)
        for kind in ("runs twice", "weight elsewhere", "row of vectors", "rows of patches", "no gradient")
    },
}


LABELS, WEIGHTS = torch.arange(5) % CLASSES, torch.linspace(0.1, 0.9, 5).double()


def images():
    return torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def slow_rows(model, x, labels):
    """The gradients (N, P) by plain autograd, one image at a time."""
    rows = []
    for i, label in enumerate(labels):
        loss = F.cross_entropy(model(x[i : i + 1]), label[None])
        own = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(rows)


def by_parameter(model, flat):
    pieces = flat.split([p.numel() for p in model.parameters()])
    return {name: piece.view_as(p) for (name, p), piece in zip(model.named_parameters(), pieces, strict=True)}


@pytest.mark.parametrize(
    ("name", "by_layers"), [*((name, True) for name in KNOWN), *((name, False) for name in OTHERS)]
)
def test_they_are_those_of_one_image_at_a_time(name, by_layers):
    model, x = seeded((KNOWN | OTHERS)[name]), images()
    gradients = ImageGradients(model, x[:2])
    assert gradients.by_layers == by_layers
    rows = slow_rows(model, x, LABELS)
    direction = torch.randn(rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = gradients.of_labels(x, LABELS)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    squares = zeros | {
        name: t
        for layer, f in found.items()
        for name, t in gradients.unpacked(layer, f.sum_of(torch.square, WEIGHTS)).items()
    }
    for parameter, value in by_parameter(model, WEIGHTS @ rows.square()).items():
        torch.testing.assert_close(squares[parameter], value, rtol=1e-8, atol=1e-14)
    products = sum(f.images(slice(1, 4)).products(f) for f in found.values())
    torch.testing.assert_close(products, rows[1:4] @ rows.T, rtol=1e-8, atol=1e-14)
    along = sum(
        f.along(gradients.packed(layer, by_parameter(model, direction))) for layer, f in found.items()
    )
    torch.testing.assert_close(along, rows @ direction, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "circular"])
def test_every_answer_has_its_own_gradients(name):
    model, x = seeded((KNOWN | OTHERS)[name]), images()
    gradients = ImageGradients(model, x[:2])
    answers = [(LABELS, WEIGHTS), (torch.ones_like(LABELS), 1 - WEIGHTS)]
    for (labels, weights), (found, factors) in zip(
        answers, gradients.of(x, lambda logits: answers), strict=True
    ):
        assert found is weights
        norms = sum(f.sum_of(torch.square, weights).sum() for f in factors.values())
        torch.testing.assert_close(
            norms, weights @ slow_rows(model, x, labels).square().sum(1), rtol=1e-8, atol=1e-14
        )


def test_packing_is_undone_by_unpacking():
    model = seeded(KNOWN["cnn"])
    gradients = ImageGradients(model, images()[:2])
    own = dict(model.named_parameters())
    for layer in gradients.of_labels(images(), LABELS):
        for name, value in gradients.unpacked(layer, gradients.packed(layer, own)).items():
            assert torch.equal(value, own.pop(name))
    assert not own


def test_the_model_is_left_as_it_was():
    model, x = seeded(KNOWN["cnn"]), images()
    ImageGradients(model, x).of_labels(x, LABELS)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
