"""An empty sqlite store of this MLflow, in the user's cache: a new store is a copy of it.

MLflow makes a new store by running all migrations since its first version, which takes a second or two. The
template is made once for each version of MLflow. It has MLflow's tables and the rows that migrations write:
no experiment, no path and no name.

`python -m lethe.tracking.store_template` makes it; `make_ahead` starts that in a process of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lethe.checkout import ROOT
from lethe.system.kept_files import keep, read_kept, throw_away
from lethe.system.user_cache import cache_folder
from lethe.tracking.store_file import disconnect
from lethe.tracking.store_uri import database_of, sqlite_uri, tracking_uri

LONGEST_WAIT = 60.0  # seconds for another process that makes the template


def template_file() -> Path | None:
    """Return the template's file, which may not be there; None without a cache or without MLflow."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        return folder / f"store-mlflow-{version('mlflow')}.template"
    except PackageNotFoundError:
        return None


def make_ahead() -> None:
    """Make the template in another process, while this one loads and trains, if a new store will need it."""
    file, store = template_file(), database_of(tracking_uri())
    if file is None or file.exists() or store is None or store.exists():
        return
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with contextlib.suppress(OSError):  # no more processes: then `new_store` makes it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lethe.tracking.store_template"],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        process.returncode = 0  # nobody waits for it, and Popen would warn of that


def new_store(database: Path) -> None:
    """Make a sqlite store of MLflow's, with its default experiment, in a file that is not there."""
    with _alone():
        content = read_template()
        if content is not None and _is_copied(content, database):
            return
        _open(database)
        keep_template(database)


def read_template() -> bytes | None:
    """Return the template, a sqlite file; None if there is none. A damaged one is removed."""
    file = template_file()
    return None if file is None else read_kept(file)


def keep_template(database: Path) -> None:
    """Make the template from a new store. Does nothing if the cache can't be written."""
    file = template_file()
    if file is None:
        return
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
        keep(file, _emptied(database, Path(folder) / "store.db"))


def _emptied(database: Path, copy: Path) -> bytes:
    """Return a store without its default experiment, which has a path of the user's. copy: a file for it."""
    with closing(sqlite3.connect(database)) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)
        here.execute("DELETE FROM experiments")
        here.commit()
        here.execute("VACUUM")  # a deleted row stays in the file until then
    return copy.read_bytes()


def _is_copied(content: bytes, database: Path) -> bool:
    """Copy the template to a new store; return whether MLflow takes it. One that it refuses is removed."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    database.write_bytes(content)
    try:
        _open(database)
    except (MlflowException, SQLAlchemyError):  # of a version whose migrations changed under the same name
        disconnect(database.resolve())
        database.unlink()
        if (file := template_file()) is not None:
            throw_away(file)
        return False
    return True


def _open(database: Path) -> None:
    """Have MLflow open a store: it makes the tables and the default experiment that are not there."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(sqlite_uri(database), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


@contextmanager
def _alone() -> Iterator[None]:
    """Wait, though not for ever, for another process that makes the template."""
    import filelock

    file = template_file()
    if file is None:
        yield
        return
    lock = filelock.FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=LONGEST_WAIT)
    except (OSError, filelock.Timeout):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def main() -> None:
    """Make the template, unless it is there."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        new_store(Path(folder) / "store.db")


if __name__ == "__main__":
    main()
