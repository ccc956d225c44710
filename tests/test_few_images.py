"""Classes of too few images for a validation part."""

import pytest
from pictures import class_folders

import mlflow_forget


def test_too_few_images_a_class_are_refused_before_training(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "own", {"a": 3, "b": 6})
    assert mlflow_forget.main(["--unlearn", "random_mask", "--arch", "mlp", "--epochs", "1", "--dataset", "folder:own"]) == 2
    told = capfd.readouterr().err
    assert "folder-own: expected a class of at least 6 images beside the test part, of which one is for validation, got at most 5" in told
    assert "training" not in told


@pytest.mark.parametrize(("images", "needed"), [(5, True), (6, False)])
def test_how_many_are_needed(images, needed):
    from vision_data.splits import FEWEST_IN_CLASS, VALIDATION_SHARE

    assert (round(VALIDATION_SHARE * images) == 0) == needed == (images < FEWEST_IN_CLASS)
