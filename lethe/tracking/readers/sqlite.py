"""Read MLflow's sqlite store without mlflow, an ORM, or locks that block a running job."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lethe.tracking import sorted_points
from lethe.tracking.patience import StoreTrouble, patiently
from lethe.tracking.readers.impl import register
from lethe.tracking.selection import EVERY_RUN, Selection
from lethe.tracking.sql_store import HISTORY, Rows, SqlStore, Unreadable
from lethe.tracking.store_uri import SQLITE, sqlite_file

TABLE_NAMES = "SELECT name FROM sqlite_master WHERE type = 'table'"
# In the order in which sqlite keeps the rows, so that each page is a short SELECT, which blocks no writer.
PAGE = """
    SELECT rowid, run_uuid, key, step, timestamp, value, is_nan FROM metrics
    WHERE run_uuid IN {runs} AND rowid > {after} ORDER BY rowid LIMIT {at_once}
"""
FIRST_ROWID = -(2**63)
LOCK_SECONDS = 1  # for one attempt: Ctrl-C does not interrupt sqlite's own waiting


@register("sqlite", schemes=(SQLITE,))
@contextmanager
def known_sqlite_store(uri: str, selection: Selection) -> Iterator[SqlStore]:
    """Open a sqlite store. Raises UnknownSchema, and ValueError if the file is missing or no MLflow store."""
    store = sqlite_store(uri, selection)
    store.check(TABLE_NAMES)
    yield store


def sqlite_store(uri: str, selection: Selection = EVERY_RUN) -> SqlStore:
    """Return the runs and histories of a sqlite store.

    NaN and infinities are as they were logged (MLflow's tables hold 0 with is_nan, and the largest float).
    The methods raise ValueError if the file is missing, damaged as a whole, locked or no database.
    """
    path = sqlite_file(uri)
    return SqlStore(
        str(path),
        lambda statement, runs: select(path, statement, runs),
        lambda runs: pages(path, runs),
        selection,
        bytes.decode,
    )


def connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ValueError(
            f"expected a sqlite store at {path}, got no such file. Check --tracking_uri, MLFLOW_TRACKING_URI "
            "and the current folder"
        )
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS)
    connection.text_factory = bytes  # decoded run by run, so that a garbled value breaks one run only
    return connection


def select(path: Path, statement: str, runs: Sequence[Any] = ()) -> Rows:
    """Return the rows of a statement, with the ids `runs` for its {runs}.

    Raises Unreadable if the damage may affect these runs alone, ValueError if the file can't be read.
    """
    ids = [run if isinstance(run, str) else bytes(run).decode(errors="surrogateescape") for run in runs]
    filled = statement.format(runs=f"({','.join('?' * len(ids))})")

    def rows() -> Rows:
        with closing(connect(path)) as connection:
            return connection.execute(filled, ids).fetchall()

    try:
        return patiently(rows, of=sqlite3.Error)
    except StoreTrouble as trouble:
        error = trouble.__cause__
        if not isinstance(error, sqlite3.Error):
            raise
        if runs and primary_code(error) == sqlite3.SQLITE_CORRUPT:
            raise Unreadable(str(error)) from error
        raise ValueError(explanation(path, error, trouble)) from error


def pages(path: Path, runs: Sequence[str]) -> Iterator[Rows]:
    """Yield the rows of runs' histories, AT_ONCE rows at a time for a single run. Raises as `select`."""
    if len(runs) > 1:
        yield select(path, HISTORY, runs)
        return
    at_once, after = sorted_points.AT_ONCE, FIRST_ROWID
    while rows := select(path, PAGE.format(runs="{runs}", after=after, at_once=at_once), runs):
        yield [row[1:] for row in rows]
        after = rows[-1][0]


def explanation(path: Path, error: sqlite3.Error, trouble: StoreTrouble) -> str:
    """Return the message for a database that can't be read."""
    if not trouble.refused:
        return (
            f"expected a sqlite store that can be read, got {path}, which another program keeps locked "
            f"({trouble}). End that program, or start again when it is done"
        )
    if left_unfinished(path, error):
        return (
            f"expected a sqlite store at rest, got {path} with an unfinished write of a process that was "
            "killed. Nothing is lost, but a process that may write has to undo or finish it first. Open it "
            f"once with MLflow, e.g. mlflow ui --backend-store-uri sqlite:///{path}, and start again"
        )
    forbidden = primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
    remedy = (
        "Check that you may read it, and its folder"
        if forbidden
        else "Restore it from a backup, or name another store"
    )
    return f"expected a readable sqlite store, got {path}: {error}. {remedy}"


def left_unfinished(path: Path, error: sqlite3.Error) -> bool:
    """Return whether a writer must first roll back the journal, or replay the log, of a killed process.

    SQLITE_READONLY: reading alone would have to write. SQLITE_CANTOPEN: the log is there and its index is
    not.
    """
    code = primary_code(error)
    return code == sqlite3.SQLITE_READONLY or (
        code == sqlite3.SQLITE_CANTOPEN and path.with_name(f"{path.name}-wal").exists()
    )


def primary_code(error: sqlite3.Error) -> int:
    """Return sqlite's code of an error without its extension; 0 if it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
