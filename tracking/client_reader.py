"""The runs of any store that MLflow can open (a server, MySQL, ...), page by page through its own client."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foreign_files import foreign_text
from tracking.missing_driver import missing_driver_error
from tracking.patience import StoreTrouble, environment, patiently
from tracking.run_filter import for_mlflow
from tracking.selection import EVERY_RUN, Selection
from tracking.shown_uri import without_password
from tracking.sorted_points import SortedPoints
from tracking.store_uri import VARIABLE, is_server, mlflow_uri
from tracking.stored_run import (
    PARENT_TAG,
    WARNING_TAG,
    BrokenRun,
    Point,
    StoredRun,
    checked_time,
    infinity_restored,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000  # the most experiments and runs that every version of the server gives at once
HISTORIES = (
    "/ajax-api/2.0/mlflow/metrics/get-history-bulk"  # what a server's own pages ask: one metric of many runs
)
MOST_RUNS, MOST_POINTS = 100, 25_000  # of one such answer

Answer = TypeVar("Answer")


@contextmanager
def client_store(uri: str, selection: Selection = EVERY_RUN, page: int = PAGE) -> Iterator[ClientStore]:
    """The store as MLflow's client sees it, while the context is open.

    Infinities are restored, as MLflow's databases hold the largest float instead.
    Raises ValueError if MLflow can't open the store, ConnectionError if a server does not answer.
    """
    with few_retries():
        try:
            from mlflow import MlflowClient

            client = asked(uri, lambda: MlflowClient(tracking_uri=mlflow_uri(uri)))
        except ImportError as error:
            raise missing_driver_error(uri, error) from error
        yield ClientStore(client, uri, selection, page)


def read_client(uri: str, page: int = PAGE) -> Iterator[StoredRun | BrokenRun]:
    """Every active run of every active experiment, and a BrokenRun for each that holds what can't be."""
    with client_store(uri, page=page) as store:
        yield from store.runs()[1]


def asked(uri: str, call: Callable[[], Answer]) -> Answer:
    """What a call of MLflow's answers; its errors in one line. Raises ConnectionError for a server, else
    ValueError.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return patiently(call, of=(MlflowException, SQLAlchemyError, CommandError))
    except StoreTrouble as trouble:
        if is_server(uri):
            raise ConnectionError(
                f"expected an MLflow server at {without_password(uri)}, got {trouble}. Check the address and "
                "that it runs"
            ) from trouble
        raise ValueError(
            f"expected a store that MLflow can read at {without_password(uri)}, got {trouble}. Check "
            f"--tracking_uri and {VARIABLE}"
        ) from trouble


def few_retries() -> AbstractContextManager[None]:
    """Give up on a silent server after seconds: MLflow's own seven retries take minutes. A person's setting
    stays.
    """
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    return environment({name: os.environ.get(name, "2")})


@dataclass(frozen=True)
class ClientStore:
    """A store behind MLflow's client; at most a page of its runs is in memory."""

    client: MlflowClient
    uri: str
    selection: Selection
    page: int = PAGE

    def runs(self) -> tuple[None, Iterator[StoredRun | BrokenRun]]:
        found = self._pages(
            lambda token: self.client.search_experiments(max_results=self.page, page_token=token)
        )
        names = {experiment.experiment_id: experiment.name for experiment in found}
        self.selection.check(names.values())
        return None, self._runs(
            {ident: name for ident, name in names.items() if self.selection.takes_experiment(name)}
        )

    def _runs(self, experiments: dict[str, str]) -> Iterator[StoredRun | BrokenRun]:
        if not experiments:
            return
        ids, wanted = list(experiments), self._wanted()
        for run in self._pages(
            lambda token: self.client.search_runs(ids, wanted, max_results=self.page, page_token=token)
        ):
            read = self._stored_run(run, experiments[run.info.experiment_id])
            if isinstance(read, BrokenRun) or (
                self.selection.takes_time(read.start_time) and self.selection.takes(read)
            ):
                yield read

    def _wanted(self) -> str:
        since = "" if self.selection.since is None else f"attributes.start_time >= {self.selection.since}"
        return " AND ".join(filter(None, (since, for_mlflow(self.selection.clauses))))

    def _pages(self, search: Callable[[str | None], Any]) -> Iterator[Any]:
        """Every item of a paged search."""
        for page in self._answers(search):
            yield from page

    def _answers(self, search: Callable[[str | None], Any]) -> Iterator[Any]:
        """The pages of a paged search. The token, not an empty page, says where the end is."""
        token: str | None = None
        while True:
            found = asked(self.uri, lambda: search(token))  # noqa: B023  # called at once
            yield found
            token = found.token
            if not token:
                return

    def _stored_run(self, run: Run, experiment: str) -> StoredRun | BrokenRun:
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
                artifact_uri=info.artifact_uri or "",
                tags={name: data.tags[name] for name in self.selection.tag_names if name in data.tags},
            )
        except (ValueError, TypeError) as error:
            return BrokenRun(f"run {info.run_id}", str(error))

    def artifact(self, run: StoredRun, name: str) -> str | None:
        """The text of a run's artifact, wherever the store keeps it; None where it has none of that name."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            try:
                return foreign_text(Path(self.client.download_artifacts(run.run_id, name, folder)))
            except (MlflowException, OSError, ValueError):
                return None

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        for start in range(0, len(runs), MOST_RUNS):
            some = runs[start : start + MOST_RUNS]
            broken: dict[str, str] = {}
            with SortedPoints([run.run_id for run in some]) as found:
                for name in sorted({name for run in some for name in run.metrics}):
                    for run_id, history in self._histories(
                        [run.run_id for run in some if name in run.metrics], name
                    ):
                        try:
                            found.add(
                                Point(run_id, name, step, checked_time(at), infinity_restored(value))
                                for step, at, value in history
                            )
                        except (ValueError, TypeError) as error:
                            broken[run_id] = str(error)
                yield from (
                    BrokenRun(f"history of run {run_id}", reason) for run_id, reason in broken.items()
                )
                yield from (point for point in found if point.run_id not in broken)

    def _histories(self, run_ids: list[str], name: str) -> Iterator[tuple[str, list[tuple]]]:
        """(run id, its (step, time, value)s) of one metric: by one request of many runs where a server has
        that, else one by one.
        """
        at_once = self._at_once(run_ids, name) if is_server(self.uri) else None
        if at_once is not None:
            yield from at_once.items()
            return
        for run_id in run_ids:
            for history in self._history_pages(run_id, name):
                yield run_id, [(point.step, point.timestamp, point.value) for point in history]

    def _history_pages(self, run_id: str, name: str) -> Iterator[Any]:
        """The values of one metric of one run, as many at a time as every version of the server gives: the
        client itself takes all.
        """
        store = self.client._tracking_client.store
        return self._answers(
            lambda token: store.get_metric_history(run_id, name, max_results=MOST_POINTS, page_token=token)
        )

    def _at_once(self, run_ids: list[str], name: str) -> dict[str, list[tuple]] | None:
        """None where the server has no such request, or has more values than it gives in one answer."""
        from mlflow.utils.rest_utils import http_request

        creds = self.client._tracking_client.store.get_host_creds()
        asking = {"run_id": run_ids, "metric_key": name, "max_results": MOST_POINTS}
        answer = asked(self.uri, lambda: http_request(creds, HISTORIES, "GET", params=asking))
        if not answer.ok:
            return None
        try:
            points = answer.json()["metrics"]
            if len(points) >= MOST_POINTS:
                return None
            found: dict[str, list[tuple]] = {run_id: [] for run_id in run_ids}
            for point in points:
                found[point["run_id"]].append((point["step"], point["timestamp"], float(point["value"])))
            return found
        except (ValueError, KeyError, TypeError):  # another server's answer to this path
            return None
