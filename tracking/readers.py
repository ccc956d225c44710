"""Every run of a tracking store, whatever kind of store it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from tracking.client_reader import client_store
from tracking.file_reader import FolderStore
from tracking.postgres_reader import is_postgres, postgres_store
from tracking.selection import Selection
from tracking.sql_store import KNOWN_SCHEMAS
from tracking.sqlite_reader import schema_version, sqlite_store
from tracking.store_uri import is_folder, is_sqlite
from tracking.stored_run import BrokenRun, Point, StoredRun


class Store(Protocol):
    """The interface of every kind of store."""

    def runs(self) -> tuple[int | None, Iterator[StoredRun | BrokenRun]]:
        """Return the number of candidates, if known; the selected runs, and a BrokenRun for each unreadable
        one.
        """
        ...

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """Yield all values of all metrics of runs from this store, sorted by run (as given), metric, step and
        time.
        """
        ...


@contextmanager
def open_store(uri: str, selection: Selection, notice: Callable[[str], None]) -> Iterator[Store]:
    """The store at `uri`.

    sqlite files, PostgreSQL and file-store folders are read directly, ten times faster than through MLflow
    and without importing it; anything else, and tables of an unknown schema (reported to `notice`), through
    MLflow's client. Raises ValueError or OSError if the store can't be opened or read.
    """
    if is_sqlite(uri):
        version = schema_version(uri)
        if version in KNOWN_SCHEMAS:
            yield sqlite_store(uri, selection)
            return
        notice(unknown(version))
    elif is_postgres(uri):
        with postgres_store(uri, selection) as (version, store):
            if version in KNOWN_SCHEMAS:
                yield store
                return
        notice(unknown(version))
    elif is_folder(uri):
        yield FolderStore(uri, selection)
        return
    with client_store(uri, selection) as through_mlflow:
        yield through_mlflow


def unknown(version: str) -> str:
    return (
        f"unknown schema version {version or '(none)'}: reading through MLflow's own client, which is slower"
    )
