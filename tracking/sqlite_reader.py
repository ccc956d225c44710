"""Read MLflow's sqlite store without mlflow, an ORM, or locks that block a running job."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tracking import sorted_points
from tracking.patience import StoreTrouble, patiently
from tracking.selection import EVERY_RUN, Selection
from tracking.sql_store import VERSION, Rows, SqlStore, Unreadable, check_tables
from tracking.store_uri import sqlite_file
from tracking.stored_run import BrokenRun, StoredRun

TABLE_NAMES = "SELECT name FROM sqlite_master WHERE type = 'table'"
# By the order in which sqlite keeps the rows, so that each page is a short SELECT of its own, which no job
# that writes has to wait for.
PAGE = """
    SELECT rowid, run_uuid, key, step, timestamp, value, is_nan FROM metrics
    WHERE run_uuid IN {runs} AND rowid > {after} ORDER BY rowid LIMIT {at_once}
"""
AT_ONCE_SECONDS = 1  # Ctrl-C does not interrupt sqlite's own waiting


def schema_version(uri: str) -> str:
    """The alembic revision of a store. Raises ValueError if the file is missing or holds no MLflow store."""
    path = sqlite_file(uri)
    check_tables({bytes(name).decode() for (name,) in select(path, TABLE_NAMES)}, str(path))
    return " ".join(bytes(version).decode() for (version,) in select(path, VERSION))


def sqlite_store(uri: str, selection: Selection = EVERY_RUN) -> SqlStore:
    """A sqlite store's runs and histories.

    NaN and infinities come back as they were logged (MLflow's tables hold 0 with is_nan, and the largest
    float). Raises ValueError if the file is missing, damaged as a whole, locked or no database.
    """
    path = sqlite_file(uri)
    return SqlStore(
        str(path),
        lambda statement, runs: select(path, statement, runs),
        lambda run_id: pages(path, run_id),
        selection,
        bytes.decode,
    )


def read_sqlite(uri: str, selection: Selection = EVERY_RUN) -> Iterator[StoredRun | BrokenRun]:
    """Every selected active run of a sqlite store, oldest first, and a BrokenRun for each that holds what
    can't be.
    """
    return sqlite_store(uri, selection).runs()[1]


def connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ValueError(
            f"expected a sqlite store at {path}, got no such file. Check --tracking_uri, MLFLOW_TRACKING_URI "
            "and the current folder"
        )
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=AT_ONCE_SECONDS)
    connection.text_factory = (
        bytes  # decoded one run at a time, so that one garbled value costs one run and not the query
    )
    return connection


def select(path: Path, statement: str, runs: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of a statement, `runs` in the place of its {runs}. Raises Unreadable where the damage may be
    of these runs alone.
    """
    ids = [run if isinstance(run, str) else bytes(run).decode(errors="surrogateescape") for run in runs]
    filled = statement.format(runs=f"({','.join('?' * len(ids))})")

    def rows() -> list[tuple[Any, ...]]:
        with closing(connect(path)) as connection:
            return connection.execute(filled, ids).fetchall()

    try:
        return patiently(rows, of=sqlite3.Error)
    except StoreTrouble as trouble:
        error = trouble.__cause__
        if not isinstance(error, sqlite3.Error):
            raise
        if not trouble.refused:
            raise ValueError(
                f"expected a sqlite store that can be read, got {path}, which another program keeps locked "
                f"({trouble}). "
                "End that program, or start again when it is done"
            ) from error
        if runs and (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_CORRUPT:
            raise Unreadable(str(error)) from error
        if left_unfinished(path, error):
            raise ValueError(
                f"expected a sqlite store at rest, got {path} as a process left it that was killed while it "
                "wrote: what it had begun has "
                "to be undone or finished first, which takes a process that may write. Nothing is lost: open "
                "it once with MLflow, e.g. "
                f"mlflow ui --backend-store-uri sqlite:///{path}, and start again"
            ) from error
        raise ValueError(
            f"expected a readable sqlite store, got {path}: {error}. {way_out_of(error)}"
        ) from error


def pages(path: Path, run_id: str) -> Iterator[Rows]:
    """The rows of a run's history, AT_ONCE at a time. Raises as `select`."""
    after = -(2**63)
    while rows := select(
        path, PAGE.format(runs="{runs}", after=after, at_once=sorted_points.AT_ONCE), [run_id]
    ):
        yield [row[1:] for row in rows]
        after = rows[-1][0]


def way_out_of(error: sqlite3.Error) -> str:
    """Return advice for an unreadable database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return "Check that you may read it, and its folder"
    return "Restore it from a backup, or name another store"


def left_unfinished(path: Path, error: sqlite3.Error) -> bool:
    """Return whether a writer must first roll back the journal, or replay the log, of a killed process.

    SQLITE_READONLY and its extended codes (ROLLBACK, RECOVERY, CANTINIT, ...), for nothing is written here;
    SQLITE_CANTOPEN where the log is there and its index is not.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_READONLY or (
        code == sqlite3.SQLITE_CANTOPEN and path.with_name(f"{path.name}-wal").exists()
    )
