"""What the parser writes: histories, Parquet, JSON lines, CSV for spreadsheets, params that MLflow cuts."""

import csv
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

import mlruns_parser
from lethe.report.table_files import (
    WRITERS,
    defused,
    iso_utc,
    write_csv,
    write_json_lines,
    write_parquet,
    write_spreadsheet_csv,
)
from lethe.tracking.artifact_place import artifact_folder
from lethe.tracking.readers import sqlite
from lethe.tracking.readers.mlflow_client import client_store
from lethe.tracking.run import TrackedRun
from lethe.tracking.stored_run import infinity_restored
from tests.filled_stores import METRICS, PARAMS, empty_place, parse  # noqa: F401 (empty_place: a fixture of every test here)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(st.none(), st.floats())
KINDS = {"text": "text", "a number": "number", "step": "integer", "when": "time"}
TIMES = st.integers(-(10**12), 10**13)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), TEXT),
        NUMBERS,
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), TIMES),
    )
)


def write(*arguments: str) -> None:
    assert mlruns_parser.main(list(arguments)) == 0


def same(one, other) -> bool:
    return one == other or (
        isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    )


# Histories


def histories_of(store, allow: bool, monkeypatch) -> list[tuple[str, str, int, int, str]]:
    """Every point, as MLflow's client gives it, metric by metric."""
    if allow:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(store.uri)
    return [
        (run_id, name, point.step, point.timestamp, repr(infinity_restored(point.value)))
        for run_id, run in store.runs.items()
        for name in run.data.metrics
        if not name.startswith("system/")
        for point in client.get_metric_history(run_id, name)
    ]


def test_the_history_has_every_point_that_mlflow_has(store, monkeypatch, capsys):
    expected = histories_of(store, "file:" in store.uri, monkeypatch)
    write("--tracking_uri", store.uri, "--history", "--output", "long.csv")
    table = pd.read_csv("long.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["run_id", "metric", "step", "time", "value"]
    found = [(row.run_id, row.metric, int(row.step), row.time, row.value) for row in table.itertuples()]
    assert sorted(found) == sorted(
        (run, name, step, iso_utc(time), value) for run, name, step, time, value in expected
    )
    assert f"{len(expected)} values -> long.csv" in capsys.readouterr().out


def test_the_history_is_sorted_by_metric_step_and_time(store):
    write("--tracking_uri", store.uri, "--history")
    rows = [(row.metric, row.step, row.time) for row in pd.read_csv("mlruns_history.csv").itertuples()]
    assert rows == sorted(rows) and len(rows) > 10  # one run has all of them


def test_the_client_gives_the_same_history(sqlite_store):
    direct = sqlite.sqlite_store(sqlite_store.uri)
    runs = list(direct.runs()[1])
    with client_store(sqlite_store.uri) as client:
        assert repr(list(client.points(runs))) == repr(list(direct.points(runs)))


# Parquet and JSON lines hold what the CSV holds


def test_parquet_has_the_same_cells_with_types(store):
    table = parse("--tracking_uri", store.uri)
    write("--tracking_uri", store.uri, "--all", "--output", "runs.parquet")
    parquet = pyarrow.parquet.read_table("runs.parquet")
    assert parquet.column_names == list(table.columns)
    kinds = {
        name: str(parquet.schema.field(name).type)
        for name in ("run_id", "start_time", "duration_s", "param.lr", "metric.lr", "empty")
    }
    assert kinds == {
        "run_id": "string",
        "start_time": "timestamp[ms, tz=UTC]",
        "duration_s": "double",
        "param.lr": "string",
        "metric.lr": "double",
        "empty": "string",
    }
    for row in parquet.to_pylist():
        for name, value in row.items():
            shown = table[name][row["run_id"]]
            text = (
                iso_utc(round(value.timestamp() * 1000))
                if isinstance(value, datetime)
                else ""
                if value is None
                else str(value)
            )
            assert text == shown, name


def test_json_lines_have_the_same_cells(store):
    table = parse("--tracking_uri", store.uri)
    write("--tracking_uri", store.uri, "--all", "--output", "runs.jsonl")
    special = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    rows = [
        json.loads(line, parse_constant=pytest.fail)
        for line in Path("runs.jsonl").read_bytes().decode().split("\n")[:-1]
    ]
    assert [row["run_id"] for row in rows] == list(table.run_id)
    for row in rows:
        numbers = {name for name in row if name in METRICS}
        assert {
            name: special.get(value, str(value)) if name in numbers else str(value)
            for name, value in row.items()
        } == {name: table[name][row["run_id"]] for name in row}
        assert all(table[name][row["run_id"]] == "" for name in table.columns if name not in row)


@given(ROWS)
def test_any_cells_round_trip_in_every_format(rows):
    for write_rows, name in (
        (write_csv, "t.csv"),
        (write_json_lines, "t.jsonl"),
        (write_parquet, "t.parquet"),
    ):
        write_rows(Path(name).resolve(), KINDS, rows)
    with Path("t.csv").open(newline="", encoding="utf-8") as file:
        from_csv = list(csv.reader(file))[1:]
    shown = [
        [
            "" if c is None else repr(c) if isinstance(c, float) else iso_utc(c) if i == 3 else str(c)
            for i, c in enumerate(row)
        ]
        for row in rows
    ]
    assert from_csv == shown
    table = pyarrow.parquet.read_table("t.parquet").to_pylist()
    moments = [
        None if row[3] is None else datetime.fromtimestamp(0, UTC).timestamp() + row[3] / 1000 for row in rows
    ]
    for row, found, moment in zip(rows, table, moments, strict=True):
        assert all(same(one, other) for one, other in zip(row[:3], list(found.values())[:3], strict=True))
        assert (found["when"] is None) == (moment is None) and (
            moment is None or found["when"].timestamp() == pytest.approx(moment)
        )
    lines = [json.loads(line) for line in Path("t.jsonl").read_bytes().decode().split("\n")[:-1]]
    for row, found in zip(rows, lines, strict=True):
        number = found.get("a number")
        assert found.get("text") == row[0] and found.get("step") == row[2]
        assert same(None if number is None else float(number), row[1])


@pytest.mark.parametrize("name", WRITERS)
def test_the_format_may_be_named(name, sqlite_store):
    write("--tracking_uri", sqlite_store.uri, "--format", name, "--output", "as.txt")
    start = {"csv": b"run_id,", "parquet": b"PAR1", "jsonl": b'{"run_id": '}[name]
    assert Path("as.txt").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--output", "runs.xlsx"],
            "expected --output to end in .csv, .parquet, .jsonl, .ndjson, got runs.xlsx. Rename it, or name "
            "its --format",
        ),
        (
            ["--output", "runs.parquet", "--spreadsheet_safe"],
            "--spreadsheet_safe is for CSV, which spreadsheets open, got parquet. Leave it out",
        ),
        (["--history", "--summary"], "argument --summary: not allowed with argument --history"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (
            ["--artifact_root", "nowhere"],
            "expected the folder of the artifacts as --artifact_root, got nowhere. Check the path",
        ),
        (["--experiment", "digits-mpl"], "unknown experiment 'digits-mpl'. Did you mean 'digits-mlp'?"),
        (["--since", "yesterday"], "--since: expected a date, or a date and a time, got 'yesterday'"),
    ],
)
def test_a_mistake(arguments, message, database, capsys):
    before = sorted(Path().iterdir())
    assert mlruns_parser.main(["--tracking_uri", f"sqlite:///{database}", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and sorted(Path().iterdir()) == before


# Spreadsheets


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+cmd",
        "-x",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1+1",
        "＝1",
        "-2+3",
        "-",
        "+",
        "--1",
        "-1_000",
        "-١",
    ],
)
def test_a_formula_is_defused(text):
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    ["", "1", "-1", "+1", "-1.5e-3", "+.5", "-inf", "nan", "MIMU", "a=1", "'=1", "2024-05-01T12:00:00.000Z"],
)
def test_other_texts_and_numbers_stay(text):
    assert defused(text) == text


@given(st.lists(st.tuples(TEXT, st.floats())))
def test_no_cell_of_a_safe_table_begins_like_a_formula_unless_it_is_a_number(rows):
    write_spreadsheet_csv(Path("s.csv").resolve(), {"=name": "text", "number": "number"}, rows)
    content = Path("s.csv").read_bytes().decode()
    header, *found = list(csv.reader(io.StringIO(content, newline="")))
    assert header == ["'=name", "number"]
    for (text, number), (cell, other) in zip(rows, found, strict=True):
        assert cell in (text, f"'{text}") and same(float(other), number)
        assert not cell.lstrip().startswith(tuple("=+-@")) or float(cell) is not None


def test_the_flag_defuses_what_was_logged_and_nothing_else(store):
    plain = parse("--tracking_uri", store.uri)
    safe = parse("--tracking_uri", store.uri, "--spreadsheet_safe")
    differing = {
        (name, plain[name][i], safe[name][i])
        for name in plain.columns
        for i in plain.index
        if plain[name][i] != safe[name][i]
    }
    assert differing == {("formula", "=1+1", "'=1+1")}
    assert '"=' not in Path("out.csv").read_text() and PARAMS["formula"] == "=1+1"


# Params that MLflow cuts


@pytest.fixture
def long_run(database, tmp_path):
    """A run of Lethe's with a long param, in a copy of the store; its id and the param."""
    import mlflow

    whole = "0123456789" * 1500
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    experiment = mlflow.create_experiment(
        "long", artifact_location=(tmp_path / "artifacts" / "long").as_uri()
    )
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    TrackedRun(run_id, experiment).params({"forget_indexes": whole})
    yield run_id, whole
    mlflow.set_tracking_uri(None)


def test_a_param_that_mlflow_cut_is_whole(long_run, database):
    run_id, whole = long_run
    assert parse("--tracking_uri", f"sqlite:///{database}").forget_indexes[run_id] == whole


def test_it_is_found_where_the_artifacts_are_now(long_run, database, capsys):
    run_id, whole = long_run
    Path("artifacts").rename("moved")
    assert parse("--tracking_uri", f"sqlite:///{database}").forget_indexes[run_id] == whole[:6000]
    assert (
        "2 params have 6000 characters, where MLflow cuts, and no artifact" in capsys.readouterr().out
    )  # the other one is exactly so long
    assert (
        parse("--tracking_uri", f"sqlite:///{database}", "--artifact_root", "moved").forget_indexes[run_id]
        == whole
    )


def test_another_artifact_of_that_name_is_not_taken_for_it(long_run, database):
    run_id, whole = long_run
    (artifact,) = Path("artifacts").rglob("forget_indexes.txt")
    artifact.write_text("something else")
    assert parse("--tracking_uri", f"sqlite:///{database}").forget_indexes[run_id] == whole[:6000]


def test_artifact_folders():
    assert artifact_folder("file:///a%20b/1/ab/artifacts", None) == Path("/a b/1/ab/artifacts")
    assert artifact_folder("/a/1/ab/artifacts", Path("/new")) == Path("/new/1/ab/artifacts")
    assert artifact_folder("s3://bucket/1/ab/artifacts", None) is None
    assert artifact_folder("s3://bucket/1/ab/artifacts", Path("/new")) == Path("/new/1/ab/artifacts")
    assert artifact_folder("", Path("/new")) is None
