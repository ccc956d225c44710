"""The file of a sqlite store: detect its replacement, and remove what killed processes left."""

from __future__ import annotations

import glob
import sys
from pathlib import Path

from lethe.system.temporary_files import is_left_over
from lethe.tracking.patience import StoreTrouble

PARTIAL = ".partial"
BESIDE = ("-journal", "-wal", "-shm")  # endings of sqlite's own files beside a database

Identity = tuple[int, int] | None  # None: there is no file


class StoreFile:
    """Detect that the file is deleted or replaced, which would lose later writes. None: no sqlite store."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.identity = _identity_of(file)

    def check(self) -> None:
        """Raise StoreTrouble if it is another file, or none."""
        now = _identity_of(self.file)
        if now != self.identity:
            change = "is not there any more" if now is None else "was replaced by another"
            raise StoreTrouble("wrong", f"{self.file} {change}")


def _identity_of(file: Path | None) -> Identity:
    try:
        status = None if file is None else file.stat()
    except FileNotFoundError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def connect_anew(file: Path) -> None:
    """Close MLflow's connections to a replaced file: they would write into the deleted one."""
    now = _identity_of(file)
    if _used.setdefault(file, now) != now:
        _used[file] = now
        disconnect(file)


def disconnect(file: Path) -> None:
    """Close MLflow's connections to a file, by its resolved path."""
    mlflow_stores = sys.modules.get("mlflow.store.tracking.sqlalchemy_store")
    if mlflow_stores is None:
        return
    for engine in mlflow_stores.SqlAlchemyStore._engine_map.values():
        if engine.url.database and Path(engine.url.database).resolve() == file:
            engine.dispose()


_used: dict[Path, Identity] = {}  # the files that this process has used


def clean_beside(file: Path) -> None:
    """Remove files of processes that were killed while they created the store."""
    for other in file.parent.glob(f"{glob.escape(file.name)}.*{PARTIAL}*"):
        partial = other.with_name(other.name.partition(PARTIAL)[0] + PARTIAL)
        if is_left_over(partial):
            remove(partial)


def remove(partial: Path) -> None:
    """Remove a database, and the files that sqlite keeps beside it."""
    for ending in ("", *BESIDE):
        partial.with_name(partial.name + ending).unlink(missing_ok=True)
