"""Check and open the store, the experiment and the place of its artifacts, before anything expensive."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.flag_error import FlagError
from lethe.system.temporary_files import temporary_name
from lethe.tracking.alive import user
from lethe.tracking.artifact_place import check_place, new_place
from lethe.tracking.experiment_page import description_of, tags_of_new
from lethe.tracking.named_store import (
    check_driver,
    check_folder,
    check_name,
    check_sqlite,
    missing_driver_error,
)
from lethe.tracking.patience import (
    ANSWER_SECONDS,
    BUSY_STATUSES,
    CONNECT_SECONDS,
    StoreTrouble,
    patiently,
)
from lethe.tracking.shown_uri import without_password
from lethe.tracking.store_file import clean_beside, connect_anew, remove
from lethe.tracking.store_template import new_store
from lethe.tracking.store_uri import (
    DATABASES,
    FILE,
    SQLITE,
    VARIABLE,
    database_of,
    is_server,
    mlflow_uri,
    other_store,
    scheme_of,
    shown_uri,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

ON_DISK = re.compile(r"disk is full|disk I/O error|No space left|File too large|quota", re.IGNORECASE)
SQLITE_HEADER = b"SQLite format 3\0"  # a database without a table is empty
SERVER_ERROR = 500  # with a lower status the server answers, if only to ask for a password
REDIRECTS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ACTIVE_MODEL_ID")


def check_store(experiment: str | None = None) -> None:
    """Raise ValueError if runs can't be tracked.

    Causes: an invalid name of an experiment, an invalid store, a server that does not answer, a missing
    driver, an old file store.
    """
    if experiment is not None:
        check_name(experiment)
    uri = tracking_uri()
    scheme = scheme_of(uri)
    if scheme == SQLITE:
        check_sqlite(uri)
    elif is_server(uri):
        _check_server(uri)
    elif scheme == FILE:
        check_folder(uri)
    else:
        check_driver(uri)


def _check_server(uri: str) -> None:
    try:
        patiently(lambda: _ask_server(uri))
    except StoreTrouble as trouble:
        raise ValueError(
            f"the tracking server {without_password(uri)} does not answer ({trouble}). Start it, or correct "
            f"or unset {VARIABLE}"
        ) from trouble


def _ask_server(uri: str) -> None:
    """Raise requests' error if a server does not answer, or answers with a server error."""
    import requests

    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
    if answer.status_code >= SERVER_ERROR or answer.status_code in BUSY_STATUSES:
        raise requests.HTTPError(f"status {answer.status_code}", response=answer)


def open_experiment(name: str, columns: Sequence[str] = ()) -> str:
    """Return the id of an experiment; create store and experiment if they are new.

    columns: metrics that MLflow's list of runs shows first, in a new experiment. Raises ValueError on
    failure.

    Creates a sqlite file under a temporary name, so that a killed process leaves no half of a store. If
    several processes or machines do so at once, the first store and experiment win.
    """
    check_name(name)
    uri = tracking_uri()
    for chatty in ("alembic", "mlflow.tracking.fluent"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    file = database_of(uri)
    _set_in_mlflow(uri)
    try:
        found = patiently(lambda: _experiment(uri, file, name, columns))
    except StoreTrouble as trouble:
        if isinstance(trouble.__cause__, ImportError):
            raise missing_driver_error(uri, trouble.__cause__) from trouble
        raise ValueError(
            f"the tracking store {shown_uri()} can't be used ({trouble}). {remedy_for(trouble)}"
        ) from trouble
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        remedy = f"Choose another --experiment, or restore it: {restore}"
        raise FlagError("experiment", f"experiment {name!r} was deleted in MLflow. {remedy}", named=False)
    check_place(found.artifact_location, file, name)
    return found.experiment_id


def remedy_for(trouble: StoreTrouble) -> str:
    """Return advice for the user."""
    if ON_DISK.search(str(trouble)):
        return "Make room on the disk, or raise the limit of a file's size (ulimit -f)"
    if trouble.refused:
        return other_store()
    if trouble.state == "busy":
        return f"Start again when what holds it has ended, or set {VARIABLE} to another"
    return f"Start it, or correct or unset {VARIABLE}"


def _experiment(uri: str, file: Path | None, name: str, columns: Sequence[str]) -> Experiment:
    """Return the experiment; create it if it is new. file: of a sqlite store."""
    import filelock
    import mlflow

    if file is not None:
        _check_file(file)
    with filelock.FileLock(_lock_of(file, uri)):
        if file is not None:
            clean_beside(file)
            if not file.exists():
                _create(file)
            connect_anew(file)
        if scheme_of(uri) in DATABASES:
            _ask_database(mlflow_uri(uri), file)
        client = mlflow.MlflowClient()
        return client.get_experiment_by_name(name) or _new_experiment(client, file, name, columns)


def _ask_database(uri: str, file: Path | None) -> None:
    """Raise the driver's error if a database can't be used now. file: of a sqlite store.

    MLflow would retry ten times, over two minutes.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT 1" if file is None else "SELECT name FROM sqlite_master")).first()


def _set_in_mlflow(uri: str) -> None:
    """Make this process's MLflow use the store, and ignore a run named in the environment."""
    import mlflow

    named = os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(mlflow_uri(uri))  # writes it into the environment too
    os.environ.pop(VARIABLE, None)
    if named is not None:
        os.environ[VARIABLE] = named
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # the address may have a password
    for variable in REDIRECTS:
        if os.environ.pop(variable, None) is not None:
            print(f"note: {variable} is set and ignored: every run is new, in --experiment", file=sys.stderr)


def _check_file(file: Path) -> None:
    """Raise OSError for a file that is no sqlite database. Creates its folder, as MLflow does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return
    if not file.is_file():
        raise OSError("it is no file")
    with file.open("rb") as opened:
        if opened.read(len(SQLITE_HEADER)) not in (b"", SQLITE_HEADER):
            raise OSError("file is not a database")


def _lock_of(file: Path | None, uri: str) -> Path:
    """Return the lock file of a store: of this machine and user, among the temporary files.

    It spares the processes of a sweep the work of creating one store at once. It decides nothing: `_create`
    gives a store its name only if no other has it, and an experiment's name is unique in the database.
    """
    key = hashlib.sha256((uri if file is None else str(file)).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lethe-store-{user()}-{key}.lock"


def _new_experiment(client: MlflowClient, file: Path | None, name: str, columns: Sequence[str]) -> Experiment:
    """Create an experiment. If another machine does so at the same time, return its experiment."""
    from mlflow.exceptions import MlflowException

    place, tags = new_place(file, name), tags_of_new(columns)
    try:
        made = client.create_experiment(name, artifact_location=place, tags=tags)
    except MlflowException as error:
        found = None
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
    client.set_experiment_tag(made, "mlflow.note.content", description_of(made))
    return client.get_experiment(made)


def _create(file: Path) -> None:
    """Create a sqlite store with MLflow's tables under a temporary name, then give it its own name."""
    # Two containers may have one host name and the same process number: the token tells them apart.
    partial = temporary_name(file.with_name(f"{file.name}.{secrets.token_hex(4)}"))
    try:
        new_store(partial)
        os.link(partial, file)
    except FileExistsError:  # another machine was first: its store counts
        pass
    except OSError:
        if file.exists():
            return
        partial.rename(file)  # the file system has no hard links
    finally:
        remove(partial)
