"""Which store: one answer, given to MLflow with its whole path, in folders of any name."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import mlflow_forget
from lethe.tracking import store_uri
from lethe.tracking.named_store import check_driver, check_folder, check_name
from lethe.tracking.readers import open_store
from lethe.tracking.selection import EVERY_RUN
from lethe.tracking.store import check_store, open_experiment
from lethe.tracking.store_uri import (
    chosen_store,
    database_of,
    mlflow_uri,
    sqlite_uri,
    tracking_uri,
    ui_command,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(empty_place):
    return empty_place


@pytest.fixture(params=[(2, 0), (2, 1)], ids=lambda release: f"sqlalchemy {release[0]}.{release[1]}")
def decodes(request, monkeypatch):
    """Whether SQLAlchemy decodes %41, as from 2.1 on."""
    monkeypatch.setattr(store_uri, "_decodes", lambda: request.param >= (2, 1))
    return request.param >= (2, 1)


def old_store(place: Path) -> None:
    (place / "mlruns" / "0").mkdir(parents=True)
    (place / "mlruns" / "0" / "meta.yaml").touch()


def test_a_database_counts_before_an_old_file_store(folder):
    assert (chosen_store(), tracking_uri()) == (None, "sqlite:///mlflow.db")
    old_store(folder)
    assert tracking_uri() == "./mlruns"
    (folder / "mlflow.db").touch()
    assert tracking_uri() == "sqlite:///mlflow.db"


def test_the_environment_counts_unless_it_is_blank(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " sqlite:///own.db ")
    assert tracking_uri() == "sqlite:///own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "  ")
    assert tracking_uri() == "sqlite:///mlflow.db"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///?timeout=3",
        "sqlite:///file:a?mode=memory&uri=true",
    ],
)
def test_a_store_that_would_be_gone_with_the_process_is_refused(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match="gone with the process. Write sqlite:///mlflow.db"):
        check_store()


@pytest.mark.parametrize("name", ["My Drive (1)", "a[b", "Größe", "a#b"])
def test_a_database_is_given_to_mlflow_with_its_whole_path(name, folder, decodes, monkeypatch):
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)
    assert mlflow_uri("sqlite:///mlflow.db?timeout=3") == f"sqlite:///{folder / name}/mlflow.db?timeout=3"


@pytest.mark.parametrize(("name", "encoded"), [("a%20b", "a%2520b"), ("what?", "what%3F")])
def test_special_signs_are_encoded_for_a_sqlalchemy_that_decodes_them(
    name, encoded, folder, decodes, monkeypatch
):
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)
    if decodes:
        assert mlflow_uri("sqlite:///mlflow.db") == f"sqlite+pysqlite:///{folder}/{encoded}/mlflow.db"
    elif "?" in name:
        with pytest.raises(ValueError, match="path without '\\?'.* Install SQLAlchemy 2.1"):
            mlflow_uri("sqlite:///mlflow.db")
    else:
        assert mlflow_uri("sqlite:///mlflow.db") == f"sqlite:///{folder}/{name}/mlflow.db"


def test_a_percent_sign_of_a_path_that_is_not_encoded_is_told(folder, decodes):
    (folder / "a%20b").mkdir()
    uri = f"sqlite:///{folder}/a%20b/mlflow.db"
    if not decodes:
        assert database_of(uri) == folder / "a%20b" / "mlflow.db"
        return
    with pytest.raises(ValueError, match=f"Write % itself as %25: sqlite:///{folder}/a%2520b/mlflow.db"):
        database_of(uri)
    assert database_of(f"sqlite:///{folder}/a%2520b/mlflow.db") == folder / "a%20b" / "mlflow.db"


@pytest.mark.parametrize("name", ["My Drive (1)", "a%20b?"])
def test_runs_are_in_the_folder_and_nothing_is_beside_it(name, folder, monkeypatch):
    (folder / "outer" / name).mkdir(parents=True)
    monkeypatch.chdir(folder / "outer" / name)
    experiment = open_experiment("own")
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("here", "note.txt")
    assert [path.name for path in (folder / "outer").iterdir()] == [name]
    assert Path(f"mlruns/own/{run.info.run_id}/artifacts/note.txt").read_text() == "here"
    with open_store(tracking_uri(), EVERY_RUN, notice=pytest.fail) as store:
        assert [one.run_id for one in store.runs()[1]] == [run.info.run_id]


def test_a_store_in_another_folder_leaves_nothing_beside_it(folder, monkeypatch):
    """MLflow creates the folder that an encoded path would name."""
    (folder / "a%25b").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(folder / "a%25b" / "mlflow.db"))
    open_experiment("own")
    assert [path.name for path in folder.iterdir()] == ["a%25b"]
    with open_store(tracking_uri(), EVERY_RUN, notice=pytest.fail, reader="mlflow") as store:
        assert list(store.runs()[1]) == []
    assert [path.name for path in folder.iterdir()] == ["a%25b"]


def test_the_environment_stays_the_persons_and_names_no_other_run(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    experiment = open_experiment("own")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() == f"sqlite:///{Path.cwd()}/mlflow.db"
    with mlflow.start_run(experiment_id=experiment) as run:
        pass
    assert run.info.run_id != "0" * 32
    said = capsys.readouterr().err
    assert "MLFLOW_RUN_ID is set and ignored" in said and "MLFLOW_EXPERIMENT_NAME is set" in said


def test_what_shows_the_runs(folder, monkeypatch):
    assert ui_command() == "mlflow ui"
    (folder / "mlflow.db").touch()
    old_store(folder)  # which `mlflow ui` alone would show
    assert ui_command() == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/runs")
    assert ui_command() == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server:5000")
    assert ui_command() == "http://***@server:5000"


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("./mlruns", "mlflow migrate-filestore --source ./mlruns --target sqlite:///mlflow.db"),
        ("runs.db", "MLFLOW_TRACKING_URI=sqlite:///runs.db"),
        ("./new.db", "which is a file. Write a sqlite store as MLFLOW_TRACKING_URI=sqlite:///new.db"),
        ("file:///a/new.sqlite", "MLFLOW_TRACKING_URI=sqlite:////a/new.sqlite"),
        (r"C:\runs\mlflow.db", r"MLFLOW_TRACKING_URI=sqlite:///C:\runs\mlflow.db"),
        (
            "runs",
            "MLflow writes no runs any more. Write MLFLOW_TRACKING_URI=sqlite:///runs/mlflow.db",
        ),
        ("http:/localhost:5000", "without ://. Write MLFLOW_TRACKING_URI=http://localhost:5000"),
        ("https//host", "without ://. Write MLFLOW_TRACKING_URI=https://host"),
        ("localhost:5000", "MLFLOW_TRACKING_URI=http://localhost:5000"),
    ],
)
def test_a_folder_is_refused_with_what_to_write(uri, remedy, folder):
    (folder / "runs.db").touch()
    old_store(folder)
    with pytest.raises(ValueError) as raised:
        check_folder(uri)
    assert remedy in str(raised.value)


def test_a_file_store_that_is_allowed_is_taken(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "1")
    check_folder("./mlruns")


def test_a_driver_that_is_not_installed_is_named_with_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # an import fails
    driver = r"driver of postgresql\+psycopg2://\*\*\*@db/runs to be installed"
    with pytest.raises(ValueError, match=f"{driver}, .* pip install 'psycopg2-binary'"):
        check_driver("postgresql+psycopg2://me:secret@db/runs")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("htp://me:secret@host", r"got htp://\*\*\*@host: unknown scheme 'htp'\. Did you mean 'http'\?"),
        ("postgres://db/runs", "Did you mean 'postgresql'"),
        ("s3://bucket/runs", "unknown scheme 's3'.* Schemes: databricks"),
    ],
)
def test_a_scheme_that_nobody_knows_is_told_with_those_that_are_known(uri, said):
    with pytest.raises(ValueError, match=said):
        check_driver(uri)


@pytest.mark.parametrize("start", ["http:/", "https:", "https//", ""])
def test_a_mistyped_address_is_told_without_its_password(start, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{start}me:se@cret@host:5000")
    assert mlflow_forget.main(["--unlearn", "FT"]) == 2
    said = capsys.readouterr().err
    assert "got ***@host:5000, a server's address" in said
    assert "cret" not in said


@pytest.mark.parametrize("path", ["~/runs.db", "$HOME/runs.db", "${RUNS}/runs.db", "$RUNS"])
def test_a_path_that_no_shell_has_expanded_is_refused(path):
    with pytest.raises(ValueError, match="no shell has replaced the ~ or the variable"):
        database_of(f"sqlite:///{path}")


def test_a_uri_that_is_no_databases_is_told():
    with pytest.raises(ValueError, match="expected the URI of a database, got postgresql://db:port/runs"):
        check_driver("postgresql://db:port/runs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 257, "at most 256 characters, got 257"),
        (" ", "expected a name, got ' '"),
        ("a\nb", "without control characters"),
        ("a\udcff", "without control characters"),
    ],
)
def test_an_experiment_that_no_store_holds_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        check_name(name)


def test_sqlalchemy_is_asked_as_it_is_installed():
    """The rule above is the library's own, of the version that is here."""
    from sqlalchemy.engine import make_url

    assert store_uri._decodes() == (make_url("sqlite:///%41").database == "A")


@pytest.mark.slow
def test_the_parser_does_not_import_sqlalchemy_to_know():
    program = (
        "import sys, lethe.tracking.store_uri as u; u.database_of('sqlite:///a.db'); "
        "sys.exit('sqlalchemy' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60
        ).returncode
        == 0
    )


def test_workspaces_are_a_servers(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    with pytest.raises(ValueError, match="Unset MLFLOW_ENABLE_WORKSPACES"):
        check_store()
