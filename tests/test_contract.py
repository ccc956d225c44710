"""What a model has to be is checked before anything is trained: logits of a shape, weights of its own,
batches that can be trained on.
"""

import types
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lethe.data import ForgetRequest, ImageSet
from lethe.experiment import base_models
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.measure import measure
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.models import build, check_copies, check_logits, check_trains, fails_on_one
from lethe.unlearn import ForgetData, unlearn

ARCHITECTURES = """
import math
import torch
from torch import nn

class Two(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)), x

class Named(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x.flatten(1))}

class Squeezed(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).squeeze()

class Auxiliary(nn.Linear):
    def forward(self, x):
        logits = super().forward(x.flatten(1))
        return (logits, logits) if self.training else logits

class Fails(nn.Linear):
    def forward(self, x):
        raise KeyError("stem")

def two(shape, classes): return Two(math.prod(shape), classes)
def named(shape, classes): return Named(math.prod(shape), classes)
def squeezed(shape, classes): return Squeezed(math.prod(shape), classes)
def auxiliary(shape, classes): return Auxiliary(math.prod(shape), classes)
def fails(shape, classes): return Fails(math.prod(shape), classes)
def few(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 5))
def many(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 1000))
def colour(shape, classes): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(classes))
def double(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)).double()
def no_weights(shape, classes): return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))
def labels(shape, classes): return Labels(math.prod(shape), classes)
def no_model(shape, classes): return nn.Linear
def lazy(shape, classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
def normed(shape, classes):
    first = nn.Linear(math.prod(shape), 8)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(8), nn.Linear(8, classes))

class Labels(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).argmax(1)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of an architecture of the file above, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(ARCHITECTURES)
    return lambda name: f"{tmp_path}/own.py:{name}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two", r"logits \(2, 10\) of 2 images, got tuple of 2. Return the logits alone"),
        ("named", "got dict of 'logits'. Return the logits alone"),
        ("squeezed", r"logits \(1, 10\) of 1 image, got \(10,\)"),
        ("labels", r"got int64 \(2,\). Return the logits, as floats"),
        ("few", r"got \(2, 5\)"),
        ("many", r"got \(2, 1000\)"),
        (
            "colour",
            "for images of 8 x 8 pixels and 1 channel, got one that fails .RuntimeError: .* expected "
            "input.*to have 3 channels",
        ),
        ("fails", r"got one that fails \(KeyError: 'stem', own.py line 25\)"),
        ("double", "got weights in float64 and images in float32. Bring both to float32"),
        ("no_weights", "with weights that can be trained, got one without"),
        ("no_model", "that returns an nn.Module, got type"),
    ],
)
def test_an_own_architecture_that_is_no_classifier_is_refused_when_it_is_built(own, name, message):
    with pytest.raises(ValueError, match=rf"--arch .*own.py:{name}: expected an architecture .*{message}"):
        build(own(name), (1, 8, 8), 10, seed=1)


def test_outputs_of_train_mode_are_found_before_training(own, digits):
    reason = r"own.py:auxiliary: expected an architecture, in train mode too, one .* got tuple of 2"
    with pytest.raises(ValueError, match=reason):
        BaseModels(BaseConfig(arch=own("auxiliary"), epochs=1), splits=digits)


def test_layers_that_learn_their_size_draw_their_weights_by_the_seed(own):
    one, same, other = (build(own("lazy"), (1, 8, 8), 10, seed=seed)[1].weight for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_leaves_the_random_state_alone(own):
    before = torch.get_rng_state()
    build(own("lazy"), (1, 8, 8), 10, seed=1)

    assert torch.equal(torch.get_rng_state(), before)


# Batches that batch norm can't be trained on


def test_batches_of_one_image_and_batch_norm(own, digits):
    assert BaseModels(BaseConfig(arch="mlp", epochs=1, training={"train_batch_size": 1}), splits=digits)
    reason = "--train_batch_size: expected at least 2 for a model with batch norm, got 1"
    with pytest.raises(ValueError, match=reason):
        BaseModels(BaseConfig(arch=own("normed"), epochs=1, training={"train_batch_size": 1}), splits=digits)


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def fit(*_, **__):
        raise AssertionError("something is trained")

    monkeypatch.setattr(base_models, "fit", fit)


def all_but(digits, count):
    return ForgetRequest((), None, tuple(digits.train.indexes.tolist()[count:]), "f.txt")


def test_an_ideal_model_of_one_image_and_batch_norm_is_found_before_the_initial_model_is_trained(
    own, digits, nothing_is_trained
):
    config = PipelineConfig(
        "default", base=BaseConfig(arch=own("normed"), epochs=1, request=all_but(digits, 1)), ideal="train"
    )
    base = BaseModels(config.base, splits=digits)
    reason = "expected at least two images to train a model with batch norm on, got one: the forget request"
    with pytest.raises(ValueError, match=reason):
        Pipeline(config, base=base)


def test_an_ideal_model_without_validation_images_is_found_before_the_initial_model_is_trained(
    own, digits, nothing_is_trained
):
    kept = digits.validation.classes[0]
    one_class = replace(digits, validation=digits.validation.of_classes(kept))
    config = PipelineConfig(
        "default", base=BaseConfig(epochs=1, request=ForgetRequest((kept,))), ideal="train"
    )
    with pytest.raises(ValueError, match="expected a class of at least 6 images beside the test part"):
        Pipeline(config, base=BaseModels(config.base, splits=one_class))


def test_only_batch_norm_over_single_numbers_fails_on_one_image():
    images = torch.zeros(1, 3, 8, 8)
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    flat = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192))
    before = {name: value.clone() for name, value in flat.state_dict().items()}

    assert (fails_on_one(conv, images), fails_on_one(flat, images), fails_on_one(nn.Flatten(), images)) == (
        False,
        True,
        False,
    )
    assert all(torch.equal(value, before[name]) for name, value in flat.state_dict().items())


# From Python

X = torch.rand(120, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 4
TEST = ImageSet.of_tensors(X[:40], Y[:40])


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))


class WithLogits(nn.Module):
    """As Hugging Face's models are."""

    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, x):
        return types.SimpleNamespace(logits=self.inner(x))


def data_of(images=X):
    return ForgetData.of_tensors(images, Y, forget=torch.tensor([1, 9]))


LOGITS = r"expected a model whose output is logits \(2, 4 or more\) of 2 images"
TWO_LOGITS = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
TO_FLOAT32 = "Bring both to float32: model.float.., images.float"


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (WithLogits(), X, rf"{LOGITS}, got SimpleNamespace with .logits"),
        (TWO_LOGITS, X, r"got \(2, 2\). Give a model of these images and classes"),
        (small(), X.double(), f"got weights in float32 and images in float64. {TO_FLOAT32}"),
        (small().double(), X, "got weights in float64 and images in float32"),
        (nn.Flatten(), X[:, :, 0, :4].mean(1), "expected a model with weights that can be trained"),
        (small().state_dict(), X, "expected a model, an nn.Module, got OrderedDict. Give the model itself"),
    ],
    ids=["object", "few outputs", "double images", "double model", "no weights", "a state dict"],
)
def test_a_model_that_is_none_of_these_images_is_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        unlearn("NegGrad", model, data_of(images))


def test_a_scripted_model_is_refused():
    class Script(torch.jit.ScriptModule):
        pass

    with pytest.raises(ValueError, match="expected a model in Python, got a scripted one"):
        check_copies(Script(), who="expected a model")


def test_a_model_that_cannot_be_copied_is_refused():
    model = small()
    model.lock = (each for each in "ab")
    got = r"got one that can't \(TypeError: cannot pickle 'generator'"
    with pytest.raises(ValueError, match=f"expected a model that can be copied, {got}"):
        unlearn("NegGrad", model, data_of())


def test_a_pruned_model_forgets_and_stays_pruned():
    model = small()
    prune.l1_unstructured(model[1], "weight", 0.5)
    forgotten = unlearn("NegGrad", model, data_of()).model

    with torch.no_grad():
        assert not torch.equal(forgotten(X), model(X))
    assert torch.equal(forgotten[1].weight == 0, model[1].weight_mask == 0)


def test_images_that_are_not_finite_are_refused():
    broken = X.clone()
    broken[5, 0, 0, 0] = torch.nan
    broken[7] = torch.inf
    got = "got NaN or infinity in image 5 and 1 more. Leave such images out"
    with pytest.raises(ValueError, match=f"images: expected finite numbers, {got}"):
        ImageSet.of_tensors(broken, Y)


def test_no_test_images_are_refused():
    with pytest.raises(ValueError, match="the test set: expected at least one image, got none"):
        measure(small(), {"initial": small()}, data_of(), ImageSet.of_tensors(X[:0], Y[:0]))


def test_no_images_to_retain_are_refused():
    data = ForgetData.of_tensors(X, Y, forget=torch.ones(len(X), dtype=torch.bool))
    with pytest.raises(ValueError, match="the retain set: expected at least one image to measure by, got"):
        measure(small(), {"initial": small()}, data, TEST)


def test_what_is_right_passes():
    model = small()
    check_logits(model, X[:2], 4, who="this")
    check_copies(model, who="this")
    check_trains(model, X[:2], 4, who="this")
    reason = r"this whose output is logits \(2, 5 or more\) of 2 images, got \(2, 4\). Correct it"
    with pytest.raises(ValueError, match=reason):
        check_logits(model, X[:2], 5, who="this", more=True)
