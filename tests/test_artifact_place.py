"""Where the artifacts of an experiment are, checked before there are any."""

import shutil

import pytest

from lethe.tracking.artifact_place import check_place, folder_name, new_place


@pytest.fixture(autouse=True)
def folder(tmp_path):
    return tmp_path


def test_an_ordinary_name_is_the_folders():
    assert [folder_name(name) for name in ("digits-mlp", "Größe 1", "a/b")] == [
        "digits-mlp",
        "Größe_1",
        "a_b",
    ]


@pytest.mark.parametrize("name", ["..", ".", "遗忘实验" * 23, "x" * 256])
def test_a_name_that_no_folder_can_have_is_held_all_the_same(name, folder):
    place = folder_name(name)
    (folder / "mlruns" / place).mkdir(parents=True)
    assert (folder / "mlruns" / place).resolve().parent == folder / "mlruns"
    assert folder_name(name[:-1] + "!") != place


def test_artifacts_are_beside_a_sqlite_file_alone(folder):
    assert new_place(folder / "mlflow.db", "a b") == (folder / "mlruns" / "a_b").as_uri()
    assert new_place(None, "a b") is None


@pytest.fixture
def project(folder):
    (folder / "old" / "mlruns" / "own").mkdir(parents=True)
    return folder / "old"


def test_a_place_beside_the_store_is_taken_also_where_it_was_cleaned(project):
    location = (project / "mlruns" / "own").as_uri()
    check_place(location, project / "mlflow.db", "own")
    shutil.rmtree(project / "mlruns")
    check_place(location, project / "mlflow.db", "own")


@pytest.mark.parametrize("copied", [True, False])
def test_a_project_that_was_moved_or_copied_is_told(copied, project, folder):
    location = (project / "mlruns" / "own").as_uri()
    (shutil.copytree if copied else shutil.move)(project, folder / "new")
    with pytest.raises(ValueError, match="was the project moved or copied. Choose another --experiment"):
        check_place(location, folder / "new" / "mlflow.db", "own")


def test_a_place_that_cannot_be_made_is_told(folder):
    (folder / "file").touch()
    with pytest.raises(ValueError, match="file/mlruns/own, which can't be written"):
        check_place((folder / "file" / "mlruns" / "own").as_uri(), folder / "mlflow.db", "own")


@pytest.mark.parametrize("location", ["s3://bucket/own", "mlflow-artifacts:/1"])
def test_a_place_of_another_machine_is_left_to_it(location, folder):
    check_place(location, folder / "mlflow.db", "own")


def test_a_folder_that_another_store_names_is_checked_too(folder):
    (folder / "file").touch()
    with pytest.raises(ValueError, match="which can't be written"):
        check_place(str(folder / "file" / "3"), None, "own")
