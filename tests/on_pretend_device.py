"""What `test_pretend_device.py` runs in a process of its own."""

import functools

import pytest
import torch

from lethe.data import ForgetRequest, load_splits
from lethe.models import build
from lethe.training import Recipe, fit, fit_many, generator_for
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from tests import pretend_device

pretend_device.install()

PLACE, CPU = torch.device("pretend:0"), torch.device("cpu")
ALONE = [entry for entry in METHODS if not entry.facts.add_on]
REQUEST = ForgetRequest((3,))
SMALL = {"cnn": {"channels": (4, 8), "hidden": 8}}


@functools.cache
def splits():
    digits = load_splits("digits", "nowhere")
    few = torch.arange(240)
    from dataclasses import replace
    return replace(digits, train=digits.train.subset(few), validation=digits.validation.subset(few[:60]), test=digits.test.subset(few[:60]))


def new(arch, seed=1):
    return build(arch, (1, 8, 8), 10, seed=seed, options=SMALL.get(arch))


@functools.cache
def trained(arch, seed=1, ideal=False):
    model = new(arch, seed)
    images = splits().train
    if ideal:
        images = REQUEST.divide(images, 10, 0).retain
    fit(model, images, Recipe(4, "adamw", lr=3e-3, batch_size=30), generator=generator_for(seed, "t"))
    return model


import copy


def on(place, model):
    return copy.deepcopy(model).to(place)


def data_on(place, arch, **world):
    ideal = on(place, trained(arch, ideal=True))
    oracles = Oracles(lambda seeds: [ideal for _ in seeds], judges=(1,))
    return ForgetData.of(splits(), REQUEST, device=place, ideal=lambda: ideal, oracles=oracles, **world)


def quick(entry, epochs=1):
    less = {"epochs": epochs, "steps": 2*epochs, "batch_size": 24, "noise_images": 9, "noise_copies": 2}
    return {name: value for name in entry.hyperparameters for ending, value in less.items() if name.endswith(ending)}


def logits(model, place):
    x, _ = next(splits().test.batches(60, device=place))
    with torch.no_grad():
        return model(x).cpu()


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("entry", ALONE, ids=lambda e: e.name)
def test_method(entry, arch):
    results = []
    if entry.name == "CT" and arch == "mlp":
        return
    w = []
    for place in (CPU, PLACE):
        pretend_device.waits.clear()
        r = unlearn(entry.name, on(place, trained(arch)), data_on(place, arch), **quick(entry))
        w.append(sum(pretend_device.waits.values())); w.append(dict(pretend_device.waits))
        results.append(r)
        pretend_device.waits.clear()
        r3 = unlearn(entry.name, on(place, trained(arch)), data_on(place, arch), **quick(entry, 3))
        w.append(sum(pretend_device.waits.values())); w.append(dict(pretend_device.waits))
    print(entry.name, arch, w[4], w[6], w[5], w[7])
    assert {p.device for p in results[1].model.parameters()} == {PLACE}
    torch.testing.assert_close(logits(results[1].model, PLACE), logits(results[0].model, CPU), atol=1e-3, rtol=1e-3)
    for a,b in zip(results[1].history, results[0].history, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    assert results[1].facts == results[0].facts, 'facts'
