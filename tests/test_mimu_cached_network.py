"""MIMU's network in a cache: one for all requests of a model, another for what it depends on."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from lethe.data import ForgetRequest, Normalisation
from lethe.training import DiskCache
from lethe.unlearn import METHODS, ForgetData
from tests.mimu_on_digits import bits, fixture_initial, fixture_model, forget, forget_class  # noqa: F401 (fixtures)
from tests.mimu_settings import CHEAP, KAPPA, SAMPLERS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains_a_network_of_its_own(sampler, model, digits):
    cache = {}
    forget_class(model, digits, 3, cache)
    result = forget_class(model, digits, 3, cache, sampler=sampler)
    assert result.facts["network_cached"] == (sampler == "sinkhorn")
    assert all(math.isfinite(value) for step in result.history for value in step.values())


def test_every_ranking_uses_the_same_network(model, digits):
    cache = {}
    masks = {
        ranking: forget_class(model, digits, 3, cache, ranking=ranking).mask
        for ranking in ("continuous", "binary", "set_difference")
    }
    assert len(cache) == 1
    assert masks["continuous"].kappa_count == masks["binary"].kappa_count == KAPPA
    assert 0 < masks["set_difference"].kappa_count <= CHEAP["topk"] < KAPPA


class Spy(dict):
    """A cache that counts what is written."""

    written = 0

    def __setitem__(self, key, value):
        self.written += 1
        super().__setitem__(key, value)


def test_a_second_class_trains_nothing_and_gets_the_mask_it_would_have_got_first(model, digits):
    trained = []

    def progress(steps, label, total=None):
        trained.append(label)
        return steps

    cache = Spy()
    first = forget_class(model, digits, 1, cache, world={"progress": progress})
    second = forget_class(model, digits, 3, cache, world={"progress": progress})
    assert trained == ["MIMU network", "MIMU answers"]
    assert cache.written == len(cache) == 1
    assert (first.facts["network_cached"], second.facts["network_cached"]) == (0, 1)
    alone = forget_class(model, digits, 3, {})
    assert torch.equal(second.mask.keep, alone.mask.keep)
    assert bits(second.model) == bits(alone.model)
    assert not torch.equal(first.mask.keep, second.mask.keep)


def test_a_class_on_a_cached_network_does_not_run_the_model_on_the_training_images(model, digits):
    seen = []
    model.linear1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cache = {}
    forget_class(model, digits, 1, cache)
    assert sum(seen) >= len(digits.train)
    seen.clear()
    forget_class(model, digits, 3, cache)
    assert (
        sum(images for images in seen if images > 2) <= 64
    )  # those in the cache's key; two at a time find the layer and split the model


REQUESTS = [
    ForgetRequest((3,)),
    ForgetRequest((7, 1)),
    ForgetRequest((3,), number=20),
    ForgetRequest((-1,), number=50),
    ForgetRequest((0,)),
]


def test_the_mask_does_not_depend_on_what_was_asked_before(model, digits):
    alone = {request.slug: forget(model, digits, request, {}).mask.keep for request in REQUESTS}
    order = random.Random(0)
    for _ in range(3):
        cache = {}
        for request in order.sample(REQUESTS, len(REQUESTS)):
            assert torch.equal(forget(model, digits, request, cache).mask.keep, alone[request.slug])
        assert len(cache) == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cache_hit_gives_the_same_bits(kind, model, digits, tmp_path):
    cache = {} if kind == "memory" else DiskCache(tmp_path)
    for request in REQUESTS:
        first, again = (forget(model, digits, request, cache) for _ in range(2))
        assert again.facts["network_cached"] == 1
        assert bits(first.model) == bits(again.model)
        assert torch.equal(first.mask.keep, again.mask.keep)
        assert first.history == again.history


ANOTHER_SETTING = {
    "topk": 30,
    "kappa": 61,
    "mask_layer": "linear1",
    "contrast": 2.0,
    "retain_weight": 1.0,
    "prior": "gradient",
    "rho": 0.2,
    "tau": 0.5,
    "sampler": "gumbel",
    "gradient": "logit",
    "representatives": 8,
    "gcn_steps": 1,
    "gcn_lr": 2e-2,
    "gcn_weight_decay": 1e-3,
    "gcn_batch": 32,
}


def test_another_setting_is_another_network(model, digits):
    of_the_request = {"ranking", "refine_steps", "refine_lr"}
    assert ANOTHER_SETTING.keys() == METHODS["MIMU"].hyperparameters.keys() - of_the_request
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=2)
    for number, (name, value) in enumerate(ANOTHER_SETTING.items(), 2):
        forget_class(model, digits, 3, cache, **{"gcn_steps": 2, name: value})
        assert len(cache) == number, name


def test_amounts_that_mean_the_same_share_a_network(model, digits):
    cache = {}
    for kappa in (64, 0.1, "10%"):
        forget_class(model, digits, 3, cache, kappa=kappa, gcn_steps=1)
    assert len(cache) == 1


def another_weight(model, splits):
    with torch.no_grad():
        model.linear3.weight[0, 0] += 1e-6
    return model, splits


def another_image(model, splits):
    images = splits.train.images.clone()
    images[5, 0, 0, 0] ^= 1
    return model, replace(splits, train=replace(splits.train, images=images))


def another_label(model, splits):
    labels = splits.train.labels.clone()
    labels[5] = (labels[5] + 1) % 10
    return model, replace(splits, train=replace(splits.train, labels=labels))


def another_normalisation(model, splits):
    return model, replace(
        splits, train=replace(splits.train, normalisation=Normalisation((0.0,), (1.0,), 16))
    )


def another_nonlinearity(model, splits):
    model.relu2 = nn.Tanh()
    return model, splits


CHANGES = [another_weight, another_image, another_label, another_normalisation, another_nonlinearity]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_is_for_one_model_and_its_images(change, model, digits):
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=1)
    forget_class(*change(model, digits), 3, cache, gcn_steps=1)
    assert len(cache) == 2


@pytest.mark.parametrize(
    ("what", "value"), [("torch.get_num_threads", lambda: 77), ("unlearn.mimu.network.VERSION", -1)]
)
def test_a_network_is_for_one_number_of_threads_and_one_version(what, value, model, digits, monkeypatch):
    cache = {}
    forget_class(model, digits, 3, cache, gcn_steps=1)
    monkeypatch.setattr(what, value)
    forget_class(model, digits, 3, cache, gcn_steps=1)
    assert len(cache) == 2


def test_requests_share_the_training_images_so_that_they_are_hashed_once(digits):
    assert all(ForgetData.of(digits, request).train is digits.train for request in REQUESTS)


def test_a_network_is_for_one_seed(model, digits):
    cache = {}
    for seed in (1, 2, 1):
        forget_class(model, digits, 3, cache, world={"seed": seed}, gcn_steps=1)
    assert len(cache) == 2
    networks = list(cache.values())
    assert not torch.equal(networks[0]["q"], networks[1]["q"])
