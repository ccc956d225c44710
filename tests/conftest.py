"""What every test shares: one thread, so that the same seed gives the same bits and the cores stay free;
stores and digits, made once.
"""

import gc
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)  # on a busy machine an example takes any time
settings.load_profile("untimed")
logging.getLogger().addHandler(logging.NullHandler())  # nothing but a program's own handlers writes to stderr
gc.disable()  # a fifth of the collection's time; see pytest_collection_finish


def pytest_collection_modifyitems(items):
    """pytest-xdist runs nothing where a test has another name in each worker, as an address in it gives."""
    unstable = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]", item.nodeid)]
    if unstable:
        raise pytest.UsageError(f"expected `ids` of their own, got {unstable}. Give them to parametrize.")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # at the end, one worker would wait for the other


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it again and again."""
    gc.freeze()
    gc.set_threshold(10_000)  # as in a command of Lethe
    gc.enable()


@pytest.fixture(autouse=True)
def mlflow_forgets():
    """What a run of Lethe told MLflow, to go to its store, ends with the test: the next one has its own."""
    yield
    service = sys.modules.get("mlflow.tracking._tracking_service.utils")
    if service is not None:
        service._tracking_uri = None


class EmptyTables:
    """The tables of a new sqlite store: copied from Lethe's template, not made by MLflow's migrations."""

    def __init__(self, migrations, template):
        self.migrations = migrations
        self.made = sqlite3.connect(":memory:", check_same_thread=False)
        self.made.deserialize(template)

    def __call__(self, engine):
        if engine.dialect.name != "sqlite":
            self.migrations(engine)
            return
        with closing(engine.raw_connection()) as connection:
            self.made.backup(connection.driver_connection)


def unsynchronised(connection, _):
    """No test of this process outlives a power cut: a run's 42 commits do not wait for the disk."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def stores_are_quick():
    """Only where MLflow is imported already: importing it takes longer than the migrations."""
    mlflow_tables = sys.modules.get("mlflow.store.db.utils")
    if mlflow_tables and not isinstance(mlflow_tables._initialize_tables, EmptyTables):
        from sqlalchemy import Engine, event

        from lethe.tracking import store_template

        if store_template.read_template() is None:
            store_template.main()
        template = store_template.read_template()
        mlflow_tables._initialize_tables = EmptyTables(mlflow_tables._initialize_tables, template)
        event.listen(Engine, "connect", unsynchronised)


@pytest.fixture
def empty_place(tmp_path, monkeypatch):
    """The test's own working folder, where no store is."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A sqlite file with MLflow's tables and nothing in them."""
    from lethe.tracking import store_template

    if store_template.read_template() is None:
        store_template.main()
    file = tmp_path_factory.mktemp("tables") / "mlflow.db"
    file.write_bytes(store_template.read_template())
    return file


@pytest.fixture
def made_store(empty_place, tables):
    """The working folder with an empty store, which a process of the test's own need not make (1.7 s)."""
    shutil.copy(tables, empty_place)
    return empty_place


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No test looks for the hub, and none leaves a cache."""
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def digits():
    """The splits of digits, which need no file; no test writes into them."""
    from lethe.data import load_splits

    return load_splits("digits", "nowhere")


@pytest.fixture
def offline(monkeypatch):
    """No download succeeds."""

    def refuse(*_, **__):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(autouse=True, scope="session")
def files_do_not_wait_for_the_disk():
    """What a test writes need not outlive a power cut. `test_tensor_files.py` asks when fsync is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory):
    from tests.filled_stores import Store

    return Store(f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'mlflow.db'}")


@pytest.fixture(scope="session")
def file_store(tmp_path_factory):
    from tests.filled_stores import Store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return Store((tmp_path_factory.mktemp("files") / "mlruns").as_uri())


@pytest.fixture(params=["sqlite_store", "file_store"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def database(sqlite_store, tmp_path):
    """A copy of the sqlite store that a test may damage."""
    return Path(shutil.copy(sqlite_store.uri.removeprefix("sqlite:///"), tmp_path / "copy.db"))


@pytest.fixture
def folder(file_store, tmp_path):
    """The same of the file store."""
    return Path(shutil.copytree(file_store.uri.removeprefix("file://"), tmp_path / "copy"))


@pytest.fixture(scope="session")
def postgres_server():
    """The URI of a PostgreSQL server of the tests' own."""
    from benchmarks.postgres_cluster import binaries, postgres

    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg2", reason="no driver of PostgreSQL: pip install psycopg2-binary")
    folder = Path(
        tempfile.mkdtemp(prefix="lethe-postgres-")
    )  # not below pytest's own, which PostgreSQL's user may not enter
    folder.chmod(0o755)
    try:
        with postgres(folder) as uri:
            yield uri
    finally:
        shutil.rmtree(folder)
