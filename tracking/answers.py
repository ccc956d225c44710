"""A single cheap request that checks whether a store answers. Call it through `patiently`."""

from __future__ import annotations

from pathlib import Path

from tracking.patience import ANSWER_SECONDS, CONNECT_SECONDS, STATUSES

SERVER_ERROR = 500  # below it the server answers, if only to ask who we are


def ask_server(uri: str) -> None:
    """Raise requests' error if a server does not answer, or answers with a server error."""
    import requests

    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
    if answer.status_code >= SERVER_ERROR or answer.status_code in STATUSES:
        raise requests.HTTPError(f"status {answer.status_code}", response=answer)


def ask_database(uri: str, file: Path | None) -> None:
    """Raise the driver's error if a database can't be used now. (MLflow would retry ten times, over two
    minutes.)

    file: of a sqlite store.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1" if file is None else "SELECT name FROM sqlite_master")).first()
