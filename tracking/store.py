"""Where runs go, checked before anything expensive begins: the store, the experiment, the place of its artifacts."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracking.artifact_place import check_place, new_place
from tracking.experiment_page import description_of, tags_of_new
from tracking.missing_driver import driver_told
from tracking.named_store import check_driver, check_folder, check_name
from tracking.shown_uri import one_line, without_password
from tracking.store_uri import (
    VARIABLE,
    database_of,
    is_folder,
    is_server,
    mlflow_uri,
    shown_uri,
    sqlite_uri,
    tracking_uri,
)

ANSWER_SECONDS = 5
SQLITE = b"SQLite format 3\0"  # how every database begins; one without a table is empty
ABANDONED_SECONDS = 3600  # a store is made in seconds
SERVER_ERROR = 500  # below it the server answers, if only to ask who we are
REDIRECTS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ACTIVE_MODEL_ID")


def check_store(experiment: str | None = None) -> None:
    """ValueError if runs can't be tracked: an experiment's name that can't be kept, a store that is none, a server that does not answer,
    a driver that is not installed, an old file store, which MLflow refuses."""
    if experiment is not None:
        check_name(experiment)
    uri = tracking_uri()
    database_of(uri)
    if is_server(uri):
        _check_server(uri)
    elif is_folder(uri):
        check_folder(uri)
    elif "://" in uri:
        check_driver(uri)


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


@contextmanager
def errors_of_the_store() -> Iterator[None]:
    """What MLflow and its database say, in one line that names the store."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ImportError as error:
        raise driver_told(tracking_uri(), error) from error
    except (MlflowException, SQLAlchemyError, OSError, NotImplementedError) as error:  # the last one: a file system without flock
        raise ValueError(f"the tracking store {shown_uri()} can't be used ({one_line(error)}). Correct or unset {VARIABLE}") from error


def open_experiment(name: str) -> str:
    """The id of an experiment, made if it is new, in a store that is made if it is new. Raises ValueError if neither can be.

    The first use of a sqlite file creates its tables, which several processes must not do at once: it happens under a lock, and
    elsewhere, so that a process that is killed over it leaves no half of a store. What a lock does not keep out, another machine or
    another user, loses: the store and the experiment that were there first count.
    """
    import filelock
    import mlflow

    check_name(name)
    uri = tracking_uri()
    for chatty in ("alembic", "mlflow.tracking.fluent"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)  # its warnings are what is raised in the end
    with errors_of_the_store():
        file = database_of(uri)
        if file is not None:
            _check_file(file)
        _give_to_mlflow(uri)
        with filelock.FileLock(_lock_of(file, uri)):
            if file is not None and not file.exists():
                _create(file)
            client = mlflow.MlflowClient()
            found = client.get_experiment_by_name(name)
            if found is None:
                return _new_experiment(client, uri, name)
            if found.lifecycle_stage != "active":
                raise ValueError(f"experiment {name!r} was deleted in MLflow. Restore it there, or choose another --experiment")
            if not is_server(uri):
                check_place(found.artifact_location, file, name)
            return found.experiment_id


def _give_to_mlflow(uri: str) -> None:
    """From now on MLflow's calls in this process go to this store, and a new run is a run of its own, whatever the environment names."""
    import mlflow

    named = os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(mlflow_uri(uri))
    if named is None:  # MLflow has written its own into the environment, where the next answer is looked for
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = named
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the password of a server's address
    for variable in REDIRECTS:
        if os.environ.pop(variable, None) is not None:
            print(f"note: {variable} is set, and left out: every run here is a new one, in the experiment of --experiment", file=sys.stderr)


def _check_file(file: Path) -> None:
    """OSError for a file that is something else, before a lock is left beside it. A folder that is new is made, as MLflow does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return
    if not file.is_file():
        raise OSError("it is no file")
    with file.open("rb") as opened:
        if opened.read(len(SQLITE)) not in (b"", SQLITE):
            raise OSError("file is not a database")


def _lock_of(file: Path | None, uri: str) -> Path:
    """Beside a sqlite file, so that it is one for all machines; each user's own, as others can't open it."""
    if file is not None:
        return file.with_name(f".{file.name}.{_user()}.lock")
    key = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lethe-store-{_user()}-{key}.lock"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def _new_experiment(client: Any, uri: str, name: str) -> str:
    """The id of an experiment that was not there a moment ago."""
    from mlflow.exceptions import MlflowException

    try:
        made: str = client.create_experiment(name, artifact_location=new_place(database_of(uri), name), tags=tags_of_new())
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
        SqlAlchemyStore(sqlite_uri(partial), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
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
