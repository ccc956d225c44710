"""Tracking stores of any size, written in bulk: MLflow's client would take days for the large ones."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.postgres_cluster import connected, new_database, renamed, uri_of

FIRST = 1_700_000_000_000  # ms since 1970
EXPERIMENT = "benchmark"
AWKWARD = 'comma, "quote"\nline 🙂'
LARGEST = 1.7976931348623157e308  # what MLflow's tables hold for infinity
SPECIAL = (float("nan"), float("inf"), float("-inf"))
EVERY = 1000  # one metric value in as many is NaN, infinity or minus infinity


@dataclass(frozen=True)
class Size:
    """runs, each with so many params and metrics, each metric with so many points."""

    runs: int
    params: int = 20
    metrics: int = 20
    points: int = 5

    @property
    def name(self) -> str:
        return f"{self.runs}x{self.params}x{self.metrics}x{self.points}"

    def ids(self) -> Iterator[str]:
        return (hashlib.md5(str(number).encode()).hexdigest() for number in range(self.runs))


def param(run: int, which: int) -> str:
    return AWKWARD if which == 0 and run % 7 == 0 else f"value {run % 13} of param {which}"


def value(run: int, metric: int, step: int) -> float:
    number = (run * 1_103_515_245 + metric * 12_345 + step * 2_654_435_761) % 2**31
    return SPECIAL[number % 3] if number % EVERY == 0 else number / 2**31 * 100


def stored(number: float) -> tuple[float, bool]:
    """(value, is_nan) as MLflow's tables have a number."""
    return (0.0, True) if number != number else (max(-LARGEST, min(LARGEST, number)), False)


def time_of(run: int, step: int = 0) -> int:
    return FIRST + 60_000 * run + 1000 * step


def run_rows(size: Size, experiment: int) -> Iterator[tuple[Any, ...]]:
    for run, ident in enumerate(size.ids()):
        yield (
            ident,
            f"run {run}",
            "UNKNOWN",
            "me",
            "FINISHED",
            time_of(run),
            time_of(run, 30),
            "active",
            f"/gone/{ident}/artifacts",
            experiment,
        )


def param_rows(size: Size) -> Iterator[tuple[str, str, str]]:
    return (
        (f"param_{which:02}", param(run, which), ident)
        for run, ident in enumerate(size.ids())
        for which in range(size.params)
    )


def tag_rows(size: Size) -> Iterator[tuple[str, str, str]]:
    tags = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.runName")
    return (
        (tag, f"run {run}" if tag == "mlflow.runName" else "x", ident)
        for run, ident in enumerate(size.ids())
        for tag in tags
    )


def metric_rows(size: Size, steps: Iterable[int]) -> Iterator[tuple[str, float, int, int, bool, str]]:
    wanted = list(steps)
    for run, ident in enumerate(size.ids()):
        for metric in range(size.metrics):
            for step in wanted:
                number, is_nan = stored(value(run, metric, step))
                yield f"metric_{metric:02}", number, time_of(run, step), step, is_nan, ident


TABLES = {
    "runs": "run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, "
    "artifact_uri, experiment_id",
    "params": "key, value, run_uuid",
    "tags": "key, value, run_uuid",
    "latest_metrics": "key, value, timestamp, step, is_nan, run_uuid",
    "metrics": "key, value, timestamp, step, is_nan, run_uuid",
}


def rows_by_table(size: Size, experiment: int) -> dict[str, Iterator[tuple[Any, ...]]]:
    return {
        "runs": run_rows(size, experiment),
        "params": param_rows(size),
        "tags": tag_rows(size),
        "latest_metrics": metric_rows(size, [size.points - 1]),
        "metrics": metric_rows(size, range(size.points)),
    }


def empty_store(uri: str) -> int:
    """MLflow's tables with one experiment; its id."""
    from mlflow import MlflowClient

    return int(MlflowClient(uri).create_experiment(EXPERIMENT, artifact_location="/gone"))


def sqlite_store(folder: Path, size: Size) -> str:
    """A sqlite store of that size, made if it is not there yet; its URI."""
    path = folder / f"{size.name}.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        experiment = empty_store(f"sqlite:///{partial}")
        with closing(sqlite3.connect(partial)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA cache_size = -500000")
            for table, rows in rows_by_table(size, experiment).items():
                marks = ", ".join("?" * (TABLES[table].count(",") + 1))
                database.executemany(f"INSERT INTO {table} ({TABLES[table]}) VALUES ({marks})", rows)
            database.commit()
        partial.rename(path)
    return f"sqlite:///{path.resolve()}"


def postgres_store(server: str, size: Size) -> str:
    """The same in a database of a PostgreSQL server."""
    name = f"lethe_{size.name}"
    with closing(connected(server)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone():
            return uri_of(server, name)
    fill_postgres(new_database(server, f"{name}_partial"), size)
    return renamed(server, f"{name}_partial", name)


def fill_postgres(uri: str, size: Size) -> None:
    import mlflow.store.tracking.sqlalchemy_store as mlflow_store

    experiment = empty_store(uri)
    mlflow_store.SqlAlchemyStore._engine_map.pop(uri).dispose()  # or the database could not be renamed
    with closing(connected(uri)) as connection:
        cursor = connection.cursor()
        for table, rows in rows_by_table(size, experiment).items():
            copied = Copied(rows)
            cursor.copy_expert(f"COPY {table} ({TABLES[table]}) FROM STDIN", copied)
        connection.commit()
        connection.autocommit = True
        cursor.execute("VACUUM ANALYZE")


class Copied:
    """Rows in the text format of COPY, as a file to read from."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._rest = ""

    def read(self, size: int = -1) -> str:
        while len(self._rest) < size:
            lines = "".join("\t".join(map(escaped, row)) + "\n" for row in islice(self._rows, 1000))
            if not lines:
                break
            self._rest += lines
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


def escaped(cell: object) -> str:
    return str(cell).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def file_store(folder: Path, size: Size) -> str:
    """The same as an old file store."""
    path = folder / f"{size.name}.mlruns"
    if not path.exists():
        partial = path.with_suffix(".partial")
        if partial.exists():
            shutil.rmtree(partial)
        (partial / "1").mkdir(parents=True)
        (partial / "1" / "meta.yaml").write_text(
            f"artifact_location: /gone\nexperiment_id: '1'\nlifecycle_stage: active\nname: {EXPERIMENT}\n"
        )
        for run, ident in enumerate(size.ids()):
            write_run(partial / "1" / ident, run, ident, size)
        partial.rename(path)
    return path.resolve().as_uri()


def write_run(folder: Path, run: int, ident: str, size: Size) -> None:
    for part in ("params", "metrics", "tags", "artifacts"):
        (folder / part).mkdir(parents=True)
    (folder / "meta.yaml").write_text(
        f"artifact_uri: /gone/{ident}/artifacts\nend_time: {time_of(run, 30)}\nentry_point_name: "
        "''\nexperiment_id: '1'\n"
        f"lifecycle_stage: active\nrun_id: {ident}\nrun_name: run {run}\nrun_uuid: {ident}\nsource_name: "
        "''\nsource_type: 4\n"
        f"source_version: ''\nstart_time: {time_of(run)}\nstatus: 3\ntags: []\nuser_id: me\n"
    )
    for tag, content, _ in islice(tag_rows(Size(1)), 4):
        (folder / "tags" / tag).write_text(f"run {run}" if tag == "mlflow.runName" else content)
    for which in range(size.params):
        (folder / "params" / f"param_{which:02}").write_text(param(run, which))
    for metric in range(size.metrics):
        lines = (f"{time_of(run, step)} {value(run, metric, step)} {step}\n" for step in range(size.points))
        (folder / "metrics" / f"metric_{metric:02}").write_text("".join(lines))
