"""The parser's benchmark: its stores are what MLflow would have written, and its comparison finds a
difference.
"""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks import parser as benchmark
from benchmarks.parser_stores import Size, file_store, param, sqlite_store, time_of, value
from lethe.tracking.stored_run import infinity_restored
from tests.filled_stores import empty_place, parse  # noqa: F401 (empty_place: a fixture of every test here)

pytestmark = pytest.mark.slow

SIZE = Size(runs=3, params=2, metrics=2, points=4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return sqlite_store(folder, SIZE), file_store(folder, SIZE)


def test_mlflow_reads_the_written_database(stores):
    client = MlflowClient(stores[0])
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_id: run for run in client.search_runs(ids)}
    assert set(runs) == set(SIZE.ids())
    for number, ident in enumerate(SIZE.ids()):
        run = runs[ident]
        assert run.data.params == {"param_00": param(number, 0), "param_01": param(number, 1)}
        assert (run.info.start_time, run.info.run_name) == (time_of(number), f"run {number}")
        for metric in range(2):
            history = client.get_metric_history(ident, f"metric_{metric:02}")
            assert [repr(infinity_restored(point.value)) for point in history] == [
                repr(value(number, metric, step)) for step in range(4)
            ]
            assert repr(infinity_restored(run.data.metrics[f"metric_{metric:02}"])) == repr(
                value(number, metric, 3)
            )


def test_both_stores_hold_the_same(stores):
    assert parse("--tracking_uri", stores[0]).to_dict() == parse("--tracking_uri", stores[1]).to_dict()


def test_some_values_are_nan_and_infinite():
    shown = {repr(value(run, metric, 0)) for run in range(2000) for metric in range(5)}
    assert {"nan", "inf", "-inf"} <= shown


def compared(ours: str, mlflows: str) -> dict[str, int]:
    times = (
        "2024-01-01T00:00:00.000Z,2024-01-01T00:00:01.000Z",
        "2024-01-01 00:00:00+00:00,2024-01-01 00:00:01+00:00",
    )
    head = f"run_id,status,run_name,start_time,end_time,p,m\na,FINISHED,r,{times[0]},"
    other = (
        f"run_id,status,tags.mlflow.runName,start_time,end_time,params.p,metrics.m\na,FINISHED,r,{times[1]},"
    )
    Path("ours.csv").write_text(f"{head}{ours}\n")
    Path("mlflows.csv").write_text(f"{other}{mlflows}\n")
    return benchmark.compared_cells(Path("ours.csv"), Path("mlflows.csv"))


@pytest.mark.parametrize(
    ("ours", "mlflows", "differing", "special"),
    [
        ("x,0.5", "x,0.5", 0, 0),
        ("x,100.0", "x,1e2", 0, 0),
        ("x,nan", "x,", 0, 1),
        ("x,inf", "x,1.7976931348623157e+308", 0, 1),
        ("x,-inf", "x,1.7976931348623157e+308", 1, 0),
        ("x,0.5", "x,0.25", 1, 0),
        ("x,0.5", "x,", 1, 0),
        ("x,0.5", "y,0.5", 1, 0),
    ],
)
def test_a_cell_that_differs_is_found(ours, mlflows, differing, special):
    assert compared(ours, mlflows) == {"cells": 6, "differing": differing, "special": special}


def test_a_store_that_is_there_is_measured_and_kept(stores, capsys):
    folder = str(Path(stores[0].removeprefix("sqlite:///")).parent)
    flags = "--stores files --compare_runs 0 --slow_runs 3 --params 2 --metrics 2 --points 4".split()
    assert benchmark.main([*flags, "--folder", folder]) == 0
    table = capsys.readouterr().out
    assert [line.split()[:4] for line in table.splitlines() if line.startswith("files")] == [
        ["files", "table", "3", "3"],
        ["files", "history", "3", "24"],
    ]
    assert benchmark.main([*flags, "--folder", folder]) == 0
    assert "2 cells were measured before" in capsys.readouterr().out


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_rows_are_counted_across_chunks(chunk):
    Path("t.csv").write_bytes(b'a\r\n"1\n2"\r\n3\r\n')
    assert benchmark.line_ends(Path("t.csv"), chunk) == 3


def test_a_size_that_is_none(capsys):
    assert benchmark.main(["--points", "0"]) == 2
    assert "--points: expected at least 1, got 0. Correct the number" in capsys.readouterr().err
