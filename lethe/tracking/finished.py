"""Find finished runs, and end runs whose processes have died.

A run's key is its experiment and its config_hash.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from lethe.tracking.alive import OWNER, has_died
from lethe.tracking.patience import StoreTrouble, patiently
from lethe.tracking.readers import open_store
from lethe.tracking.selection import Selection
from lethe.tracking.store import open_experiment, remedy_for
from lethe.tracking.store_uri import database_of, shown_uri, tracking_uri
from lethe.tracking.stored_run import BrokenRun

HASH = "config_hash"
MOST_EXPERIMENTS = 1000

RunKey = tuple[str, str]  # experiment, config_hash


def finished_keys() -> set[RunKey]:
    """Return the key of every FINISHED run. Raises ValueError or OSError if the store can't be read."""
    uri = tracking_uri()
    file = database_of(uri)
    if file is not None and not file.exists():
        return set()
    with open_store(uri, Selection(tags=(HASH,)), notice=lambda _: None) as store:
        runs = (run for run in store.runs()[1] if not isinstance(run, BrokenRun))
        finished = (run for run in runs if run.status == "FINISHED" and HASH in run.tags)
        return {(run.experiment, run.tags[HASH]) for run in finished}


def finished_run(key: RunKey, columns: Sequence[str] = ()) -> str | None:
    """Return the id of the FINISHED run with this key, or None. Ends runs of dead processes first.

    columns: see open_experiment. Raises ValueError if the store can't be read.
    """
    from mlflow import MlflowClient

    experiment, config_hash = key
    experiment_id = open_experiment(experiment, columns)  # first, as it creates a new store
    end_abandoned_runs()
    client = MlflowClient()
    wanted = f"tags.{HASH} = '{config_hash}' and attributes.status = 'FINISHED'"
    try:
        found = patiently(lambda: client.search_runs([experiment_id], wanted, max_results=1), reached=True)
    except StoreTrouble as trouble:
        raise ValueError(
            f"the tracking store {shown_uri()} can't be read ({trouble}). {remedy_for(trouble)}"
        ) from trouble
    return found[0].info.run_id if found else None


def end_abandoned_runs() -> None:
    """End the runs of dead processes of this machine as KILLED.

    Ignores a store that can't be used: the next write reports it.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    try:
        for run in patiently(lambda: _running(client), reached=True):
            owner = run.data.tags.get(OWNER, "")
            if has_died(owner):
                patiently(lambda: _end(client, run.info.run_id, owner), reached=True)  # noqa: B023  # called at once
    except StoreTrouble:
        return


def _running(client: Any) -> list[Any]:
    experiments = [one.experiment_id for one in client.search_experiments(max_results=MOST_EXPERIMENTS)]
    own = f"attributes.status = 'RUNNING' and tags.{OWNER} LIKE '{socket.gethostname()} %'"
    return list(client.search_runs(experiments, own))


def _end(client: Any, run_id: str, owner: str) -> None:
    """End a run as KILLED, unless it has ended in the meantime."""
    info = client.get_run(run_id).info
    if info.status == "RUNNING":
        client.set_tag(
            run_id, "error", f"its process ended before it did, or lost the tracking store ({owner})"
        )
        client.set_terminated(run_id, "KILLED", max(info.start_time, int(time.time() * 1000)))
