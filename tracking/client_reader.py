"""The runs of any store that MLflow can open (a server, PostgreSQL, ...), page by page through its own client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracking.stored_run import PARENT_TAG, WARNING_TAG, BrokenRun, StoredRun, infinity_restored

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 1000  # the most experiments and runs that every version of the server gives at once


def read_client(uri: str, page: int = PAGE) -> Iterator[StoredRun | BrokenRun]:
    """Every active run of every active experiment, and a BrokenRun for each that holds what can't be.

    Infinities are restored, as MLflow's databases hold the largest float instead.
    Raises ValueError if MLflow can't open the store, ConnectionError if a server does not answer.
    """
    try:
        experiments, runs = fetch(uri, page)
    except ImportError as error:
        message = f"expected mlflow and the driver of {uri} to be installed, got {error}. Install them (PostgreSQL's: psycopg2-binary)."
        raise ValueError(message) from error
    for run in runs:
        yield stored_run(run, experiments[run.info.experiment_id])


def fetch(uri: str, page: int) -> tuple[dict[str, str], list[Run]]:
    """The names of the active experiments by id, and their active runs. Raises as read_client does, ImportError without a driver."""
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with few_retries():
            client = MlflowClient(tracking_uri=uri)
            found = pages(lambda token: client.search_experiments(max_results=page, page_token=token))
            experiments = {experiment.experiment_id: experiment.name for experiment in found}
            runs = pages(lambda token: client.search_runs(list(experiments), max_results=page, page_token=token))
            return experiments, list(runs) if experiments else []
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        if uri.startswith("http"):
            raise ConnectionError(f"expected an MLflow server at {uri}, got {error}. Check the address and that it runs.") from error
        raise ValueError(f"expected a store that MLflow can read at {uri}, got {error}") from error


@contextmanager
def few_retries() -> Iterator[None]:
    """Give up on a silent server after seconds: MLflow's own seven retries take minutes. A person's setting stays."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    given = name in os.environ
    os.environ.setdefault(name, "2")
    try:
        yield
    finally:
        if not given:
            del os.environ[name]


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Every item of a paged search. The token, not an empty page, says where the end is."""
    token: str | None = None
    while True:
        found = search(token)
        yield from found
        token = found.token
        if not token:
            return


def stored_run(run: Run, experiment: str) -> StoredRun | BrokenRun:
    info, data = run.info, run.data
    try:
        return StoredRun(
            run_id=info.run_id,
            run_name=info.run_name or "",
            experiment=experiment,
            status=info.status,
            start_time=info.start_time,
            end_time=info.end_time,
            parent_run_id=data.tags.get(PARENT_TAG, ""),
            warning=data.tags.get(WARNING_TAG, ""),
            params=dict(data.params),
            metrics={key: infinity_restored(value) for key, value in data.metrics.items()},
        )
    except (ValueError, TypeError) as error:
        return BrokenRun(f"run {info.run_id}", str(error))
