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
    """What every kind of store answers."""

    def runs(self) -> tuple[int | None, Iterator[StoredRun | BrokenRun]]:
        """How many there are to look at, where that is known; the selected ones, and a BrokenRun for each that can't be read."""
        ...

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """All values of all metrics of these runs, which this store gave, sorted by run (as given), metric, step and time."""
        ...


@contextmanager
def open_store(uri: str, selection: Selection, notice: Callable[[str], None]) -> Iterator[Store]:
    """The store at `uri`.

    sqlite files, PostgreSQL and file-store folders are read directly, ten times faster than through MLflow and without importing
    it; anything else, and tables of a schema that this reader does not know (`notice` is told), through MLflow's client.
    Raises ValueError or OSError if the store can't be opened or read.
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
    return f"unknown schema version {version or '(none)'}: reading through MLflow's own client, which is slower"
