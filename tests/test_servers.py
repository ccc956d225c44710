"""A real `mlflow server` and a real PostgreSQL: eight workers at once, and the parser's reading of what they
hold.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

import mlruns_parser
from benchmarks.parser import mlflow_server
from benchmarks.postgres_cluster import new_database
from lethe.tracking.readers.mlflow_client import client_store
from lethe.tracking.readers.postgres import postgres_store
from lethe.tracking.run import TrackedRun
from lethe.tracking.selection import EVERY_RUN
from tests import eight_workers
from tests.filled_stores import PARAMS, Store, empty_place, parse  # noqa: F401 (empty_place: a fixture of every test here)
from tests.warm_processes import ended, fixture_begin, fixture_warm  # noqa: F401

pytestmark = pytest.mark.slow

PIECES = ("params", "metrics", "tags")


@pytest.fixture(scope="module")
def server(tmp_path_factory, sqlite_store):
    """The URI of a server whose store is a copy of the filled one."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(sqlite_store.uri.removeprefix("sqlite:///"), folder / "server.db")
    with mlflow_server(f"sqlite:///{folder / 'server.db'}", folder) as uri:
        yield uri


@pytest.fixture(scope="module")
def filled_postgres(postgres_server):
    store = Store(new_database(postgres_server, "filled"))
    yield store
    disconnect(store.uri)


def disconnect(uri: str) -> None:
    """Close what MLflow keeps open, or the server would have to wait for it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore._engine_map.pop(uri).dispose()


@pytest.fixture(params=["sqlite", "postgres", "server"])
def shared_store(request, tmp_path):
    """A store that is new, but for the server's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    if request.param == "server":
        return request.getfixturevalue("server")
    return new_database(request.getfixturevalue("postgres_server"), "shared")


def test_eight_workers_lose_nothing(shared_store, begin, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    code = ended(begin(eight_workers.all_at_once), 300)
    errors = Path("err").read_text()
    assert code == 0, errors
    assert "locked" not in errors

    names = [
        f"{worker} {run}" for worker in range(eight_workers.WORKERS) for run in range(eight_workers.RUNS)
    ]
    table = parse("--tracking_uri", shared_store, "--experiment", eight_workers.EXPERIMENT).set_index(
        "run_name"
    )
    assert sorted(table.index) == sorted(names) and set(table.status) == {"FINISHED"}
    for name in names:
        row = table.loc[name]
        assert {param: row[param] for param in eight_workers.params_of(name)} == eight_workers.params_of(name)
        assert {
            metric: float(row[metric]) for metric in eight_workers.metrics_of(name)
        } == eight_workers.metrics_of(name)

    client = MlflowClient(shared_store)
    logged = client.search_runs([client.get_experiment_by_name(eight_workers.EXPERIMENT).experiment_id])
    assert [len(run.inputs.dataset_inputs) for run in logged] == [eight_workers.SETS] * len(names)

    assert (
        mlruns_parser.main(
            ["--tracking_uri", shared_store, "--experiment", eight_workers.EXPERIMENT, "--history"]
        )
        == 0
    )
    history = pd.read_csv("mlruns_history.csv")
    losses = history[history.metric == "train_loss"].set_index("run_id")
    for name in names:
        own = losses.loc[table.run_id[name]]
        assert list(own.step) == list(range(1, eight_workers.STEPS + 1))
        assert list(own.value) == [point["loss"] for point in eight_workers.history_of(name)]
    assert len(history) == len(names) * (eight_workers.STEPS + len(eight_workers.metrics_of("0 0")))


def comparable(runs) -> list[str]:
    return sorted(
        repr(replace(run, **{piece: dict(sorted(getattr(run, piece).items())) for piece in PIECES}))
        for run in runs
    )


def test_postgres_is_read_directly_as_the_client_reads_it(filled_postgres):
    with (
        postgres_store(filled_postgres.uri, EVERY_RUN) as direct,
        client_store(filled_postgres.uri, page=2) as client,
    ):
        runs = list(direct.runs()[1])
        assert len(runs) == 4 and comparable(runs) == comparable(client.runs()[1])
        assert repr(list(direct.points(runs))) == repr(list(client.points(runs)))


def test_every_value_comes_out_of_postgres(filled_postgres, sqlite_store):
    row = parse("--tracking_uri", filled_postgres.uri).loc[filled_postgres.ids["full"]]
    same = parse("--tracking_uri", sqlite_store.uri).loc[sqlite_store.ids["full"]]
    differing = {
        "run_id",
        "end_time",
        "duration_s",
        *(name for name in ("start_time",) if row[name] != same[name]),
    }
    assert row.drop(differing).to_dict() == same.drop(differing).to_dict()
    assert row["commas"] == PARAMS["commas"] and row["up"] == "inf" and row["nothing"] == "nan"


def test_experiments_since_and_filters_on_postgres(filled_postgres):
    uri, ids = filled_postgres.uri, filled_postgres.ids
    assert set(parse("--tracking_uri", uri, "--experiment", "digits-mlp").run_id) == {
        ids["full"],
        ids["child"],
    }
    assert list(parse("--tracking_uri", uri, "--since", "2023-11-14T22:13:24Z").run_id) == [ids["killed"]]
    assert list(
        parse("--tracking_uri", uri, "--filter", "params.unlearn ILIKE 'mi%' AND metrics.tiny > 0").run_id
    ) == [ids["full"]]


def test_postgres_of_an_unknown_schema_goes_to_mlflow(filled_postgres, monkeypatch, capsys):
    monkeypatch.setattr("lethe.tracking.sql_store.KNOWN_SCHEMAS", frozenset())
    assert len(parse("--tracking_uri", filled_postgres.uri)) == 4
    assert "unknown schema version" in capsys.readouterr().err


def mistake(uri: str, capsys) -> str:
    assert mlruns_parser.main(["--tracking_uri", uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_postgres_that_holds_no_store(postgres_server, capsys):
    assert "got a database without alembic_version" in mistake(new_database(postgres_server, "empty"), capsys)


def test_a_postgres_that_does_not_answer(capsys):
    pytest.importorskip("psycopg2")
    line = mistake("postgresql+psycopg2://me:se@cret@127.0.0.1:9/none", capsys)
    assert (
        "expected a PostgreSQL server at postgresql+psycopg2://***@127.0.0.1:9/none" in line
        and "cret" not in line
    )


def test_a_driver_that_is_not_installed(capsys):
    line = mistake("postgresql+nosuchdriver://127.0.0.1/none", capsys)
    assert (
        "expected a PostgreSQL store, got postgresql+nosuchdriver://" in line
        and "postgresql+psycopg2://HOST/DATABASE" in line
    )


def test_a_server_gives_the_same_rows_and_histories(server, sqlite_store, monkeypatch):
    filled = ["--experiment", *sorted(set(sqlite_store.names.values()) - {"Default"})]
    history = [*filled, "--history", "--output"]
    own = parse("--tracking_uri", sqlite_store.uri, *filled)
    assert len(own) == 4
    assert mlruns_parser.main(["--tracking_uri", sqlite_store.uri, *history, "own.csv"]) == 0
    assert parse("--tracking_uri", server, *filled).to_dict() == own.to_dict()
    for at_once in (True, False):  # by the request that a server's pages make; without it, on disk
        if not at_once:
            monkeypatch.setattr("lethe.tracking.readers.mlflow_client.MOST_POINTS", 1)
            monkeypatch.setattr("lethe.tracking.sorted_points.AT_ONCE", 3)
        assert mlruns_parser.main(["--tracking_uri", server, *history, "served.csv"]) == 0
        assert Path("served.csv").read_bytes() == Path("own.csv").read_bytes()


def test_a_param_that_a_server_cut_is_whole(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(server)
    run_id = client.create_run(client.create_experiment("long")).info.run_id
    TrackedRun(run_id, "").params({"forget_indexes": "0123456789" * 1000})
    assert (
        parse("--tracking_uri", server, "--experiment", "long").forget_indexes[run_id] == "0123456789" * 1000
    )
