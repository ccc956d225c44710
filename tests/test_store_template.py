"""The template of a new sqlite store: the same as MLflow makes, and made anew where it is damaged."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.store.db import utils
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from lethe.system import user_cache
from lethe.system.user_cache import cache_folder
from lethe.tracking import store_template
from lethe.tracking.store_template import keep_template, make_ahead, new_store, read_template, template_file

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lethe"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """A store that MLflow's own migrations made, not those that the other tests copy."""
    file = tmp_path_factory.mktemp("migrated") / "store.db"
    tables = utils._initialize_tables
    utils._initialize_tables = getattr(tables, "migrations", tables)
    SqlAlchemyStore(f"sqlite:///{file}", "./mlruns").engine.dispose()
    utils._initialize_tables = tables
    return file


@pytest.fixture
def migrations(monkeypatch):
    """Counts the stores whose tables are made."""
    made, tables = [], utils._initialize_tables
    monkeypatch.setattr(utils, "_initialize_tables", lambda engine: (made.append(1), tables(engine)))
    return made


def rows(file, *, without=()):
    """The rows of each table, and the statement that makes it, each index and each trigger."""
    with closing(sqlite3.connect(file)) as database:
        made = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = [name for kind, name, *_ in made if kind == "table" and name not in without]
        return sorted(map(str, made)), {
            table: database.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables
        }


def experiments(file):
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()


def test_a_store_of_the_template_is_the_migrated_one_table_by_table(tmp_path, migrated, migrations):
    keep_template(migrated)
    new_store(tmp_path / "new.db")
    times = ("experiments",)  # have the moment of their making
    assert migrations == [] and rows(tmp_path / "new.db", without=times) == rows(migrated, without=times)
    assert experiments(tmp_path / "new.db") == experiments(migrated)


def test_a_template_has_nothing_of_its_store(tmp_path, migrated):
    keep_template(migrated)
    content = read_template()
    assert b"mlruns" in migrated.read_bytes() and b"mlruns" not in content
    (tmp_path / "template.db").write_bytes(content)
    assert {table for table, found in rows(tmp_path / "template.db")[1].items() if found} == {
        "alembic_version",
        "workspaces",
    }


def test_the_first_store_makes_the_template_and_the_second_copies_it(tmp_path, migrations):
    new_store(tmp_path / "first.db")
    new_store(tmp_path / "second.db")
    assert len(migrations) == 1 and experiments(tmp_path / "second.db")[0][:2] == (0, "Default")


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def changed(file):
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, changed, emptied])
def test_a_damaged_template_is_made_anew(tmp_path, migrations, damage):
    new_store(tmp_path / "first.db")
    whole = read_template()
    damage(template_file())
    new_store(tmp_path / "second.db")
    assert len(migrations) == 2 and len(read_template()) == len(whole)


def test_a_template_of_other_migrations_of_the_same_version_is_made_anew(tmp_path, migrations):
    new_store(tmp_path / "first.db")
    with closing(sqlite3.connect(tmp_path / "first.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'of another'")
        database.commit()
    keep_template(tmp_path / "first.db")
    new_store(tmp_path / "second.db")
    assert len(migrations) == 2 and b"of another" not in read_template()


def test_a_template_is_of_one_version_of_mlflow(cache):
    assert template_file() == cache / f"store-mlflow-{version('mlflow')}.template"


def test_a_folder_in_the_place_of_the_template_costs_time_alone(tmp_path):
    template_file().mkdir(parents=True)
    new_store(tmp_path / "new.db")
    assert experiments(tmp_path / "new.db") and template_file().is_dir()


def test_a_cache_that_cannot_be_made_costs_time_alone(tmp_path):
    (tmp_path / "cache").write_text("a file")
    new_store(tmp_path / "new.db")
    assert experiments(tmp_path / "new.db") and read_template() is None


def test_a_user_without_a_home_has_no_template(tmp_path, monkeypatch):
    monkeypatch.setattr(store_template, "cache_folder", lambda: None)
    new_store(tmp_path / "new.db")
    assert experiments(tmp_path / "new.db") and template_file() is None


@pytest.mark.slow
def test_two_processes_at_once_make_one_template(tmp_path, cache):
    command = [sys.executable, "-m", "lethe.tracking.store_template"]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert read_template() is not None
    assert {path.suffix for path in cache.iterdir()} == {".template", ".lock"}


@pytest.mark.parametrize(
    ("there", "uri", "starts"),
    [
        ((), "sqlite:///mlflow.db", True),
        (("mlflow.db",), "sqlite:///mlflow.db", False),
        ((), "postgresql://host/name", False),
    ],
)
def test_a_template_is_made_ahead_where_a_new_store_will_need_it(tmp_path, monkeypatch, there, uri, starts):
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command[-1]) or Mock())
    for name in there:
        (tmp_path / name).touch()
    make_ahead()
    assert started == (["lethe.tracking.store_template"] if starts else [])


def test_a_template_that_is_there_is_not_made_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    template_file().parent.mkdir(parents=True)
    template_file().touch()
    make_ahead()


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/own"}, "/own/lethe"),
        ("linux", {"XDG_CACHE_HOME": "own"}, "/home/me/.cache/lethe"),
        ("linux", {}, "/home/me/.cache/lethe"),
        ("darwin", {}, "/home/me/Library/Caches/lethe"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lethe/Cache"),
    ],
)
def test_the_cache_is_where_the_system_has_it(monkeypatch, platform, variables, folder):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(user_cache.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache_folder() == Path(folder)
