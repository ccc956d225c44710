"""Read any store that MLflow can open (a server, MySQL, ...), page by page, with MLflow's client."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lethe.system.foreign_files import foreign_text
from lethe.tracking.named_store import missing_driver_error
from lethe.tracking.patience import StoreTrouble, patiently
from lethe.tracking.readers.impl import ANY_STORE, register
from lethe.tracking.run_filter import for_mlflow
from lethe.tracking.selection import EVERY_RUN, Selection
from lethe.tracking.shown_uri import without_password
from lethe.tracking.sorted_points import sorted_histories
from lethe.tracking.store_uri import VARIABLE, is_server, mlflow_uri
from lethe.tracking.stored_run import (
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

PAGE = 1000  # experiments or runs per answer: the maximum of every version of the server
BULK_HISTORIES = (
    "/ajax-api/2.0/mlflow/metrics/get-history-bulk"  # one metric of many runs, for MLflow's own pages
)
MOST_RUNS, MOST_POINTS = 100, 25_000  # of one answer with histories

Answer = TypeVar("Answer")
Value = tuple[int, int, float]  # step, time, value


@register(ANY_STORE)
@contextmanager
def client_store(uri: str, selection: Selection = EVERY_RUN, page: int = PAGE) -> Iterator[ClientStore]:
    """Open a store with MLflow's client.

    Infinities are restored, as MLflow's databases hold the largest float instead. Raises ValueError if MLflow
    can't open the store, ConnectionError if a server does not answer.
    """
    try:
        from mlflow import MlflowClient

        client = asked(uri, lambda: MlflowClient(tracking_uri=mlflow_uri(uri)))
    except ImportError as error:
        raise missing_driver_error(uri, error) from error
    yield ClientStore(client, uri, selection, page)


def asked(uri: str, call: Callable[[], Answer]) -> Answer:
    """Call MLflow, and return its answer. Raises ConnectionError for a server, else ValueError."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return patiently(call, of=(MlflowException, SQLAlchemyError, CommandError))
    except StoreTrouble as trouble:
        shown = without_password(uri)
        if is_server(uri):
            raise ConnectionError(
                f"expected an MLflow server at {shown}, got {trouble}. Check the address and that it runs"
            ) from trouble
        raise ValueError(
            f"expected a store that MLflow can read at {shown}, got {trouble}. Check --tracking_uri and "
            f"{VARIABLE}"
        ) from trouble


@dataclass(frozen=True)
class ClientStore:
    """A store behind MLflow's client. Holds at most a page of its runs in memory."""

    client: MlflowClient
    uri: str
    selection: Selection
    page: int = PAGE

    def runs(self) -> tuple[None, Iterator[StoredRun | BrokenRun]]:
        found = self._items(
            lambda token: self.client.search_experiments(max_results=self.page, page_token=token)
        )
        names = {experiment.experiment_id: experiment.name for experiment in found}
        self.selection.check(names.values())
        taken = {ident: name for ident, name in names.items() if self.selection.takes_experiment(name)}
        return None, self._runs(taken)

    def _runs(self, experiments: dict[str, str]) -> Iterator[StoredRun | BrokenRun]:
        if not experiments:
            return
        ids, wanted = list(experiments), self._wanted()
        for run in self._items(
            lambda token: self.client.search_runs(ids, wanted, max_results=self.page, page_token=token)
        ):
            read = self._stored_run(run, experiments[run.info.experiment_id])
            if isinstance(read, BrokenRun) or self.selection.takes(read):
                yield read

    def _wanted(self) -> str:
        since = "" if self.selection.since is None else f"attributes.start_time >= {self.selection.since}"
        return " AND ".join(filter(None, (since, for_mlflow(self.selection.clauses))))

    def _items(self, search: Callable[[str | None], Any]) -> Iterator[Any]:
        """Yield every item of a paged search. A page may be empty; the last one has no token."""
        token: str | None = None
        while True:
            found = asked(self.uri, lambda: search(token))  # noqa: B023  # called at once
            yield from found
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
        """Return the text of a run's artifact, wherever the store keeps it; None if there is none."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = patiently(lambda: self.client.download_artifacts(run.run_id, name, folder), once=True)
                return foreign_text(Path(file))
            except (StoreTrouble, OSError, ValueError):
                return None

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        for start in range(0, len(runs), MOST_RUNS):
            some = runs[start : start + MOST_RUNS]
            yield from sorted_histories([run.run_id for run in some], self._parts(some))

    def _parts(self, runs: Sequence[StoredRun]) -> Iterator[tuple[str, Iterator[Point]]]:
        for name in sorted({name for run in runs for name in run.metrics}):
            ids = [run.run_id for run in runs if name in run.metrics]
            for run_id, values in self._histories(ids, name):
                yield (
                    run_id,
                    (
                        Point(run_id, name, step, checked_time(time), infinity_restored(value))
                        for step, time, value in values
                    ),
                )

    def _histories(self, run_ids: list[str], name: str) -> Iterator[tuple[str, Iterator[Value]]]:
        """Yield run ids with the values of one metric, from one bulk request if the server has it."""
        at_once = self._bulk(run_ids, name) if is_server(self.uri) else None
        for run_id in run_ids:
            yield run_id, self._history(run_id, name) if at_once is None else iter(at_once[run_id])

    def _history(self, run_id: str, name: str) -> Iterator[Value]:
        """Yield the values of one metric of one run. The client itself would hold all of them in memory."""
        store = self.client._tracking_client.store
        for point in self._items(
            lambda token: store.get_metric_history(run_id, name, max_results=MOST_POINTS, page_token=token)
        ):
            yield point.step, point.timestamp, point.value

    def _bulk(self, run_ids: list[str], name: str) -> dict[str, list[Value]] | None:
        """Return the values of one metric by run; None if the server can't give them in one answer."""
        from mlflow.utils.rest_utils import http_request

        creds = self.client._tracking_client.store.get_host_creds()
        wanted = {"run_id": run_ids, "metric_key": name, "max_results": MOST_POINTS}
        answer = asked(self.uri, lambda: http_request(creds, BULK_HISTORIES, "GET", params=wanted))
        if not answer.ok:
            return None
        try:
            points = answer.json()["metrics"]
            if len(points) >= MOST_POINTS:
                return None
            found: dict[str, list[Value]] = {run_id: [] for run_id in run_ids}
            for point in points:
                found[point["run_id"]].append((point["step"], point["timestamp"], float(point["value"])))
            return found
        except (ValueError, KeyError, TypeError):  # another server's answer to this path
            return None
