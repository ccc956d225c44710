"""Many models at once: each is what the one training loop makes of it alone, whatever it is stacked with."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation, load_splits
from lethe.models import build
from lethe.training import Recipe, fit, fit_many, generator_for, many, silent
from lethe.training.many import LinearStack, ModuleStack, models_at_once
from lethe.training.many.batches import SharedImages
from lethe.training.many.lockstep import lockstep
from lethe.training.many.threads import side_by_side

ADAMW = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-2}
SGD = {"optimizer": "sgd", "lr": 0.05}


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits", ".").train


def halves(images, count):
    """Another random half of the images for each model."""
    return [
        torch.randperm(len(images), generator=generator_for(k, "half"))[: len(images) // 2].sort().values
        for k in range(count)
    ]


def alone_and_at_once(arch, images, rows, recipe, options=None):
    shape = images.image_shape
    alone, at_once = (
        [build(arch, shape, 10, seed=k, options=options) for k in range(len(rows))] for _ in range(2)
    )
    generators = [[generator_for(k, "train") for k in range(len(rows))] for _ in range(2)]
    histories = [
        fit(m, images.subset(r), recipe, generator=g)
        for m, r, g in zip(alone, rows, generators[0], strict=True)
    ]
    return alone, at_once, histories, fit_many(at_once, images, rows, recipe, generators=generators[1])


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("mlp", Recipe(1, **ADAMW)),
        ("mlp", Recipe(2, **SGD)),
        ("mlp", Recipe(1, **ADAMW, augment=True)),
        ("cnn", Recipe(1, **ADAMW)),
        ("cnn", Recipe(2, **SGD, augment=True)),
    ],
    ids=["mlp", "mlp sgd", "mlp augmented", "cnn", "cnn sgd augmented"],
)
def test_every_model_is_the_one_that_is_trained_alone(arch, recipe, digits):
    alone, at_once, histories, found = alone_and_at_once(arch, digits, halves(digits, 3), recipe)
    for one, other in zip(alone, at_once, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), atol=1e-5, rtol=0)
        assert not any(module.training for module in other.modules())
    for one, other in zip(histories, found, strict=True):
        assert [epoch["score"] for epoch in other] == [epoch["score"] for epoch in one]
        assert [epoch["loss"] for epoch in other] == pytest.approx([epoch["loss"] for epoch in one], rel=1e-5)


@settings(max_examples=12)
@given(
    count=st.integers(1, 4),
    images=st.integers(2, 40),
    batch=st.integers(2, 17),
    hidden=st.lists(st.integers(1, 9), max_size=3),
)
def test_whatever_the_last_batch_is_and_the_layers_are(count, images, batch, hidden, digits):
    recipe = Recipe(2, **ADAMW, batch_size=batch)
    rows = [torch.randperm(len(digits), generator=generator_for(k, "some"))[:images] for k in range(count)]
    alone, at_once, *_ = alone_and_at_once("mlp", digits, rows, recipe, {"hidden": tuple(hidden)})
    for one, other in zip(alone, at_once, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), atol=1e-5, rtol=0)


def test_the_products_of_stacked_matrices_give_autograds_gradients(digits):
    models = [build("mlp", digits.image_shape, 10, seed=k) for k in range(3)]
    x = digits.normalisation(digits.images[:60]).unflatten(0, (3, 20))
    y = digits.labels[:60].view(3, 20)
    stack = LinearStack(models)
    losses, right = stack.gradients(x, y)
    for k, model in enumerate(models):
        logits = model(x[k])
        loss = F.cross_entropy(logits, y[k])
        expected = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close([parameter.grad[k] for parameter in stack.parameters], list(expected))
        assert losses[k].item() == pytest.approx(loss.item(), rel=1e-5)
        assert right[k] == (logits.argmax(1) == y[k]).sum()


@pytest.mark.parametrize(
    ("arch", "recipe", "options"),
    [
        ("mlp", Recipe(1, **ADAMW), None),
        ("cnn", Recipe(2, **ADAMW), None),
        ("cnn", Recipe(1, **SGD, augment=True), None),
        ("resnet18", Recipe(2, **SGD, batch_size=50), {"width": 4}),
    ],
    ids=["mlp", "cnn", "cnn augmented", "resnet18"],
)
def test_any_architecture_can_take_its_steps_at_once(arch, recipe, options, digits):
    """As on a GPU: running statistics too are those of the model that is trained alone."""
    images = digits.subset(torch.arange(100))
    rows = [torch.arange(k, 100, 2) for k in range(2)]
    alone, at_once = (
        [build(arch, images.image_shape, 10, seed=k, options=options) for k in range(2)] for _ in range(2)
    )
    for k, model in enumerate(alone):
        fit(model, images.subset(rows[k]), recipe, generator=generator_for(k, "train"))
    shared = SharedImages(images, torch.device("cpu"), augment=recipe.augment)
    stack, generators = (
        ModuleStack([model.train() for model in at_once]),
        [generator_for(k, "train") for k in range(2)],
    )
    lockstep(stack, shared, rows, recipe, generators=generators, progress=silent, label="")
    for one, other in zip(alone, at_once, strict=True):
        for (name, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4, msg=name)


def with_a_hook(model):
    model[1].register_forward_hook(lambda *_: None)
    return model


def with_a_frozen_layer(model):
    model[1].weight.requires_grad_(False)
    return model


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "model",
    [
        build("cnn", (1, 8, 8), 10, seed=0),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.Tanh(), nn.Linear(5, 10, bias=False)),
        nn.Sequential(nn.Flatten(), Scaled(64, 10, bias=False)),
        nn.Sequential(nn.Flatten(2), nn.Linear(64, 10, bias=False)),
        with_a_hook(build("mlp", (1, 8, 8), 10, seed=0)),
        with_a_frozen_layer(build("mlp", (1, 8, 8), 10, seed=0)),
    ],
    ids=[
        "convolutions",
        "a bias",
        "another activation",
        "a subclass",
        "another flatten",
        "a hook",
        "a frozen layer",
    ],
)
def test_what_is_no_plain_perceptron_is_not_taken_for_one(model):
    assert not LinearStack.takes(model)


def test_a_frozen_layer_stays_where_it_is(digits):
    models = [with_a_frozen_layer(build("mlp", digits.image_shape, 10, seed=k)) for k in range(2)]
    before = copy.deepcopy(models)
    fit_many(
        models, digits, halves(digits, 2), Recipe(1, **SGD), generators=[generator_for(k) for k in range(2)]
    )
    for one, other in zip(before, models, strict=True):
        assert torch.equal(one[1].weight, other[1].weight)
        assert not torch.equal(one[3].weight, other[3].weight)


def test_floats_that_are_no_uint8_images_are_taken_as_they_are():
    images = ImageSet.of_tensors(torch.randn(30, 1, 4, 4), torch.arange(30) % 10)
    alone, at_once, *_ = alone_and_at_once(
        "mlp", images, [torch.arange(30), torch.arange(30)], Recipe(2, **ADAMW, batch_size=8)
    )
    for one, other in zip(alone, at_once, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), atol=1e-5, rtol=0)


def four(classes=10):
    return ImageSet(
        torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        torch.arange(4),
        torch.arange(4),
        Normalisation((0.0,), (1.0,)),
    )


def models_of(*widths):
    return [build("mlp", (1, 2, 2), 10, seed=0, options={"hidden": (width,)}) for width in widths]


@pytest.mark.parametrize(
    ("models", "rows", "message"),
    [
        (
            [],
            [],
            "expected equal numbers of models, sets of images and generators, at least one, got 0, 0 and 0",
        ),
        (models_of(3, 3), [[0]], "got 2, 1 and 1"),
        (models_of(3, 3), [[0, 1], [0]], r"expected the same number of images for every model, got \[1, 2\]"),
        (models_of(3), [[]], "expected at least one image, got none"),
        (models_of(3, 4), [[0], [1]], "expected models of one architecture, got several"),
    ],
)
def test_what_does_not_fit_together_is_refused(models, rows, message):
    rows = [torch.tensor(chosen, dtype=torch.int64) for chosen in rows]
    with pytest.raises(ValueError, match=message):
        fit_many(models, four(), rows, Recipe(1), generators=[generator_for(0) for _ in rows])


def test_a_model_that_diverges_ends_all():
    models = models_of(3, 3)
    with torch.no_grad():
        models[1][1].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="training diverged in epoch 1: the loss is nan"):
        fit_many(
            models, four(), [torch.arange(4)] * 2, Recipe(1), generators=[generator_for(0), generator_for(1)]
        )


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [(1, 2, [1]), (2, 2, [1, 1]), (16, 2, [8, 8]), (17, 2, [5, 6, 6]), (9, 1, [4, 5])],
)
def test_parts_are_small_and_there_is_one_for_every_core(count, threads, sizes, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    parts = many._parts(slice(0, count), 8)
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    assert sorted(len(range(count)[part]) for part in parts) == sizes


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_threads_give_their_results_in_order_and_torch_keeps_its_own(two_threads):
    seen = []

    def work(part, ticking):
        return [(index, torch.get_num_threads()) for index in range(9)[part] for _ in ticking(range(2), "")]

    def progress(steps, label):
        for step in steps:
            seen.append(step)
            yield step

    parts = [slice(0, 3), slice(3, 4), slice(4, 9)]
    found = side_by_side(work, [slice(0, 1), slice(1, 2)], 2, progress, "")
    assert found == [(0, 1), (0, 1), (1, 1), (1, 1)]
    assert seen == [0, 1, 2, 3]
    assert [
        index
        for index, _ in side_by_side(lambda part, _: [(i, 0) for i in range(9)[part]], parts, 0, silent, "")
    ] == list(range(9))


def test_an_error_in_one_thread_ends_the_others(two_threads):
    def work(part, ticking):
        for _ in ticking(range(10**9), ""):
            if part.start == 1:
                raise FloatingPointError("no more")
        return []

    with pytest.raises(FloatingPointError, match="no more"):
        side_by_side(work, [slice(0, 1), slice(1, 2)], 10**9, silent, "")


def test_more_models_at_once_where_they_are_perceptrons(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    perceptron, convolutions = (build(arch, (1, 8, 8), 10, seed=0) for arch in ("mlp", "cnn"))
    assert (models_at_once(perceptron, "cpu"), models_at_once(convolutions, "cpu")) == (16, 2)
