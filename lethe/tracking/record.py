"""Read a finished run: its params, metrics, tags and artifacts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.commands import named
from lethe.tracking.artifact_place import artifact_folder
from lethe.tracking.patience import StoreTrouble, environment, patiently
from lethe.tracking.shown_uri import without_password
from lethe.tracking.store_uri import database_of, mlflow_uri, tracking_uri
from lethe.tracking.stored_run import PARENT_TAG, infinity_restored

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


@dataclass(frozen=True)
class Record:
    """A finished run.

    metrics: latest values. images: digests of the image sets, by context. folder: of the artifacts. points:
    (step, value) of all values of each metric.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    images: dict[str, str]
    folder: Path
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def read_record(run_id: str, artifact_root: Path | None = None) -> Record:
    """Read the run with this id. Downloads artifacts that are not on this machine.

    artifact_root: the folder that has the experiments' folders of artifacts, if they were moved.
    Raises ValueError for a malformed id, a missing or unfinished run, the parent of several runs, artifacts
    that were moved or copied, and a store that can't be used.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise ValueError(
            f"expected a run's id, 32 digits and letters from a to f, got {run_id!r}. "
            f"{named('parse')} lists them"
        )
    uri = tracking_uri()
    file = database_of(uri)
    if file is not None and not file.exists():
        raise FileNotFoundError(
            f"expected a tracking store {without_password(uri)}, and there is none. Go to the folder of the "
            "run, or set MLFLOW_TRACKING_URI"
        )
    try:
        client, run = patiently(lambda: _found(uri, run_id), of=_errors())
        _check_single(client, run)
        local = artifact_folder(run.info.artifact_uri, artifact_root)
        folder = _downloaded(client, run_id) if local is None else _there(run_id, local, file, artifact_root)
        points = {name: _points(client, run_id, name) for name in run.data.metrics}
    except StoreTrouble as trouble:
        raise ValueError(
            f"no run {run_id} can be read from {without_password(uri)} ({trouble}). Check the id, and "
            "MLFLOW_TRACKING_URI"
        ) from trouble
    return Record(
        run_id,
        run.info.run_name or "",
        run.info.status,
        dict(run.data.params),
        {name: infinity_restored(value) for name, value in run.data.metrics.items()},
        dict(run.data.tags),
        dict(_images(run)),
        folder,
        points,
    )


def add_artifact(run_id: str, path: Path) -> None:
    """Add an artifact to a finished run. Raises ValueError if the store does not take it."""
    from mlflow import MlflowClient

    uri = tracking_uri()
    client = MlflowClient(tracking_uri=mlflow_uri(uri))
    try:
        patiently(lambda: client.log_artifact(run_id, str(path)), of=_errors())
    except StoreTrouble as trouble:
        raise ValueError(
            f"run {run_id}: {without_password(uri)} does not take {path.name} ({trouble}). Check whether you "
            "may write there"
        ) from trouble


def _errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError


def _found(uri: str, run_id: str) -> tuple[MlflowClient, Run]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri(uri))
    return client, client.get_run(run_id)


def _downloaded(client: MlflowClient, run_id: str) -> Path:
    with environment({PROGRESS_BAR: "false"}):
        return Path(patiently(lambda: client.download_artifacts(run_id, ""), of=_errors()))


def _there(run_id: str, folder: Path, store: Path | None, root: Path | None) -> Path:
    """Return the local folder of a run's artifacts. Raises ValueError if it is missing or ambiguous.

    The store names the original folder. If folder and store were copied, another one lies beside the store.
    """
    if not folder.is_dir():
        raise ValueError(
            f"run {run_id}: expected its artifacts in {folder}, and there is no such folder. If they were "
            "moved, name the folder of the experiments with --artifact_root, e.g. --artifact_root mlruns"
        )
    beside = None if store is None else store.parent.joinpath("mlruns", *folder.parts[-3:])
    if root is None and beside is not None and beside.is_dir() and not beside.samefile(folder):
        raise ValueError(
            f"run {run_id}: the store has its artifacts in {folder}, and beside the store there are others, "
            f"in {beside}: was the folder copied? Choose: --artifact_root {beside.parents[2]} or "
            f"--artifact_root {folder.parents[2]}"
        )
    return folder


def _check_single(client: MlflowClient, run: Run) -> None:
    if run.info.status != "FINISHED":
        reason = run.data.tags.get("error", "it was interrupted, or is still running")
        raise ValueError(
            f"run {run.info.run_id}: expected a FINISHED run, got {run.info.status} ({reason}). Verify "
            "another"
        )
    if run.data.tags.get("sweep") == "parent":
        own = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        found = patiently(lambda: client.search_runs([run.info.experiment_id], own), of=_errors())
        children = ", ".join(child.info.run_id for child in found)
        raise ValueError(
            f"run {run.info.run_id} is the parent of {len(found)} runs and has no numbers. Verify those: "
            f"{children}"
        )


def _points(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    found = patiently(lambda: client.get_metric_history(run_id, metric), of=_errors())
    return [(point.step, infinity_restored(point.value)) for point in found]


def _images(run: Run) -> Iterator[tuple[str, str]]:
    for one in run.inputs.dataset_inputs if run.inputs else ():
        for tag in one.tags:
            if tag.key == "mlflow.data.context":
                yield tag.value, one.dataset.digest
