"""Stores with runs of every kind, written by MLflow's client; conftest.py makes each once, as a fixture."""

import math

import pandas as pd
import pytest
from mlflow import MlflowClient

import mlruns_parser
from lethe.tracking.readers.mlflow_client import PAGE, client_store
from lethe.tracking.readers.sqlite import sqlite_store as directly_read
from lethe.tracking.selection import EVERY_RUN, Selection
from lethe.tracking.stored_run import BrokenRun, StoredRun

PARAMS = {
    "unlearn": "MIMU",
    "lr": "0.1",
    "group/lr": "1e-4",
    "commas": "a,b;c",
    "quotes": '"double" \'single\' "',
    "lines": "first\nsecond\r\nthird\rfourth\n",
    "unicode": "Größe ∑ 🙂 \u202e",
    "spaces": "  both ends ",
    "formula": "=1+1",
    "words": "nan",
    "long": "x" * 6000,
    "empty": "",
    "status": "a param named like a fixed column",
    "parent_run_id": "and like the parent",
}
METRICS = {
    "lr": 0.1 + 0.2,
    "test_forget_score": 1 / 3,
    "group/score": 5.0,
    "tiny": 5e-324,
    "nothing": math.nan,
    "up": math.inf,
    "down": -math.inf,
    "system/cpu": 12.5,
}


def fill(client: MlflowClient) -> dict[str, str]:
    """Runs of every kind; returns their ids by what they are."""
    first, second = client.create_experiment("digits-mlp"), client.create_experiment("Größe, zwei")
    full = client.create_run(first, start_time=1_700_000_000_123, run_name='all, "of"\nit').info.run_id
    for name, value in PARAMS.items():
        client.log_param(full, name, value)
    for name, number in METRICS.items():
        client.log_metric(full, name, number, timestamp=1_700_000_000_500)
    log_history(client, full)
    client.set_terminated(full, end_time=1_700_000_001_456)
    child = client.create_run(
        first, start_time=1_700_000_002_000, tags={"mlflow.parentRunId": full}
    ).info.run_id
    client.set_terminated(child, "FAILED", end_time=1_700_000_002_001)
    running = client.create_run(second, start_time=1_700_000_003_000).info.run_id
    killed = client.create_run(second, start_time=1_700_000_004_000).info.run_id
    client.set_terminated(killed, "KILLED")
    deleted = client.create_run(second).info.run_id
    client.delete_run(deleted)
    gone = client.create_experiment("gone")
    orphan = client.create_run(gone).info.run_id
    client.delete_experiment(gone)
    return {
        "full": full,
        "child": child,
        "running": running,
        "killed": killed,
        "deleted": deleted,
        "orphan": orphan,
    }


def log_history(client: MlflowClient, run_id: str) -> None:
    """Metrics whose latest value is not the last one that was logged."""
    for name, points in {
        "by_step": [(3, 10, 1.5), (1, 99, 2.5)],
        "by_time": [(0, 20, 1.5), (0, 10, 2.5)],
        "by_value": [(0, 10, 2.5), (0, 10, 1.5)],
        "negative_steps": [(-5, 10, 1.5), (-7, 11, 2.5)],
    }.items():
        for step, timestamp, value in points:
            client.log_metric(run_id, name, value, timestamp=timestamp, step=step)


class Store:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        client = MlflowClient(uri)
        self.ids = fill(client)
        self.names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        self.runs = {run.info.run_id: run for run in client.search_runs(list(self.names))}


@pytest.fixture(autouse=True)
def empty_place(tmp_path, monkeypatch):
    """Each test in a folder of its own, where no store is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def parse(*arguments: str) -> pd.DataFrame:
    """The table of all columns, by run."""
    every = () if "--history" in arguments or "--summary" in arguments else ("--all",)
    assert mlruns_parser.main([*every, *arguments, "--output", "out.csv"]) == 0
    return pd.read_csv("out.csv", dtype=str, keep_default_na=False).set_index("run_id", drop=False)


def sqlite_runs(uri: str, selection: Selection = EVERY_RUN) -> list[StoredRun | BrokenRun]:
    return list(directly_read(uri, selection).runs()[1])


def client_runs(uri: str, page: int = PAGE) -> list[StoredRun | BrokenRun]:
    with client_store(uri, page=page) as store:
        return list(store.runs()[1])
