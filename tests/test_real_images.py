"""The published files, where they are at hand in ./data (README says how they get there)."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from lethe.data import ForgetRequest, load_splits
from lethe.evaluation import outputs_of
from lethe.models import ARCHITECTURES, build
from lethe.training import Recipe, fit, generator_for
from lethe.unlearn import ForgetData, unlearn

DATA = Path(__file__).parent.parent / "data"
FILES = {
    "MNIST": "MNIST/raw/train-images-idx3-ubyte",
    "FashionMNIST": "FashionMNIST/raw/train-images-idx3-ubyte",
    "CIFAR10": "cifar-10-batches-py/data_batch_1",
}


@pytest.fixture(scope="module")
def real():
    """The splits of a dataset whose files are there, read once for the tests of this module."""
    read = cache(lambda dataset: load_splits(dataset, DATA))

    def of(dataset):
        if not (DATA / FILES[dataset]).exists():
            pytest.skip(f"{dataset}'s files are not in {DATA}")
        return read(dataset)

    return of


@pytest.mark.parametrize(
    ("dataset", "shape", "mean", "first_labels"),
    [
        ("MNIST", (1, 28, 28), (0.1307,), [7, 2, 1, 0, 4]),
        ("FashionMNIST", (1, 28, 28), (0.2860,), [9, 2, 1, 1, 6]),
        ("CIFAR10", (3, 32, 32), (0.4914, 0.4822, 0.4465), [3, 8, 8, 0, 6]),
    ],
)
def test_the_published_images(real, dataset, shape, mean, first_labels):
    splits = real(dataset)
    assert splits.train.image_shape == shape
    assert len(splits.train) + len(splits.validation) == (50_000 if dataset == "CIFAR10" else 60_000)
    assert len(splits.test) == 10_000
    assert splits.test.labels[:5].tolist() == first_labels
    assert splits.train.normalisation.mean == pytest.approx(mean, abs=2e-3)
    per_class = torch.bincount(torch.cat([splits.train.labels, splits.validation.labels]))
    assert torch.bincount(splits.validation.labels).tolist() == [
        round(0.1 * count) for count in per_class.tolist()
    ]


def test_cifar10_is_in_memory_once(real):
    splits = real("CIFAR10")
    division = ForgetRequest((3,)).divide(splits.train, 10, 0)
    forget, retain = division.forget, division.retain
    bases = {
        id(part.images.base): part.images.base for part in (splits.train, splits.validation, forget, retain)
    }
    assert len(bases) == 1
    assert next(iter(bases.values())).nbytes + splits.test.images.nbytes == 60_000 * 3 * 32 * 32


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST"])
def test_mimu_forgets_a_class_of_real_images(real, dataset):
    """A fifth of the training images: what is tested is that MIMU reads them."""
    splits = real(dataset)
    splits = replace(splits, train=splits.train.subset(torch.arange(0, len(splits.train), 5)))
    facts = ARCHITECTURES["mlp"].facts
    model = build("mlp", splits.train.image_shape, 10, seed=1)
    recipe = Recipe(1, facts.optimizer, facts.lr, facts.batch_size, facts.weight_decay)
    fit(model, splits.train, recipe, generator=generator_for(1, "train"))
    data = ForgetData.of(splits, ForgetRequest((3,)), seed=1)

    unlearned = unlearn("MIMU", model, data).model

    def scores(model):
        correct = outputs_of(model, splits.validation.batches(2000)).correct
        of_class = splits.validation.labels == 3
        return [100 * correct[which].float().mean().item() for which in (of_class, ~of_class)]

    before, after = scores(model), scores(unlearned)
    assert before[0] > 80
    assert after[0] < 5
    assert after[1] > before[1] - 3


@pytest.mark.slow
def test_mimu_reads_a_residual_network_on_real_images(real):
    splits = real("CIFAR10")
    rows = torch.arange(200)
    few = replace(
        splits,
        train=splits.train.subset(rows),
        validation=splits.validation.subset(rows),
        test=splits.test.subset(rows),
    )
    model = build("HookedResnet", (3, 32, 32), 10, seed=1)
    data = ForgetData.of(few, ForgetRequest((3,)), seed=1)

    unlearned = unlearn("MIMU", model, data, kappa=0.1, gcn_steps=2)

    assert unlearned.mask is not None
    assert unlearned.mask.layer == "fc.hooked"
    assert unlearned.mask.keep.shape == (128, 512)
    assert unlearned.mask.kappa_count == round(0.1 * 128 * 512)
    changed = [
        name
        for name, value in unlearned.model.state_dict().items()
        if not torch.equal(value, model.state_dict()[name])
    ]
    assert changed == ["fc.hooked.weight"]
