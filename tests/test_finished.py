"""Cut-off runs: those whose owner held the lock that is held now, and no others, though they are of the same job in the same store."""

import socket
from pathlib import Path

import mlflow
import pytest
from own_store import store_in

import mlflow_forget
from tracking.finished import end_cut_off_runs, tags_of
from training.file_lock import locked

HASH = "a" * 64


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(tmp_path))


def running(tags: dict[str, str]) -> str:
    """A run that says RUNNING, as its process left it."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name("e")
    return client.create_run(found.experiment_id if found else client.create_experiment("e"), tags=tags).info.run_id


def status(run: str) -> str:
    return mlflow.MlflowClient().get_run(run).info.status


def test_a_run_of_the_same_lock_was_cut_off():
    with locked(Path("results") / HASH) as lock:
        run = running(tags_of(HASH, lock))
    Path("link").symlink_to("results")
    with locked(Path("link") / HASH) as lock:  # the same folder by another name
        end_cut_off_runs(("e", HASH), lock)
    assert status(run) == "KILLED"
    assert mlflow.MlflowClient().get_run(run).data.tags["error"].startswith("killed, with its process (")


def test_a_run_of_another_folder_goes_on():
    """Its process shares the store, not the lock."""
    with locked(Path("theirs") / HASH) as theirs:
        run = running(tags_of(HASH, theirs))
        with locked(Path("ours") / HASH) as ours:
            end_cut_off_runs(("e", HASH), ours)
    assert status(run) == "RUNNING"


@pytest.mark.parametrize("owner", ["elsewhere 1 {lock}", "{host} 1", "{host} 1 {lock}.old", "{host}", ""])
def test_a_run_of_another_machine_or_of_an_unknown_lock_is_left_alone(owner):
    with locked(Path("results") / HASH) as lock:
        run = running(tags_of(HASH, lock) | {"owner": owner.format(host=socket.gethostname(), lock=lock)})
        end_cut_off_runs(("e", HASH), lock)
    assert status(run) == "RUNNING"


def test_a_lock_whose_path_has_spaces():
    with locked(Path("two words") / HASH) as lock:
        run = running(tags_of(HASH, lock))
        end_cut_off_runs(("e", HASH), lock)
    assert status(run) == "KILLED"


def test_the_same_job_from_another_folder_is_left_alone_and_from_the_same_one_ended(capsys):
    """As a person runs it: the job's hash knows no folder."""
    words = ["--unlearn", "random_mask", "--kappa", "3", "--epochs", "1", "--ideal", "skip", "--report", "skip", "--skip_finished"]
    assert mlflow_forget.main([*words, "--save_dir", "theirs"]) == 0
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits-mlp").experiment_id])
    client.update_run(run.info.run_id, status="RUNNING")

    assert mlflow_forget.main([*words, "--save_dir", "ours"]) == 0
    assert status(run.info.run_id) == "RUNNING"

    client.update_run(
        next(other for other in client.search_runs([run.info.experiment_id]) if other.info.run_id != run.info.run_id).info.run_id,
        status="FAILED",
    )
    assert mlflow_forget.main([*words, "--save_dir", "theirs"]) == 0
    assert status(run.info.run_id) == "KILLED"
