"""cnn and vgg16_bn: every size of image, the split at the masked layer, a step of training."""

import copy

import pytest
import torch
from torch import nn

import lethe.models.cnn
import lethe.models.vgg  # noqa: F401 (registers itself)
from lethe.data import ImageSet, Normalisation
from lethe.models import build, split_at
from lethe.training import Recipe, fit

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]
NARROW = {"cnn": {}, "vgg16_bn": {"width": 8}}
every_model = pytest.mark.parametrize("arch", NARROW)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def images(shape, count=3):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@every_model
@every_shape
def test_it_gives_logits_for_images_of_every_size(arch, shape):
    logits = build(arch, shape, 7, seed=1, options=NARROW[arch])(images(shape))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@every_model
@every_shape
def test_the_masked_layer_splits_the_model(arch, shape):
    model = build(arch, shape, 7, seed=1, options=NARROW[arch])
    x = images(shape)
    layer = split_at(model, model.mask_layer, x)
    assert not layer.needs_images
    assert layer.shape == {"cnn": (128, 256), "vgg16_bn": (64, 64)}[arch]
    torch.testing.assert_close(layer.head(layer.layer(layer.body(x)), None), model(x))


@every_model
@every_shape
def test_it_trains_a_step(arch, shape):
    model = build(arch, shape, 3, seed=1, options=NARROW[arch])
    before = copy.deepcopy(model.state_dict())
    pixels = torch.randint(256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    few = ImageSet(pixels, torch.arange(6) % 3, torch.arange(6), Normalisation.of(pixels, 255))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        fit(model, few, Recipe(1, "adamw", lr=1e-3, batch_size=6), generator=torch.Generator().manual_seed(0))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name, _ in model.named_parameters()} <= moved | bias_before_norm(model)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def bias_before_norm(model):
    """Biases that a batch norm right after takes out again: their gradient is 0 but for rounding."""
    names, modules = zip(*model.named_modules(), strict=True)
    follow = zip(names, modules, modules[1:], strict=False)
    return {
        f"{name}.bias"
        for name, m, after in follow
        if isinstance(m, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    }


@every_model
def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone(arch):
    before = torch.get_rng_state()
    one, again, other = (
        build(arch, (1, 8, 8), 3, seed=seed, options=NARROW[arch]).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    matrices = [name for name, value in one.items() if value.ndim > 1]
    assert matrices and not any(torch.equal(one[name], other[name]) for name in matrices)


def test_vgg16_bn_has_14_723_136_parameters_in_its_features():
    model = build("vgg16_bn", (3, 32, 32), 10, seed=1)
    assert sum(p.numel() for p in model.features.parameters()) == 14_723_136
    assert [tuple(p.shape) for p in model.classifier.parameters()] == [(512, 512), (512,), (10, 512), (10,)]


@pytest.mark.parametrize(("side", "poolings"), [(1, 0), (3, 1), (8, 3), (28, 4), (31, 4), (32, 5), (64, 5)])
def test_vgg16_bn_pools_as_often_as_the_image_can_be_halved(side, poolings):
    model = build("vgg16_bn", (1, side, side), 2, seed=1, options={"width": 8})
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == poolings
    assert model(images((1, side, side))).shape == (3, 2)


def test_the_stages_of_the_cnn_are_an_option():
    model = build("cnn", (3, 32, 32), 10, seed=1, options={"channels": (4, 6, 8), "hidden": 5})
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == [
        (4, 3, 3, 3),
        (6, 4, 3, 3),
        (8, 6, 3, 3),
        (5, 32),
        (10, 5),
    ]


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("cnn", {"channels": (0,)}, "--channels: expected an integer >= 1, or several"),
        ("cnn", {"hidden": 0}, "--hidden: expected an integer >= 1, got 0"),
        (
            "cnn",
            {"channels": (4, 4, 4, 4)},
            "--channels: expected images of at least 16 x 16 pixels for 4 stages, got 8 x 8",
        ),
        ("vgg16_bn", {"width": 0}, "--width: expected an integer >= 1, got 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(arch, options, message):
    with pytest.raises(ValueError, match=message):
        build(arch, (1, 8, 8), 10, seed=1, options=options)
