"""How a run of the main job ends that an exception, Ctrl-C or a signal stops."""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from tests.main_job_runs import (
    RANDOM,
    all_runs,
    artifacts_of,
    call,
    default_store,  # noqa: F401
    files_below,
    fixture_folder,  # noqa: F401
)
from tests.warm_processes import (
    command,
    ended,
    fixture_begin,  # noqa: F401
    fixture_warm,  # noqa: F401
    until,
)

pytestmark = pytest.mark.slow


FEW = ("--metrics", "forget_score", "--report", "skip")


def test_an_exception_ends_the_run_failed(folder):
    with pytest.raises(RuntimeError, match="the weights fell out"):
        call(folder, "--unlearn", "mine.py:broken", "--epochs", "2")
    run = all_runs(folder)[-1]
    trace = (artifacts_of(run) / "error.txt").read_text()

    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "RuntimeError: the weights fell out"
    assert "Traceback (most recent call last)" in trace
    assert "in broken" in trace
    assert mlflow.active_run() is None


def test_ctrl_c_ends_the_run_killed(folder):
    outcome = call(folder, "--unlearn", "mine.py:stopped", "--epochs", "2")

    assert outcome.code == 130
    assert outcome.run.info.status == "KILLED"
    assert "interrupted" in outcome.err
    assert "Traceback" not in outcome.err
    assert call(folder, *RANDOM, *FEW).run.info.status == "FINISHED"


def test_ctrl_c_in_one_of_several_ends_all_that_run_killed(folder):
    outcome = call(folder, "--unlearn", "mine.py:stopped", "--epochs", "2", "--seed", "1", "2")

    assert outcome.code == 130
    assert [run.info.status for run in outcome.runs] == ["KILLED", "KILLED"]  # the parent and its first child


def training(folder: Path) -> bool:
    """Whether the run has noted its settings, after which it trains. Read beside the job, without disturbing
    it.
    """
    if not (folder / "mlflow.db").exists():
        return False
    with (
        closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as store,
        contextlib.suppress(sqlite3.OperationalError),
    ):
        return bool(
            store.execute(
                "SELECT 1 FROM params JOIN runs USING (run_uuid) WHERE status = 'RUNNING'"
            ).fetchall()
        )
    return False


def test_signals_end_a_training_run_killed_and_the_next_start_works(tables, tmp_path_factory, begin):
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143}
    folders = {name: tmp_path_factory.mktemp(name.name) for name in expected}
    for place in folders.values():
        shutil.copy(tables, place)
    endless = "--unlearn random_mask --epochs 1000000".split()
    processes = {
        name: begin(command, "mlflow_forget", *endless, folder=place) for name, place in folders.items()
    }
    for name, process in processes.items():
        until(lambda own=folders[name]: training(own), 60)
        time.sleep(0.1)
        os.kill(process.pid, name)
        code = ended(process, 30)
        err = (folders[name] / "err").read_text()

        assert code == expected[name], err
        assert "Traceback" not in err
        assert all_runs(folders[name])[-1].info.status == "KILLED"
        assert {
            file for file in files_below(folders[name] / "results") if not file.endswith((".state", ".lock"))
        } == set()
        assert call(folders[name], *RANDOM, *FEW).run.info.status == "FINISHED"
