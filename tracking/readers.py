"""Every run of a tracking store, whatever kind of store it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tracking.client_reader import read_client
from tracking.file_reader import read_folder
from tracking.sqlite_reader import KNOWN_SCHEMAS, read_sqlite, schema_version
from tracking.stored_run import BrokenRun, StoredRun


def read_runs(uri: str, notice: Callable[[str], None]) -> Iterator[StoredRun | BrokenRun]:
    """Every active run of the store at `uri`; a run that can't be read comes as a BrokenRun.

    sqlite files and file-store folders are read directly, ten times faster than through MLflow and without importing it; anything
    else, and a sqlite store of a schema that this reader does not know (`notice` is told), through MLflow's client.
    Raises ValueError or OSError if the store can't be opened.
    """
    if uri.startswith("sqlite"):
        version = schema_version(uri)
        if version in KNOWN_SCHEMAS:
            return read_sqlite(uri)
        notice(f"unknown schema version {version or '(none)'}: reading through MLflow's own client, which is slower")
        return read_client(uri)
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        return read_folder(uri)
    return read_client(uri)
