"""Where runs go: MLflow's own defaults, checked before anything expensive begins."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from tracking.experiment_page import description_of, tags_of_new
from tracking.file_reader import is_file_store
from tracking.shown_uri import without_password
from tracking.sqlite_reader import database_path

DEFAULT_STORE = "sqlite:///mlflow.db"
ANSWER_SECONDS = 5
SQLITE = b"SQLite format 3\0"  # how every database begins; one without a table is empty
ABANDONED_SECONDS = 3600  # a store is made in seconds
SERVER_ERROR = 500  # below it the server answers, if only to ask who we are


def tracking_uri() -> str:
    """The environment's MLFLOW_TRACKING_URI, else MLflow's own default, mlflow.db in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def shown_uri() -> str:
    """The same for people to read: without a password."""
    return without_password(tracking_uri())


def check_store() -> None:
    """ValueError if runs can't be tracked: a server that does not answer, or an old file store that MLflow refuses."""
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    old_store = not os.environ.get("MLFLOW_TRACKING_URI") and not Path("mlflow.db").exists() and is_file_store(Path("mlruns"))
    if old_store and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise ValueError(
            "./mlruns is an old file store, which MLflow refuses. Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db "
            "to start a new store beside it, or MLFLOW_ALLOW_FILE_STORE=true to go on with the old one"
        )


def _check_server(uri: str) -> None:
    import requests

    try:
        status = requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS).status_code
        if status >= SERVER_ERROR:
            raise requests.HTTPError(f"status {status}")
    except requests.RequestException as error:
        shown = without_password(uri)
        raise ValueError(
            f"the tracking server {shown} does not answer ({type(error).__name__}). Start it, or correct or unset MLFLOW_TRACKING_URI"
        ) from error


def open_experiment(name: str) -> str:
    """The id of an experiment, made if it is new, in a store that is made if it is new. Raises ValueError if neither can be.

    The first use of a sqlite file creates its tables, which several processes must not do at once: it happens under a lock, and
    elsewhere, so that a process that is killed over it leaves no half of a store. What a lock does not keep out, another machine or
    another user, loses: the store and the experiment that were there first count.
    """
    import filelock
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri()
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    file = database_of(uri)
    try:
        if file is not None:
            _check_place(file)
        with filelock.FileLock(_lock_of(file, uri)):
            if file is not None and not file.exists():
                _create(file)
            client = mlflow.MlflowClient()
            found = client.get_experiment_by_name(name)
            if found is None:
                return _new_experiment(client, uri, name)
            if found.lifecycle_stage != "active":
                raise ValueError(f"experiment {name!r} was deleted in MLflow. Restore it there, or choose another --experiment")
            return found.experiment_id
    except (MlflowException, SQLAlchemyError, OSError, NotImplementedError) as error:  # the last one: a file system without flock
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the tracking store {shown_uri()} can't be used ({without_password(reason)}). Correct or unset MLFLOW_TRACKING_URI"
        ) from error


def _check_place(file: Path) -> None:
    """OSError for a file that is something else, before a lock is left beside it. A folder that is new is made, as MLflow does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return
    with file.open("rb") as opened:
        if opened.read(len(SQLITE)) not in (b"", SQLITE):
            raise OSError("file is not a database")


def _lock_of(file: Path | None, uri: str) -> Path:
    """Beside a sqlite file, so that it is one for all machines; each user's own, as others can't open it."""
    if file is not None:
        return file.with_name(f".{file.name}.{os.getuid()}.lock")
    key = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lethe-store-{os.getuid()}-{key}.lock"


def _new_experiment(client: Any, uri: str, name: str) -> str:
    """The id of an experiment that was not there a moment ago."""
    from mlflow.exceptions import MlflowException

    try:
        made: str = client.create_experiment(name, artifact_location=_artifact_location(uri, name), tags=tags_of_new())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
            raise
        made = found.experiment_id
        return made
    client.set_experiment_tag(made, "mlflow.note.content", description_of(made))
    return made


def _create(file: Path) -> None:
    """A new sqlite store as MLflow makes it, under a temporary name that is given up last."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}.partial")
    for other in file.parent.glob(f"{file.name}.*.partial"):
        if other == partial or _is_left_over(other, file):  # its own name: of a container that was killed, and had the same
            other.unlink(missing_ok=True)
    try:
        SqlAlchemyStore(f"sqlite:///{partial}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        with contextlib.suppress(FileExistsError):  # made on another machine meanwhile: that one counts
            os.link(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _is_left_over(partial: Path, file: Path) -> bool:
    """Whether nobody makes a store of it any more: its process, of this machine, is gone, or it is old."""
    host, _, process = partial.name.removeprefix(f"{file.name}.").removesuffix(".partial").rpartition(".")
    try:
        if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
            return True
        if host == socket.gethostname():
            os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # gone meanwhile, another user's, or a name of somebody else's
        return False
    return False


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a local sqlite file, whatever folder the process is in; the store's own choice otherwise."""
    file = database_of(uri)
    folder = re.sub(r"[^\w.+-]", "_", experiment)
    return None if file is None else (file.parent / "mlruns" / folder).as_uri()


def database_of(uri: str) -> Path | None:
    """The file of a local sqlite store; None for what is none, or in memory."""
    path = database_path(uri) if uri.startswith("sqlite") else Path()
    return None if str(path) in (".", ":memory:") else path.resolve()
