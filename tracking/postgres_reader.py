"""MLflow's PostgreSQL store, read-only and in one snapshot, through SQLAlchemy (which MLflow brings) and any
of its drivers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracking import sorted_points
from tracking.missing_driver import missing_driver_error
from tracking.patience import StoreTrouble, patiently
from tracking.selection import Selection
from tracking.shown_uri import one_line, without_password
from tracking.sql_store import HISTORY, VERSION, Pages, Rows, Select, SqlStore, check_tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLE_NAMES = "SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))"
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}  # blocks no writer


def is_postgres(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] == "postgresql"


@contextmanager
def postgres_store(uri: str, selection: Selection) -> Iterator[tuple[str, SqlStore]]:
    """The schema's alembic revision, and the store's runs and histories, while the context is open.

    Infinities are restored, as MLflow's tables hold the largest float. Raises ValueError if the database
    can't be opened or holds no MLflow store.
    """
    with connected(uri) as connection:
        select = selecting(connection)
        where = connection.engine.url.render_as_string(hide_password=True)
        check_tables({name for (name,) in select(TABLE_NAMES, ())}, where)
        yield (
            " ".join(name for (name,) in select(VERSION, ())),
            SqlStore(where, select, paging(connection), selection, str),
        )


@contextmanager
def connected(uri: str) -> Iterator[Connection]:
    shown = without_password(uri)
    try:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import SQLAlchemyError

        engine = create_engine(uri)
    except ImportError as error:
        raise missing_driver_error(uri, error) from error
    except SQLAlchemyError as error:
        raise ValueError(
            f"expected a PostgreSQL store, got {shown}: {one_line(error)}. Write e.g. "
            "postgresql+psycopg2://HOST/DATABASE"
        ) from error
    try:
        connection = patiently(engine.connect, of=SQLAlchemyError).execution_options(**SNAPSHOT)
    except StoreTrouble as trouble:
        raise ValueError(
            f"expected a PostgreSQL server at {shown}, got {trouble}. Check the address, the password, and "
            "that it runs"
        ) from trouble
    try:
        yield connection
    finally:
        connection.close()
        engine.dispose()


def selecting(connection: Connection) -> Select:
    """Return a function for the rows of a statement, with run ids for its {runs}."""
    from sqlalchemy import bindparam, text

    def select(statement: str, runs: Sequence[Any]) -> Rows:
        query = text(statement.format(runs=":runs"))
        with as_value_errors():
            if runs:
                rows = connection.execute(
                    query.bindparams(bindparam("runs", expanding=True)), {"runs": list(runs)}
                )
            else:
                rows = connection.execute(query)
            return [tuple(row) for row in rows]

    return select


def paging(connection: Connection) -> Pages:
    """Return a function for a run's history, from a server-side cursor, AT_ONCE rows at a time."""
    from sqlalchemy import text

    def pages(run_id: str) -> Iterator[Rows]:
        options = {"stream_results": True, "yield_per": sorted_points.AT_ONCE}
        with (
            as_value_errors(),
            connection.execute(
                text(HISTORY.format(runs="(:run)")), {"run": run_id}, execution_options=options
            ) as rows,
        ):
            for some in rows.partitions():
                yield [tuple(row) for row in some]

    return pages


@contextmanager
def as_value_errors() -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise ValueError(
            f"expected a readable PostgreSQL store, got {one_line(error)}. The server's log may say more"
        ) from error
