"""MIMU, cheap, on a small model of digits."""

import copy

import pytest

from lethe.data import ForgetRequest
from lethe.models import build
from lethe.training import Recipe, fit
from lethe.unlearn import ForgetData, unlearn
from tests.mimu_settings import CHEAP
from tests.seeded import generator


@pytest.fixture(name="initial", scope="module")
def fixture_initial(digits):
    model = build("mlp", digits.train.image_shape, 10, seed=1, options={"hidden": (32, 20)})
    fit(model, digits.train, Recipe(8, "adamw", lr=1e-2, batch_size=128), generator=generator())
    return model


@pytest.fixture(name="model")
def fixture_model(initial):
    return copy.deepcopy(initial)


def forget_class(model, digits, label, cache, **settings):
    return forget(model, digits, ForgetRequest((label,)), cache, **settings)


def forget(model, digits, request, cache, world=None, **settings):
    data = ForgetData.of(digits, request, cache=cache, **(world or {}))
    return unlearn("MIMU", model, data, **CHEAP | settings)


def bits(model):
    return {name: value.detach().numpy().tobytes() for name, value in model.state_dict().items()}
