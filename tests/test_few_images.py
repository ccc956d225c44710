"""Classes of too few images for a validation part."""

import pytest
from pictures import class_folders

import audit
import main_baseline
import main_ideal
import mlflow_forget
from lethe.experiment import model_sets


def test_too_few_images_a_class_are_refused_before_training(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "own", {"a": 3, "b": 6})
    words = "--unlearn random_mask --arch mlp --epochs 1 --dataset folder:own"
    assert mlflow_forget.main(words.split()) == 2
    told = capfd.readouterr().err
    assert (
        "folder-own: expected a class of at least 6 images beside the test part, of which one is for "
        "validation, got at most 5" in told
    )
    assert "training" not in told


OF_NONE, OF_B_ALONE = {"a": 3, "b": 6}, {"a": 3, "b": 9}  # the classes that have validation images
WITHOUT_B = ["--class_to_replace", "1"]
KLOM, ULIRA = (["klom", "--models", "10"], ["ulira", "--shadows", "16", "--ulira_out", "retrained"])


@pytest.mark.parametrize(
    ("main", "words", "classes"),
    [
        (main_ideal.main, ["--oracles", "2"], OF_NONE),
        (main_ideal.main, ["--shadows", "2"], OF_NONE),
        (main_baseline.main, ["--models", "2"], OF_NONE),
        (audit.main, [*KLOM, "--unlearn", "default"], OF_NONE),
        (audit.main, [*ULIRA, "--unlearn", "default"], OF_NONE),
        (main_ideal.main, ["--oracles", "2", *WITHOUT_B], OF_B_ALONE),
        (audit.main, [*KLOM, "--unlearn", "default", *WITHOUT_B], OF_B_ALONE),
        (audit.main, [*ULIRA, "--unlearn", "default", *WITHOUT_B], OF_B_ALONE),
    ],
)
def test_many_models_are_refused_before_training_too(main, words, classes, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_sets, "fit_many", lambda *_, **__: pytest.fail("something was trained"))
    class_folders(tmp_path / "own", classes)

    assert main([*words, "--arch", "mlp", "--epochs", "1", "--dataset", "folder:own"]) == 2

    told = capfd.readouterr().err
    assert (
        "folder-own: expected a class of at least 6 images beside the test part, of which one is for "
        "validation, got at most" in told
    )
    assert told.count("\n") == 1


@pytest.mark.parametrize(("images", "needed"), [(5, True), (6, False)])
def test_how_many_are_needed(images, needed):
    from lethe.data.splits import FEWEST_IN_CLASS, VALIDATION_SHARE

    assert (round(VALIDATION_SHARE * images) == 0) == needed == (images < FEWEST_IN_CLASS)
