"""Which jobs are done: a job is the hash of its settings within an experiment, and done by the one run that FINISHED with it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from tracking.stored_run import BrokenRun

HASH, OWNER = "config_hash", "owner"

Job = tuple[str, str]  # experiment, config_hash


def tags_of(config_hash: str, lock: Path) -> dict[str, str]:
    """What the run of a job has from its beginning: its hash, and the process that may be killed over it, with the lock that it holds."""
    return {HASH: config_hash, OWNER: f"{socket.gethostname()} {os.getpid()} {lock}"}


def held_by(owner: str, lock: Path) -> bool:
    """Whether a run's owner held this very lock: the file of that path on this machine."""
    host, _, rest = owner.partition(" ")
    return host == socket.gethostname() and rest.partition(" ")[2] == str(lock)


def finished_jobs() -> set[Job]:
    """Every job that the tracking store has a FINISHED run of, asked once. Raises ValueError or OSError if it can't be read."""
    from tracking.readers import open_store
    from tracking.selection import Selection
    from tracking.store_uri import database_of, tracking_uri

    uri = tracking_uri()
    file = database_of(uri)
    if file is not None and not file.exists():
        return set()
    with open_store(uri, Selection(tags=(HASH,)), notice=lambda _: None) as store:
        runs = (run for run in store.runs()[1] if not isinstance(run, BrokenRun))
        return {(run.experiment, run.tags[HASH]) for run in runs if run.status == "FINISHED" and HASH in run.tags}


def finished_run(job: Job, lock: Path) -> str | None:
    """The id of the job's FINISHED run, if there is one. Ends those that were cut off, see end_cut_off_runs."""
    return next((run.info.run_id for run in end_cut_off_runs(job, lock) if run.info.status == "FINISHED"), None)


def end_cut_off_runs(job: Job, lock: Path) -> list[Any]:
    """End the job's cut-off runs as KILLED; all of its runs, as MLflow found them. lock: the job's, which this process holds.

    A cut-off run is one that says RUNNING and whose owner held this lock: whoever runs a job holds it for as long. What the processes
    of other folders and machines, that share the store, run, is theirs: from here nobody can tell whether it goes on.
    """
    import mlflow

    from tracking.store import open_experiment

    experiment, config_hash = job
    experiment_id = open_experiment(experiment)  # first: it makes a store that is new, which many may want at once
    client = mlflow.MlflowClient()
    runs = client.search_runs([experiment_id], f"tags.{HASH} = '{config_hash}'")
    for run in runs:
        if run.info.status == "RUNNING" and held_by(run.data.tags.get(OWNER, ""), lock):
            client.set_tag(run.info.run_id, "error", f"killed, with its process ({run.data.tags[OWNER]})")
            client.set_terminated(run.info.run_id, "KILLED")
    return list(runs)
