"""--unlearn_augment: what auto means for which method, what a run says of it, and mistakes."""

from types import SimpleNamespace

import pytest

import mlflow_forget
from lethe.data import DATASETS
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.identity import config_hash_of, run_params
from lethe.experiment.pipeline import Pipeline, Trained, augmentation_of
from lethe.experiment.run_config import AUGMENT_AUTO, PipelineConfig
from lethe.unlearn import METHODS

FLIPPED = {"train_augment": ("flip",)}


@pytest.fixture(autouse=True)
def no_store(empty_place, monkeypatch):
    monkeypatch.setattr("lethe.experiment.pipeline.check_store", lambda name: None)


def job(method="FT", asked=AUGMENT_AUTO, training=None):
    base = BaseConfig(epochs=1, training=training or {})
    return Pipeline(PipelineConfig(method, base=base, ideal="skip", unlearn_augment=asked)).checked


def hash_of(made):
    initial = Trained(made.base.untrained(), made.base.initial_path, None, True, 0.0, [])
    return config_hash_of(made, initial, None)


@pytest.mark.parametrize(
    ("dataset", "method", "kinds"),
    [
        *((dataset, "FT", ("crop", "flip")) for dataset in ("CIFAR10", "CIFAR100", "STL10", "TinyImageNet")),
        *((dataset, "FT", ()) for dataset in ("digits", "MNIST", "FashionMNIST")),
        ("CIFAR10", "NGSalUn", ("crop", "flip")),
        ("CIFAR10", "SSD", ()),
        ("CIFAR10", "MIMU", ()),
    ],
)
def test_auto_is_what_the_base_models_recipe_does_where_the_method_trains(dataset, method, kinds):
    recipe = SimpleNamespace(augment=DATASETS[dataset].facts.augment)
    assert augmentation_of(AUGMENT_AUTO, METHODS[method], SimpleNamespace(recipe=recipe)) == kinds


def test_a_method_of_a_persons_own_file_gets_what_is_asked_for(tmp_path):
    (tmp_path / "mine.py").write_text("def method(model, data, *, times: int = 1):\n    return model\n")
    assert job("mine.py:method", training=FLIPPED).data.augment == ("flip",)
    assert job("mine.py:method", ("cutout",)).data.augment == ("cutout",)


@pytest.mark.parametrize(
    ("asked", "training", "kinds", "said"),
    [
        (AUGMENT_AUTO, {}, (), "none"),
        (AUGMENT_AUTO, FLIPPED, ("flip",), "flip"),
        (("none",), FLIPPED, (), "none"),
        (("flip", "crop"), {}, ("crop", "flip"), "crop,flip"),
    ],
)
def test_the_methods_data_and_the_params_have_what_it_comes_to(asked, training, kinds, said):
    made = job("FT", asked, training)
    assert made.data.augment == kinds
    assert run_params(made)["unlearn_augment"] == said


def test_the_hash_says_what_is_augmented_and_only_where_something_is():
    plain = hash_of(job("FT"))
    assert plain == hash_of(job("FT", ("none",))) != hash_of(job("FT", ("flip",)))
    augmented = hash_of(job("FT", AUGMENT_AUTO, FLIPPED))
    assert augmented == hash_of(job("FT", ("flip",), FLIPPED)) != hash_of(job("FT", ("none",), FLIPPED))
    assert hash_of(job("SSD", AUGMENT_AUTO, FLIPPED)) == hash_of(job("SSD", ("none",), FLIPPED))


def test_a_run_is_named_after_what_was_asked_for():
    assert job("FT").name == "FT class0 seed1"
    assert job("FT", ("crop", "flip")).name == "FT class0 seed1 unlearn_augment=crop,flip"


KINDS, TOO_SMALL = (
    "some of crop, flip, cutout, got",
    "augmentation crop: expected images of at least 8 x 8 pixels, got 4 x 4. Leave crop out",
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--unlearn FT --unlearn_augment crop,mixup",
            f"--unlearn_augment: augmentation: expected {KINDS} 'mixup'.",
        ),
        (
            "--unlearn FT --unlearn_augment none,crop",
            f"--unlearn_augment: expected none alone, or {KINDS} none,crop.",
        ),
        ("--unlearn FT --unlearn_augment ,", f"--unlearn_augment: expected none alone, or {KINDS} nothing."),
        (
            "--unlearn SSD --unlearn_augment flip",
            "--unlearn_augment: SSD does not train on augmented images ",
        ),
        ("--unlearn FT --dataset tiny.py:images --unlearn_augment crop", f"--unlearn_augment: {TOO_SMALL}"),
        ("--unlearn FT --dataset tiny.py:images --train_augment crop", f"--train_augment: {TOO_SMALL}"),
    ],
)
def test_a_mistake_is_one_line(flags, message, tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(
        "import torch\nfrom lethe.data import RawDataset\n\n\n"
        "def images(folder):\n"
        "    part = torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.arange(40) % 2\n"
        "    return RawDataset(part, part, ('a', 'b'))\n"
    )
    assert mlflow_forget.main(["--ideal", "skip", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
