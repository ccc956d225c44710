"""Whether a store answers now, asked at once and cheaply; to be asked patiently."""

from __future__ import annotations

from pathlib import Path

from tracking.patience import ANSWER_SECONDS, CONNECT_SECONDS, STATUSES

SERVER_ERROR = 500  # below it the server answers, if only to ask who we are


def ask_server(uri: str) -> None:
    """Raises requests' error where a server does not answer, or has trouble of its own."""
    import requests

    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
    if answer.status_code >= SERVER_ERROR or answer.status_code in STATUSES:
        raise requests.HTTPError(f"status {answer.status_code}", response=answer)


def ask_database(uri: str, file: Path | None) -> None:
    """Raises the driver's error where a database can't be used now: MLflow would try ten times, whatever the reason is, in two minutes.

    file: that of a sqlite store.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1" if file is None else "SELECT name FROM sqlite_master")).first()
