"""CFk and EUk: the blocks of a model, which of them stay, and how the last ones are trained or drawn anew."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lethe.models import build
from lethe.unlearn import unlearn
from lethe.unlearn.blocks import blocks_of
from tests.by_hand import sgd, slope
from tests.three_classes import CLASSES, convolutional, data_of, flat, perceptron, seeded, whole

LAST = ("CFk", "EUk")


def test_blocks_of_a_chain_of_layers():
    assert blocks_of(convolutional(), data_of()) == [("0", "1", "2"), ("3",), ("4", "5", "6"), ("7",)]
    assert blocks_of(perceptron(), data_of()) == [("1", "2"), ("3",)]


def test_blocks_of_the_architectures():
    data = data_of(shape=(3, 8, 8))
    options = {"mlp": {}, "resnet18": {"width": 2}, "HookedResnet": {"width": 2}}
    mlp, resnet, hooked = (
        build(name, (3, 8, 8), CLASSES, seed=0, options=own) for name, own in options.items()
    )
    assert [block[0] for block in blocks_of(mlp, data)] == ["linear1", "linear2", "linear3"]
    residual = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]
    assert [block[0] for block in blocks_of(resnet, data)] == ["conv1", *residual, "fc"]
    assert [block[0] for block in blocks_of(hooked, data)] == [
        "conv1",
        *residual,
        "fc.hooked",
        "fc.classifier",
    ]


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them, inside a wrapper."""

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict(
            {"last": nn.Linear(8, CLASSES), "second": nn.Linear(8, 8), "first": nn.Linear(16, 8)}
        )
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        x = self.net["second"](self.net["first"](x.flatten(1)).relu())
        return self.net["last"](x)


def test_blocks_are_in_forward_order_wherever_they_are_registered():
    assert blocks_of(Backwards(), data_of()) == [("net.first",), ("net.second",), ("net.last",)]


class Encoder(nn.Module):
    """A row of residual blocks with a norm after them, and no classifier: a block each."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def transformer():
    pairs = (lambda: nn.Unflatten(3, (2, 2)), lambda: nn.Flatten(1, 3))  # of pixels: 8 tokens
    return seeded(*pairs, lambda: nn.Linear(2, 8), Encoder, nn.Flatten, lambda: nn.Linear(64, CLASSES))


def test_a_row_of_blocks_in_another_module_is_looked_into():
    assert blocks_of(transformer(), data_of()) == [
        ("2",),
        ("3.layers.0",),
        ("3.layers.1", "3.norm", "4"),
        ("5",),
    ]


def test_attention_can_be_drawn_anew():
    model, data = transformer(), data_of()
    after = unlearn("EUk", model, data, unlearn_epochs=1, unlearn_lr=1e-12).model
    assert not torch.allclose(
        after[3].layers[1].self_attn.in_proj_weight, model[3].layers[1].self_attn.in_proj_weight
    )
    assert torch.equal(
        after[3].layers[0].self_attn.in_proj_weight, model[3].layers[0].self_attn.in_proj_weight
    )


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.again(self.again(self.first(x.flatten(1)))))


def test_a_model_whose_blocks_cant_be_told_is_refused():
    with pytest.raises(ValueError, match="blocks run one after the other, got one that runs 'again' twice"):
        unlearn("CFk", Twice(), data_of())


@pytest.mark.parametrize("method", LAST)
def test_the_first_block_stays_as_it_is(method):
    reason = r"--last_blocks: expected an integer from 0 to 2, got .*the classifier last: 0, 3, 4, 7"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, convolutional(), data_of(), last_blocks=3)


@pytest.mark.parametrize("method", LAST)
def test_a_classifier_alone_has_no_last_blocks(method):
    reason = "expected a model with a block before the classifier, got one without.* Use FT"
    with pytest.raises(ValueError, match=reason):
        unlearn(method, seeded(nn.Flatten, lambda: nn.Linear(16, CLASSES)), data_of())


@pytest.mark.parametrize("method", LAST)
def test_frozen_weights_and_statistics_do_not_move_under_momentum_and_weight_decay(method):
    def normed() -> nn.BatchNorm1d:
        return nn.BatchNorm1d(8)

    blocks = nn.Flatten, lambda: nn.Linear(16, 8), normed, nn.ReLU, lambda: nn.Linear(8, 8), normed
    model = seeded(*blocks, lambda: nn.Linear(8, CLASSES))
    after = unlearn(
        method, model, data_of(), unlearn_epochs=3, weight_decay=0.1, unlearn_lr=0.1
    ).model.state_dict()
    same = {name for name, value in model.state_dict().items() if torch.equal(after[name], value)}
    assert same == {name for name in after if name.startswith(("1.", "2."))}


@pytest.mark.parametrize("method", LAST)
def test_the_last_blocks_are_trained_by_sgd_with_momentum(method, monkeypatch):
    model, data = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), *perceptron()[1:]),
        data_of(forget=[0, 1]),
    )
    monkeypatch.setattr("lethe.unlearn.last_blocks.draw_anew", lambda *_: None)  # EUk starts where CFk does
    result = unlearn(
        method, model, data, unlearn_epochs=3, unlearn_lr=0.1, batch_size=100, weight_decay=0.01
    ).model
    assert torch.equal(result[1].weight, model[1].weight)
    x, y = whole(data.retain)
    last = model[3:]
    h = model[:3](x).detach()
    sgd(last, [slope(lambda m: F.cross_entropy(m(h), y))] * 3, 0.1, momentum=0.9, decay=0.01)
    torch.testing.assert_close(flat(result[3:]), flat(last), rtol=1e-5, atol=1e-6)


def test_euk_starts_the_last_blocks_anew():
    one, other = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), *perceptron()[1:]) for _ in range(2)
    )
    other[1].load_state_dict(one[1].state_dict())
    with torch.no_grad():
        other[3].weight.fill_(7.0), other[5].weight.fill_(math.pi)
    results = [unlearn("EUk", model, data_of(), unlearn_epochs=1).model for model in (one, other)]
    assert torch.equal(flat(results[0]), flat(results[1]))
    assert not torch.equal(flat(results[0]), flat(unlearn("CFk", one, data_of(), unlearn_epochs=1).model))
    assert not torch.equal(
        flat(results[0]), flat(unlearn("EUk", one, data_of(seed=2), unlearn_epochs=1).model)
    )


def test_euk_refuses_weights_that_it_cant_draw():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.scale = Scale()

        def forward(self, x):
            return self.scale(super().forward(x))

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.by * x

    model = seeded(nn.Flatten, lambda: nn.Linear(16, 8), Scaled, lambda: nn.Linear(8, CLASSES))
    reason = r"EUk: expected blocks whose weights can be drawn anew, got '2.scale', a Scale without"
    with pytest.raises(ValueError, match=reason):
        unlearn("EUk", model, data_of())
