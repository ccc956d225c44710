"""Runs whose processes are gone are ended; those of processes that go on, here or elsewhere, are not."""

import os
import signal
import socket
import subprocess
import sys
import tempfile

import mlflow
import pytest
from own_store import store_in

import mlflow_forget
from lethe.tracking.alive import OWNER, Claim
from lethe.tracking.finished import end_abandoned_runs
from lethe.tracking.run import tracked_run
from tests.warm_processes import ended, fixture_begin, fixture_warm  # noqa: F401

HERE = socket.gethostname()
TOKEN = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_in(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def running(owner: str) -> str:
    """A run that says RUNNING, as its process left it."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name("e")
    run = client.create_run(
        found.experiment_id if found else client.create_experiment("e"), tags={OWNER: owner}
    )
    return str(run.info.run_id)


def status(run: str) -> str:
    return str(mlflow.MlflowClient().get_run(run).info.status)


def test_a_run_whose_lock_nobody_holds_was_cut_off(tmp_path):
    claim = Claim()
    run = running(claim.owner)
    end_abandoned_runs()
    assert status(run) == "RUNNING"

    claim.release(ended=False)
    end_abandoned_runs()
    ended = mlflow.MlflowClient().get_run(run)
    assert ended.info.status == "KILLED" and ended.info.end_time >= ended.info.start_time
    assert ended.data.tags["error"].startswith("its process ended before it did, or lost the tracking store")
    assert list(tmp_path.glob("lethe-runs-*/*")) == []


def test_a_run_whose_lock_is_not_there_was_cut_off_if_its_process_has_died(gone):
    """A machine that has started again has an empty folder of temporary files."""
    cut_off, goes_on = running(f"{HERE} {gone} {TOKEN}"), running(f"{HERE} 1 {TOKEN}")
    end_abandoned_runs()
    assert (status(cut_off), status(goes_on)) == ("KILLED", "RUNNING")


def test_runs_of_other_machines_and_of_who_knows_are_left_alone(gone):
    owners = [f"elsewhere {gone} {TOKEN}", f"{HERE} {gone}", HERE, "", f"{HERE} {gone} /results/locks/a.lock"]
    runs = [running(owner) for owner in owners]
    end_abandoned_runs()
    assert {status(run) for run in runs} == {"RUNNING"}


def test_a_store_names_no_path_that_is_opened(tmp_path, gone):
    """A lock is opened to be written."""
    (tmp_path / "mine.lock").write_text("kept")
    running(f"{HERE} {gone} ../mine")
    end_abandoned_runs()
    assert (tmp_path / "mine.lock").read_text() == "kept"


def test_a_run_that_ended_itself_meanwhile_stays_as_it_ended(monkeypatch):
    run = running(f"{HERE} 1 {TOKEN}")

    def ends_now(owner: str) -> bool:
        mlflow.MlflowClient().set_terminated(run, "FINISHED")
        return True

    monkeypatch.setattr("lethe.tracking.finished.has_died", ends_now)
    end_abandoned_runs()
    assert status(run) == "FINISHED"


def killed_in_a_run(temporary):
    tempfile.tempdir = temporary
    with tracked_run("other", "killed"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_run_that_the_next_one_ends(tmp_path, begin):
    """In whatever experiment, and where the next one finds its own job done and runs nothing."""
    words = "--unlearn random_mask --kappa 3 --epochs 1 --ideal skip --report skip --skip_finished".split()
    assert mlflow_forget.main(words) == 0
    assert ended(begin(killed_in_a_run, str(tmp_path))) == -signal.SIGKILL

    assert mlflow_forget.main(words) == 0
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert sorted((run.info.run_name.split()[0], run.info.status) for run in found) == [
        ("killed", "KILLED"),
        ("random_mask", "FINISHED"),
    ]
