"""Read MLflow's PostgreSQL store in one read-only snapshot, with any of SQLAlchemy's drivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lethe.tracking import sorted_points
from lethe.tracking.named_store import missing_driver_error
from lethe.tracking.patience import StoreTrouble, patiently
from lethe.tracking.readers.impl import register
from lethe.tracking.selection import Selection
from lethe.tracking.shown_uri import one_line, without_password
from lethe.tracking.sql_store import HISTORY, Pages, Rows, Select, SqlStore

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause

TABLE_NAMES = "SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))"
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}  # blocks no writer


@register("postgresql", schemes=("postgresql",))
@contextmanager
def postgres_store(uri: str, selection: Selection) -> Iterator[SqlStore]:
    """Open a PostgreSQL store.

    Infinities are restored, as MLflow's tables hold the largest float. Raises UnknownSchema, and ValueError
    if the database can't be opened or holds no MLflow store.
    """
    with connected(uri) as connection:
        where = connection.engine.url.render_as_string(hide_password=True)
        store = SqlStore(where, selecting(connection), paging(connection), selection, str)
        store.check(TABLE_NAMES)
        yield store


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
        connection = patiently(lambda: engine.connect().execution_options(**SNAPSHOT), of=SQLAlchemyError)
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

    def select(statement: str, runs: Sequence[Any]) -> Rows:
        query, values = query_of(statement, runs)
        with as_value_errors():
            return [tuple(row) for row in connection.execute(query, values)]

    return select


def paging(connection: Connection) -> Pages:
    """Return a function for the histories of runs, from a server-side cursor, AT_ONCE rows at a time."""

    def pages(runs: Sequence[str]) -> Iterator[Rows]:
        options = {"stream_results": True, "yield_per": sorted_points.AT_ONCE}
        query, values = query_of(HISTORY, runs)
        with as_value_errors(), connection.execute(query, values, execution_options=options) as rows:
            for some in rows.partitions():
                yield [tuple(row) for row in some]

    return pages


def query_of(statement: str, runs: Sequence[Any]) -> tuple[TextClause, dict[str, list[Any]]]:
    """Return a query and its values, with run ids for {runs}."""
    from sqlalchemy import bindparam, text

    query = text(statement.format(runs=":runs"))
    if not runs:
        return query, {}
    return query.bindparams(bindparam("runs", expanding=True)), {"runs": list(runs)}


@contextmanager
def as_value_errors() -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise ValueError(
            f"expected a readable PostgreSQL store, got {one_line(error)}. The server's log may say more"
        ) from error
