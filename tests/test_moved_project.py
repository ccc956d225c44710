"""A run is read back from a project that was moved or copied: with --artifact_root, and never from another
place unsaid.
"""

import re
import shutil
from pathlib import Path

import mlflow
import pytest

from lethe.tracking.record import read_record
from lethe.tracking.store import open_experiment

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one finished run."""
    folder = tmp_path_factory.mktemp("project") / "old"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        experiment = open_experiment("own")
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text("here", "note.txt")
    return folder, run.info.run_id


@pytest.fixture(params=["moved", "copied"])
def there(request, project, tmp_path, monkeypatch):
    """The id of the run in a project that is now elsewhere."""
    original, run_id = project
    shutil.copytree(original, tmp_path / "new")
    if request.param == "moved":
        hidden = original.with_name("hidden")
        original.rename(hidden)
        request.addfinalizer(lambda: hidden.rename(original))
    monkeypatch.chdir(tmp_path / "new")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return run_id


def test_where_it_was_made_a_run_is_read(project, monkeypatch):
    folder, run_id = project
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert read_record(run_id).folder.samefile(folder / "mlruns" / "own" / run_id / "artifacts")


def test_elsewhere_the_folder_beside_the_store_is_asked_for(there, tmp_path):
    with pytest.raises(ValueError, match="If they were moved, |was the folder copied. Choose: "):
        read_record(there)


def test_the_root_that_is_named_counts(there, tmp_path):
    record = read_record(there, tmp_path / "new" / "mlruns")
    assert record.folder == tmp_path / "new" / "mlruns" / "own" / there / "artifacts"


def test_a_root_without_the_run_is_told(there, tmp_path):
    with pytest.raises(ValueError, match="expected its artifacts in .*, and there is no such folder"):
        read_record(there, tmp_path / "new")


def test_artifacts_that_are_gone_are_asked_for(there, tmp_path, project):
    shutil.rmtree(tmp_path / "new" / "mlruns")
    if project[0].exists():
        assert read_record(there).folder.samefile(project[0] / "mlruns" / "own" / there / "artifacts")
        return
    remedy = "If they were moved, name the folder of the experiments with --artifact_root"
    with pytest.raises(ValueError, match=f"no such folder. {remedy}"):
        read_record(there)


def test_the_store_is_mended_as_the_docs_say(there, tmp_path, project):
    page = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
    program = re.search(r'python -c "\n(.*?)"\n', page, flags=re.DOTALL)[1]
    here = program.replace("file:///home/me/old", project[0].as_uri()).replace(
        "file:///home/me/new", (tmp_path / "new").as_uri()
    )
    exec(compile(here, "docs/stores.md", "exec"), {})
    assert read_record(there).folder == tmp_path / "new" / "mlruns" / "own" / there / "artifacts"
    open_experiment("own")
