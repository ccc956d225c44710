"""Every method runs on every architecture, or refuses with the reason."""

import functools

import pytest
import torch

from lethe.data import ForgetRequest, ImageSet, Normalisation, Splits
from lethe.models import ARCHITECTURES, build
from lethe.training import Recipe, fit
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from tests import short_log

pytestmark = pytest.mark.slow

CLASSES, PER_CLASS = 3, 6
NARROW = {
    **{name: {"width": 4} for name in ("resnet18", "HookedResnet", "vgg16_bn")},
    "cnn": {"channels": (4, 8), "hidden": 8},
    "vit_tiny": {"depth": 1, "dim": 24, "heads": 2},
}
SHAPES = {"grey": (1, 8, 8), "colour": (3, 12, 12)}
DEEPER = ("resnet34", "resnet50")  # resnet18 with more of the same
MODELS = [
    (entry.name, kind)
    for entry in ARCHITECTURES
    for kind in SHAPES
    if entry.name not in DEEPER and (entry.name, kind) != ("resnet9", "grey")
]  # resnet9 is for images from 11 pixels on
NO_KERNEL = "expected a model with a square convolution kernel larger than 1 x 1"
NOT_LAST = "expected a model whose last linear layer gives its 3 logits"  # what resnet9 multiplies by 0.2
REFUSED = {
    **{
        ("CT", arch, kind): NO_KERNEL
        for arch, kind in (("mlp", "grey"), ("mlp", "colour"), ("vit_tiny", "grey"))
    },
    **{
        (name, "resnet9", "colour"): NOT_LAST
        for name in (
            "boundary_expanding",
            "fisher",
            "fisher_new",
            "CFk",
            "EUk",
            "Scissorhands",
            "ESC",
            "ESC_T",
            "DEL",
            "DUCK",
            "kgltop6",
            "kgltop7",
        )
    },
}
ALONE = [entry for entry in METHODS if not entry.facts.add_on]  # a joint name is its method's loop again


def images_of(shape, per_class, seed):
    labels = torch.arange(CLASSES).repeat(per_class)
    images = torch.randint(120, (len(labels), *shape), generator=torch.Generator().manual_seed(seed))
    images[torch.arange(len(labels)), :, labels] += 120
    images = images.to(torch.uint8)
    return ImageSet(images, labels, torch.arange(len(labels)), Normalisation.of(images, 255))


@functools.cache
def splits_of(kind):
    sets = (images_of(SHAPES[kind], count, seed) for seed, count in enumerate((PER_CLASS, 3, 3)))
    return Splits(*sets, "stripes", tuple("abc"), 0)


@functools.cache
def trained(arch, kind, request=None):
    """A few steps; without the request's images where one is given."""
    splits = splits_of(kind)
    model = build(arch, SHAPES[kind], CLASSES, seed=1, options=NARROW.get(arch))
    images = splits.train if request is None else request.divide(splits.train, CLASSES, 0).retain
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        fit(
            model,
            images,
            Recipe(3, "adamw", lr=3e-3, batch_size=9),
            generator=torch.Generator().manual_seed(0),
        )
    return model


def quick(entry):
    """One epoch, two steps, few images, under whatever name a method has them."""
    less = {"epochs": 1, "steps": 2, "batch_size": 9, "noise_images": 9, "noise_copies": 2}
    return {
        name: value
        for name in entry.hyperparameters
        for ending, value in less.items()
        if name.endswith(ending)
    }


@pytest.mark.parametrize(("arch", "kind"), MODELS)
@pytest.mark.parametrize("entry", ALONE, ids=lambda entry: entry.name)
def test_it_runs_or_says_why_not(entry, arch, kind):
    request = ForgetRequest((1,))
    ideal = trained(arch, kind, request)
    oracles = Oracles(lambda seeds: [ideal for _ in seeds], judges=(1,))
    data = ForgetData.of(
        splits_of(kind), request, ideal=lambda: ideal, oracles=oracles, updates=short_log.updates
    )
    model = trained(arch, kind)
    if (entry.name, arch, kind) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[entry.name, arch, kind]):
            unlearn(entry.name, model, data, **quick(entry))
        return
    result = unlearn(entry.name, model, data, **quick(entry))
    x, _ = next(data.retain.batches(5))
    logits = result.model(x)
    assert logits.shape == (5, CLASSES)
    assert logits.isfinite().all()
