"""The linear layers of a model: in which order they come, how one is named, and which is read by a relu
alone.
"""

import pytest
import torch
from torch import nn

from lethe.models import build, find_layer, linear_layers, split_at
from tests.layered_models import SMALL, Branches, Small, images, sequential


class RunsTwice(Small):
    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        return self.last(self.masked(self.masked(h).relu()))


class SeesRows(nn.Module):
    """A layer that sees each row of an image."""

    def __init__(self):
        super().__init__()
        self.masked, self.last = nn.Linear(8, 3), nn.Linear(24, 4)

    def forward(self, x):
        return self.last(self.masked(x.squeeze(1)).flatten(1))


class SeesRowsAsImages(SeesRows):
    """The same with the rows of all images in one list."""

    def forward(self, x):
        return self.last(self.masked(x.reshape(-1, 8)).view(len(x), -1))


class CutsItOff(Small):
    """z is read by a relu, in one of the ways in which one can be written."""

    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, x):
        return self.last(self.relu(self.masked(self.first(x.flatten(1)))))


class CutsItOffAndReadsIt(Small):
    def forward(self, x):
        z = self.masked(self.first(x.flatten(1)))
        return self.last(z.relu() + z)


class LeavesOneOut(Small):
    """Its layer `masked` does not run."""

    def forward(self, x):
        return self.last(self.first(x.flatten(1)))


RELUS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": nn.functional.relu,
    "torch": torch.relu,
    "torch, in place": torch.relu_,
    "method": lambda z: z.relu(),
    "method, in place": lambda z: z.relu_(),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_a_relu_that_alone_reads_the_layer_is_seen(relu):
    assert split_at(CutsItOff(relu), "masked", images()).relu_follows


@pytest.mark.parametrize(
    "model",
    [
        CutsItOff(nn.Tanh()),
        CutsItOff(nn.LeakyReLU()),
        CutsItOff(lambda z: -z),
        CutsItOffAndReadsIt(),
        Branches(),
    ],
    ids=["tanh", "leaky relu", "minus", "read twice", "untraceable"],
)
def test_no_relu_is_seen_where_something_else_reads_the_layer(model):
    assert not split_at(model, "masked", images()).relu_follows


def test_linear_layers_come_in_forward_order():
    class Backwards(Small):
        def forward(self, x):
            return self.masked(self.first(x.flatten(1)))

    model = Backwards()
    model.add_module("first", model._modules.pop("first"))
    assert list(linear_layers(model, images())) == ["first", "masked"]


def test_linear_layers_come_with_the_input_that_they_saw():
    model = sequential()
    assert torch.equal(linear_layers(model, images())["3"], model[:3](images()))


@pytest.mark.parametrize(
    ("mask_layer", "name"),
    [("linear1", "linear1"), ("0", "linear1"), ("1", "linear2"), ("-1", "linear3"), ("-3", "linear1")],
)
def test_a_layer_is_found_by_name_or_index(mask_layer, name):
    assert find_layer(build("mlp", SMALL, 10, seed=1), mask_layer, images()) == name


def test_a_nested_layer_is_found_by_its_name():
    assert find_layer(build("HookedResnet", SMALL, 10, seed=1), "fc.hooked", images()) == "fc.hooked"


@pytest.mark.parametrize("index", ["3", "-4", "99"])
def test_an_index_that_does_not_exist_is_refused(index):
    reason = rf"expected an index from -3 to 2, got {index}\. Linear layers: linear1, linear2, linear3"
    with pytest.raises(ValueError, match=f"--mask_layer: {reason}"):
        find_layer(build("mlp", SMALL, 10, seed=1), index, images())


def test_a_name_that_does_not_exist_gets_the_nearest_and_the_list():
    reason = r"unknown layer 'liner2'\. Did you mean 'linear2'\? Linear layers: linear1, linear2, linear3"
    with pytest.raises(ValueError, match=reason):
        find_layer(build("mlp", SMALL, 10, seed=1), "liner2", images())


@pytest.mark.parametrize("mask_layer", ["", "-", "--2", "1.5"])
def test_what_is_neither_name_nor_index_is_refused(mask_layer):
    with pytest.raises(ValueError, match="--mask_layer: unknown layer"):
        find_layer(build("mlp", SMALL, 10, seed=1), mask_layer, images())


def test_a_layer_that_is_not_linear_is_refused():
    reason = r"--mask_layer: expected a linear layer, got 'relu1', a ReLU\. Linear layers: linear1"
    with pytest.raises(ValueError, match=reason):
        find_layer(build("mlp", SMALL, 10, seed=1), "relu1", images())


@pytest.mark.parametrize("kind", [SeesRows, SeesRowsAsImages])
def test_a_layer_that_sees_several_vectors_an_image_is_refused(kind):
    reason = "--mask_layer: expected a layer that sees one vector an image, and 'masked' sees"
    with pytest.raises(ValueError, match=reason):
        find_layer(kind(), "masked", images())


def test_a_layer_that_runs_twice_is_refused():
    with pytest.raises(ValueError, match="--mask_layer: expected a layer that"):
        find_layer(RunsTwice(), "masked", images())


def test_a_layer_that_does_not_run_is_refused():
    with pytest.raises(ValueError, match=r"--mask_layer: .* Linear layers: first, last"):
        find_layer(LeavesOneOut(), "masked", images())
