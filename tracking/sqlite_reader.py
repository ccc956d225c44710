"""The runs of MLflow's sqlite store by four SELECTs, read-only: no mlflow, no ORM, no lock that a running job would feel."""

from __future__ import annotations

import functools
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tracking.stored_run import PARENT_TAG, RUN_NAME_TAG, WARNING_TAG, BrokenRun, StoredRun, infinity_restored

TABLES = {"alembic_version", "experiments", "runs", "params", "tags", "latest_metrics"}

# Every alembic revision of MLflow's migrations from the one that made latest_metrics to the head of MLflow 3.17.
# The SELECTs below were run against a store migrated to each of them.
REVISIONS = """
    89d4b8295536 2b4d017a5e9b cfd24bdc0731 0a8213491aaa 728d730b5ebd 27a6a02d2cf1 84291f40a231 a8c4a736bde6 39d1c3be5f05 c48cb773bb87
    bd07f7e963c5 0c779009ac13 cc1f77228345 97727af70f4d 3500859a5d39 7f2a7d5fae7d 2d6e25af4d3e acf3f17fdcc7 867495a8f9d4 5b0e9adcef9c
    4465047574b1 f5a4f2784254 0584bdc529eb 400f98739977 6953534de441 bda7b8c39065 cbc13b556ace 770bee3ae1dd a1b2c3d4e5f6 de4033877273
    1a0cddfcaa16 534353b11cbc 71994744cf8e 3da73c924c2f bf29a5ff90ea 1bd49d398cd23 b7c8d9e0f1a2 5d2d30f0abce c9d4e5f6a7b8 2c33131f4dae
    d3e4f5a6b7c8 d0e1f2a3b4c5 c8d9e0f1a2b3 1b5f0d9ad7c1 e1f2a3b4c5d6 76601a5f987d c3d6457b6d8a a5b4c3d2e1f0 ae8bbe7743c9 7d34483879f0
    da6fb0208061 89d3d66ed43f b7e4c1a90f23 a8b9c0d1e2f3 c1d2e3f4a5b6 c3d9e7f1a2b4 6f8d9c3b2a1e 1971f2d9a75b 17e22815139b b7e2c1a4d9f3
    75868b020152 dc11669786a5
"""
KNOWN_SCHEMAS = frozenset(REVISIONS.split())

# LEFT JOIN: a run whose experiment is gone from the table must be reported, not lost.
RUNS = """
    SELECT run_uuid, runs.name, status, start_time, end_time, experiment_id, experiments.name
    FROM runs LEFT JOIN experiments USING (experiment_id)
    WHERE runs.lifecycle_stage = 'active' AND (experiments.lifecycle_stage = 'active' OR experiments.experiment_id IS NULL)
    ORDER BY start_time, run_uuid
"""
PARAMS = "SELECT run_uuid, key, value FROM params"
METRICS = "SELECT run_uuid, key, value, is_nan FROM latest_metrics"
TAGS = f"SELECT run_uuid, key, value FROM tags WHERE key IN ('{RUN_NAME_TAG}', '{PARENT_TAG}', '{WARNING_TAG}')"

Texts = dict[bytes, dict[bytes, bytes]]
Numbers = dict[bytes, dict[bytes, object]]

text = functools.cache(bytes.decode)  # names repeat in every run


def database_path(uri: str) -> Path:
    """The file of a `sqlite:///...` URI as SQLAlchemy reads it: three slashes relative, four absolute, options after `?`."""
    return Path(uri.partition(":///")[2].partition("?")[0])


def schema_version(uri: str) -> str:
    """The alembic revision of a store. Raises ValueError if the file is missing or holds no MLflow store."""
    path = database_path(uri)
    with closing(connect(path)) as connection:
        tables = {bytes(name).decode() for (name,) in select(connection, path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := TABLES - tables:
            raise ValueError(f"expected an MLflow store in {path}, got a database without {', '.join(sorted(missing))}. Check the path.")
        return " ".join(bytes(version).decode() for (version,) in select(connection, path, "SELECT version_num FROM alembic_version"))


def read_sqlite(uri: str) -> Iterator[StoredRun | BrokenRun]:
    """Every active run of a sqlite store, oldest first, and a BrokenRun for each that holds what can't be.

    NaN and infinities come back as they were logged (MLflow's tables hold 0 with is_nan, and the largest float).
    Raises ValueError if the file is missing, damaged, locked or no database.
    """
    path = database_path(uri)
    with closing(connect(path)) as connection:
        # Runs first: what a job logs meanwhile can then only complete a run that is already here. One transaction
        # around all four would hold off that job's writes for as long as the reading takes.
        runs = select(connection, path, RUNS)
        params, tags = texts(select(connection, path, PARAMS)), texts(select(connection, path, TAGS))
        metrics = numbers(select(connection, path, METRICS))
    for run in runs:
        yield stored_run(path, run, params[run[0]], metrics[run[0]], tags[run[0]])


def connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ValueError(f"expected a sqlite store at {path}, got no such file. Check --tracking_uri and the current folder.")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    connection.text_factory = bytes  # decoded one run at a time, so that one garbled value costs one run and not the query
    return connection


def select(connection: sqlite3.Connection, path: Path, query: str) -> list[tuple]:
    try:
        return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"expected a readable sqlite store, got {path}: {error}. Restore it from a backup or name another.") from error


def texts(rows: list[tuple]) -> Texts:
    by_run: Texts = defaultdict(dict)
    for run_id, key, value in rows:
        by_run[run_id][key] = value
    return by_run


def numbers(rows: list[tuple]) -> Numbers:
    by_run: Numbers = defaultdict(dict)
    for run_id, key, value, is_nan in rows:
        by_run[run_id][key] = float("nan") if is_nan else value
    return by_run


def stored_run(
    path: Path, run: tuple, params: dict[bytes, bytes], metrics: dict[bytes, object], tags: dict[bytes, bytes]
) -> StoredRun | BrokenRun:
    run_id, name, status, start_time, end_time, experiment_id, experiment = run
    try:
        if experiment is None:
            raise ValueError(f"its experiment {experiment_id} is not in the store")
        return StoredRun(
            run_id=text(run_id),
            run_name=text(name or tags.get(RUN_NAME_TAG.encode()) or b""),
            experiment=text(experiment),
            status=text(status),
            start_time=start_time,
            end_time=end_time,
            parent_run_id=text(tags.get(PARENT_TAG.encode()) or b""),
            warning=bytes.decode(tags.get(WARNING_TAG.encode()) or b""),
            params={text(key): bytes.decode(value) for key, value in params.items()},
            metrics={text(key): metric_value(key, value) for key, value in metrics.items()},
        )
    except (ValueError, TypeError) as error:  # TypeError: sqlite's columns take any type, so a text can be a number
        return BrokenRun(f"{path}, run {printable(run_id)}", str(error))


def metric_value(key: bytes, value: object) -> float:
    if not isinstance(value, float):
        raise ValueError(f"expected a number as metric {printable(key)}, got {value!r}")
    return infinity_restored(value)


def printable(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else repr(value)
