"""A store and an experiment that many jobs make at once, on several machines; the file that a URI names."""

import os
import socket
import subprocess
import sys

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS

from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_model_command import Training
from lethe.experiment.run_config import PipelineConfig
from lethe.sweeps import run as grid_run
from lethe.sweeps.job_queue import Job
from lethe.system.temporary_files import temporary_name
from lethe.tracking import store
from lethe.tracking.finished import finished_keys
from lethe.tracking.store import open_experiment
from lethe.tracking.store_file import clean_beside
from lethe.tracking.store_uri import database_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """Makes an empty file for a store, and has MLflow's client answer from a mapping of names."""
    monkeypatch.setattr(store, "_create", lambda file: file.touch())


class Client:
    """A store in which another machine has made the experiment between the question and the creation."""

    made = False

    def get_experiment_by_name(self, name):
        return mlflow.entities.Experiment("7", name, "here", "active") if self.made else None

    def create_experiment(self, name, **_):
        self.made = True
        raise MlflowException(f"Experiment(name={name}) already exists", RESOURCE_ALREADY_EXISTS)


def test_an_experiment_that_another_machine_made_meanwhile_is_the_one(monkeypatch, made):
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    assert open_experiment("new") == "7"


def test_no_lock_is_left_beside_the_store(folder):
    open_experiment("new")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


def test_what_another_process_makes_a_store_of_is_left_to_it(folder):
    here, alive = socket.gethostname(), os.getppid()
    names = {f"mlflow.db.{alive}@{here}.partial", f"mlflow.db.{alive}@another.machine.partial"}
    for name in names:
        (folder / name).touch()
    clean_beside(folder / "mlflow.db")
    assert {path.name for path in folder.iterdir()} == names


def test_a_process_of_the_same_number_in_another_container_is_left_its_half_of_a_store(folder):
    half = temporary_name(folder / "mlflow.db")
    half.write_bytes(b"half of a store")
    store._create(folder / "mlflow.db")
    assert half.read_bytes() == b"half of a store"
    assert (folder / "mlflow.db").stat().st_size > len(b"half of a store")


def test_a_file_system_without_hard_links_gets_its_store(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store._create(folder / "mlflow.db")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("ending", ["", "-journal", "-wal", "-shm"])
def test_what_a_killed_process_left_of_a_store_goes_though_the_store_is_there(folder, ending):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    (folder / f"mlflow.db.{gone.pid}@{socket.gethostname()}.partial{ending}").touch()
    (folder / "mlflow.db.backup.partial").touch()
    clean_beside(folder / "mlflow.db")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db.backup.partial"]


def test_the_store_and_the_experiments_are_there_before_a_worker_is():
    bases = [BaseConfig(), BaseConfig(seed=2), BaseConfig(arch="cnn")]
    configs = [PipelineConfig("SSD", base=base) for base in bases] + [PipelineConfig("SSD", experiment="own")]
    jobs = [Job(("mlflow_forget.py",), config) for config in configs]
    jobs.append(Job(("main_baseline.py",), Training("initial", BaseConfig(), {})))
    assert grid_run.finished_in_store(jobs) == set()
    assert {one.name for one in mlflow.search_experiments()} == {"Default", "digits-mlp", "digits-cnn", "own"}


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:////a/b.db?timeout=60", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=60&x=1", "/a/b.db"),
        ("file:///a", None),
        ("postgresql://a/b", None),
    ],
)
def test_the_file_that_a_uri_names(uri, file):
    assert database_of(uri) is None if file is None else str(database_of(uri)) == file


def test_options_of_a_sqlite_uri_are_none_of_its_files_name(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}?timeout=60")
    assert finished_keys() == set()
    open_experiment("new")
    assert {path.name for path in folder.iterdir()} == {"mlflow.db"}
    assert finished_keys() == set()


def test_a_place_where_no_store_can_be_is_left_as_it_was(folder, monkeypatch):
    (folder / "notes.txt").write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'notes.txt'}")
    reason = r"can't be used \(file is not a database\)\. Correct or unset MLFLOW_TRACKING_URI"
    with pytest.raises(ValueError, match=reason):
        open_experiment("new")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_store_in_a_new_folder_is_made_with_it(folder, monkeypatch, made):
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'new' / 'mlflow.db'}")
    open_experiment("new")
    assert (folder / "new" / "mlflow.db").exists()


def test_a_queue_may_begin_a_file_store(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "new" / "mlruns").as_uri())
    assert (
        grid_run.finished_in_store([Job(("mlflow_forget.py", "--unlearn", "SSD"), PipelineConfig("SSD"))])
        == set()
    )
    assert {one.name for one in mlflow.search_experiments()} == {"Default", "digits-mlp"}
