"""A store that is lost while a run goes on: the run goes on, what the store did not take is kept, and the
next run ends it.
"""

import errno
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import mlflow_forget
from lethe.experiment import pipeline
from lethe.tracking import patience
from lethe.tracking.run import StoreLost, tracked_run
from tests.own_store import there  # noqa: F401 (a fixture of every test here)

WRITES = ("log_batch", "log_artifact", "log_inputs", "set_terminated", "set_tag")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lost")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(patience, "_given_up", False)


class Lock:
    """Another program's lock on the store, as MLflow meets it: for every write, or for some of them."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()

    def take(self, *names: str) -> None:
        def raising(*_: object, **__: object) -> None:
            raise MlflowException("database") from sqlite3.OperationalError("database is locked")

        for name in names or WRITES:
            self.patch.setattr(MlflowClient, name, raising)

    def give_back(self) -> None:
        self.patch.undo()


@pytest.fixture
def lock() -> Iterator[Lock]:
    taken = Lock()
    yield taken
    taken.give_back()


@pytest.fixture
def refusing(monkeypatch) -> None:
    """A server that takes no files."""

    def refuse(*_, **__):
        raise MlflowException("403: files are not for you")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)


def kept_of(run_id: str) -> list[dict]:
    content = json.loads(Path("eval/unlogged", run_id, "entries.json").read_text())
    assert content["run_id"] == run_id
    entries: list[dict] = content["entries"]
    return entries


def status(run_id: str) -> str:
    return str(MlflowClient().get_run(run_id).info.status)


def test_what_a_lost_store_did_not_take_is_kept(lock):
    said = r"was lost \(database is locked\)\. What run \w+ could not log is in .*eval/unlogged/"
    with pytest.raises(StoreLost, match=said) as lost, tracked_run("lost", "all") as run:
        run.params({"before": 1})
        lock.take()
        run.metrics({"score": 0.1 + 0.2}, step=3)
        run.tags({"verdict": "forgets"})
        run.text("a page", "pages/report.html")
    batch, tags, page = kept_of(run.run_id)
    assert (batch["points"][0]["name"], batch["points"][0]["value"], batch["points"][0]["step"]) == (
        "score",
        0.1 + 0.2,
        3,
    )
    assert tags["tags"] == {"verdict": "forgets"}
    assert Path(page["path"]).read_text() == "a page" and page["folder"] == "pages"
    assert "It says RUNNING until the next run on this machine begins, which ends it" in str(lost.value)

    lock.give_back()
    assert status(run.run_id) == "RUNNING"
    with tracked_run("lost", "next"):
        pass
    assert status(run.run_id) == "KILLED"


def test_a_store_that_is_back_at_the_end_has_all_of_it(lock, tmp_path):
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    with tracked_run("lost", "back") as run:
        lock.take("log_batch", "log_artifact")
        run.metrics({"score": 2.0})
        run.file(file)
        file.unlink()
        lock.give_back()
    logged = MlflowClient().get_run(run.run_id)
    assert (logged.info.status, logged.data.metrics) == ("FINISHED", {"score": 2.0})
    assert [one.path for one in MlflowClient().list_artifacts(run.run_id)] == ["manifest.json", "model.bin"]
    assert not Path("eval/unlogged", run.run_id).exists()


def test_a_full_disk_that_the_store_shares_ends_the_run_in_one_line(lock, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(StoreLost, match=r"but not all of it \(No space left on device\)"),
        tracked_run("lost", "full") as run,
    ):
        lock.take()
        monkeypatch.setattr("shutil.copy", full)
        monkeypatch.setattr(Path, "write_text", full)
        run.metrics({"score": 2.0})
        file = Path("model.bin")
        file.write_bytes(b"weights")
        run.file(file)
    assert status(run.run_id) == "RUNNING"


def test_a_file_that_nothing_had_room_for_fails_the_run_though_the_store_is_back(lock, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said = r"no room for weights\.bin.*but not all of it \(No space left on device\): lost are weights\.bin"
    with pytest.raises(StoreLost, match=said), tracked_run("lost", "room") as run:
        lock.take()
        run.metrics({"score": 2.0})
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copy", full)
            file = Path("weights.bin")
            file.write_bytes(b"weights")
            run.file(file)
        lock.give_back()
    logged = MlflowClient().get_run(run.run_id)
    assert (logged.info.status, logged.data.metrics) == ("FAILED", {"score": 2.0})


def test_what_is_refused_alone_is_kept_alone(refusing):
    with pytest.raises(StoreLost, match="files are not for you"), tracked_run("lost", "refused") as run:
        run.text("a page", "report.html")
        run.metrics({"score": 2.0})
    logged = MlflowClient().get_run(run.run_id)
    assert (logged.info.status, logged.data.metrics) == ("FAILED", {"score": 2.0})
    assert "files are not for you" in logged.data.tags["error"]
    assert [entry["kind"] for entry in kept_of(run.run_id)] == ["Artifact"]


def test_an_error_of_the_run_is_the_one_that_is_raised(lock, capsys):
    with pytest.raises(RuntimeError, match="the weights fell out"), tracked_run("lost", "both") as run:
        lock.take()
        raise RuntimeError("the weights fell out")
    assert "warning: the tracking store" in capsys.readouterr().err
    assert kept_of(run.run_id)[0]["tags"] == {"error": "RuntimeError: the weights fell out"}


def test_a_run_that_cannot_begin_is_a_mistake(lock):
    lock.take("create_run")
    with (
        pytest.raises(ValueError, match=r"takes no run \(database is locked\)"),
        tracked_run("lost", "never"),
    ):
        pytest.fail("it began")


def test_an_answer_that_was_lost_makes_no_second_run(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 5.0)
    create, lost = MlflowClient.create_run, []

    def answer_lost(*given, **more):
        made = create(*given, **more)
        if not lost:
            lost.append(made.info.run_id)
            raise MlflowException("closed") from ConnectionResetError(104, "Connection reset by peer")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", answer_lost)
    with tracked_run("twins", "one") as run:
        pass
    found = mlflow.search_runs(experiment_names=["twins"], output_format="list")
    assert [(one.info.run_id, one.info.status) for one in found] == [(lost[0], "FINISHED")]
    assert run.run_id == lost[0]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_is_deleted_takes_nothing_more(tmp_path, monkeypatch, replaced):
    """sqlite would go on writing into the file that has no name any more, or into the wrong one."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    said = "was replaced by another" if replaced else "is not there any more"
    with pytest.raises(StoreLost, match=said), tracked_run("deleted", "half") as run:
        run.params({"before": 1})
        file.rename(tmp_path / "old.db")
        if replaced:
            file.touch()
        run.metrics({"score": 2.0})
    assert kept_of(run.run_id)[0]["points"][0]["value"] == 2.0
    assert file.exists() == replaced
    if not replaced:
        with tracked_run("deleted", "new") as run:
            run.metrics({"score": 3.0})
        assert MlflowClient().get_run(run.run_id).data.metrics == {"score": 3.0}


def test_a_main_job_keeps_its_numbers_in_a_line(lock, monkeypatch, capsys):
    """And its model: the work is done when the store is gone."""
    whole = pipeline.unlearn
    monkeypatch.setattr(pipeline, "unlearn", lambda *given, **more: (lock.take(), whole(*given, **more))[1])
    words = "--unlearn random_mask --kappa 3 --epochs 1 --ideal skip --report skip"
    assert mlflow_forget.main(words.split()) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "was lost (database is locked)" in line
    (raw,) = Path("eval/metrics_and_plots/json").rglob("random_mask*.json")
    run_id = json.loads(raw.read_text())["run_id"]
    artifacts = {path.name for path in Path("eval/unlogged", run_id, "artifacts").iterdir()}
    assert {"unlearned.safetensors", "mask.safetensors", "per_image.parquet", raw.name} <= artifacts
