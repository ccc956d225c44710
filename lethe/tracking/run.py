"""Write an MLflow run and end it with the right status, even if the process or the store fails.

Uses MLflow's client alone: `mlflow.start_run` would continue the run in MLFLOW_RUN_ID, and end it as FINISHED
with the process.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.tracking.alive import OWNER, Claim
from lethe.tracking.entries import Artifact, Batch, Entry, InputSet, Point, together
from lethe.tracking.finished import end_abandoned_runs
from lethe.tracking.manifest import MANIFEST, Logged
from lethe.tracking.patience import StoreTrouble, patiently
from lethe.tracking.shown_uri import without_password
from lethe.tracking.signals import signals_wait
from lethe.tracking.store import open_experiment, remedy_for
from lethe.tracking.store_file import StoreFile
from lethe.tracking.store_uri import database_of, shown_uri, tracking_uri
from lethe.tracking.unlogged import Unlogged

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_PARAM, LONGEST_TAG = 6000, 5000
LONGEST_NAME = 250  # characters of a run's name in MLflow's tables


class StoreLost(ConnectionError):
    """Raised if the store did not take the whole run. The message names the folder of the rest."""


class TrackedRun:
    """Write into a run. Raises nothing if the store fails: what it does not take is kept, see `Unlogged`."""

    def __init__(self, run_id: str, experiment_id: str, name: str = "") -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.name = name
        self.unlogged: Unlogged | None = None
        self.logged = Logged()
        self.raw: Path | None = None  # the file of the run's numbers, for the message of a lost store
        self.started = int(time.time() * 1000)
        self._started = time.monotonic()
        self._away = False
        self._waiting: list[Batch] | None = None  # what `gathered` writes at its end
        self._file = StoreFile(database_of(tracking_uri()))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params as text. A param beyond MLflow's limit is cut; params/<name>.txt has all of it."""
        texts = {name: str(value) for name, value in values.items()}
        for name, text in texts.items():
            if len(text) > LONGEST_PARAM:
                self.text(text, f"params/{name}.txt")
        self._write(Batch(params={name: text[:LONGEST_PARAM] for name, text in texts.items()}))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at full precision. NaN becomes a tag `undefined.<name>`."""
        self._write(Batch(points=_points(values, self._now(), step)))
        self.tags({f"undefined.{name}": "not a number" for name in values if math.isnan(values[name])})

    def history(self, steps: Sequence[Mapping[str, float]], prefix: str) -> None:
        """Log a history in one batch. Steps are counted from 1."""
        self.points(dict(enumerate(steps, 1)), prefix)

    def points(self, steps: Mapping[int, Mapping[str, float]], prefix: str = "") -> None:
        """Log metrics by step in one batch, without NaN. Later `metrics` at the same step override them."""
        a_moment_ago = self._now() - 1  # at equal step and time MLflow takes the larger value
        points: list[Point] = []
        for step, values in steps.items():
            points += _points(values, a_moment_ago, step, prefix)
        self._write(Batch(points=points))

    def tags(self, values: Mapping[str, Any]) -> None:
        if values:
            self._write(Batch(tags={name: str(value)[:LONGEST_TAG] for name, value in values.items()}))

    def note(self, markdown: str) -> None:
        """Set the description on MLflow's page of the run."""
        self.tags({"mlflow.note.content": markdown})

    def image_set(self, name: str, digest: str, dataset: str, context: str) -> None:
        """Log a set of images as an input of the run, by name and digest."""
        self._write(InputSet(name, digest, dataset, context))

    def file(self, path: Path, folder: str = "") -> None:
        self._write(Artifact(path, folder))

    def text(self, content: str, name: str) -> None:
        """Log an artifact with this content. name: with its folder."""
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / file
            path.write_text(content, encoding="utf-8")
            self.file(path, folder)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Write the params, tags and metrics that are logged inside at the end, and together.

        Every write is a transaction of the store, which costs more than what is in it. Artifacts are written
        at once. Writes also if an exception leaves the block.
        """
        if self._waiting is not None:
            yield
            return
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            for batch in together(waiting):
                self._write(batch)

    def end(self, status: str) -> None:
        """Write the kept entries and end the run. Raises StoreLost if the store does not take all of it.

        A FINISHED run, which the store has whole, gets its manifest. Waits for a busy store only to end a
        FINISHED run without kept entries.
        """
        if self.unlogged is not None:
            self.unlogged.send(lambda entry: self._send(entry, once=True))
        left = self.unlogged.trouble if self.unlogged else None
        if left is None and status == "FINISHED":
            self._away = False
            left = self._log_manifest()
        if left is not None and left.refused and status == "FINISHED":
            status = "FAILED"
        once = status != "FINISHED" or self.unlogged is not None
        trouble = self._terminate(status, left, once)
        if trouble is not None or left is not None:
            raise StoreLost(self._loss(trouble, left))

    def _log_manifest(self) -> StoreTrouble | None:
        """Log the manifest and return None, or the reason why the store did not take it."""
        try:
            self.text(self.logged.manifest(self.run_id).as_json(), MANIFEST)
        except OSError as error:
            return StoreTrouble("wrong", f"{MANIFEST}: {error.strerror}")
        return self.unlogged.trouble if self.unlogged else None

    def _terminate(self, status: str, left: StoreTrouble | None, once: bool) -> StoreTrouble | None:
        """End the run and return None, or the reason why the store did not take that."""
        if left is not None and not left.refused:
            return left
        try:
            patiently(lambda: self._set_ended(status, left), reached=True, once=once)
        except StoreTrouble as trouble:
            return trouble
        return None

    def _set_ended(self, status: str, left: StoreTrouble | None) -> None:
        self._file.check()
        with signals_wait():
            if left is not None:
                self._client.set_tag(self.run_id, "error", f"the store did not take all of it: {left}")
            self._client.set_terminated(self.run_id, status, self._now())

    def _loss(self, trouble: StoreTrouble | None, left: StoreTrouble | None) -> str:
        """Return the message of StoreLost."""
        kept = f"All that run {self.run_id} logs is there"
        if left and self.unlogged:
            kept = f"What run {self.run_id} could not log is in {self.unlogged.folder}{self.unlogged.loss()}"
        numbers = f"; the numbers are in {self.raw}" if self.raw else ""
        status = (
            ". It says RUNNING until the next run on this machine begins, which ends it" if trouble else ""
        )
        return f"the tracking store {shown_uri()} was lost ({trouble or left}). {kept}{numbers}{status}"

    def _write(self, entry: Entry) -> None:
        if self._waiting is not None and isinstance(entry, Batch):
            self._waiting.append(entry)
            return
        self.logged.add(entry)
        try:
            if not self._away:
                self._send(entry)
                return
        except StoreTrouble as trouble:
            self._away = not trouble.refused
            self._kept.trouble = trouble
        self._kept.keep(entry)

    def _send(self, entry: Entry, *, once: bool = False) -> None:
        def write() -> None:
            self._file.check()
            entry.write(self._client, self.run_id)

        patiently(write, reached=True, once=once)

    @property
    def _kept(self) -> Unlogged:
        if self.unlogged is None:
            self.unlogged = Unlogged(self.run_id, self.name)
        return self.unlogged

    def _now(self) -> int:
        """Return milliseconds: the clock at the run's begin plus the monotonic time since."""
        return self.started + int((time.monotonic() - self._started) * 1000)

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient()


def _points(values: Mapping[str, float], time: int, step: int, prefix: str = "") -> list[Point]:
    """Return points of all values but NaN, which MLflow's tables hold as 0."""
    return [
        Point(f"{prefix}{name}", float(value), time, step)
        for name, value in values.items()
        if not math.isnan(value)
    ]


@contextmanager
def tracked_run(
    experiment: str,
    name: str,
    *,
    nested: bool = False,
    tags: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
) -> Iterator[TrackedRun]:
    """Begin a run; end it as FINISHED, KILLED (Ctrl-C, a signal) or FAILED (with the tag `error`).

    First ends runs whose processes have died. Signals wait while the run begins or ends.
    nested: a child of this process's latest run. columns: see open_experiment.
    Raises ValueError if the run can't begin, StoreLost if the store is lost later.
    """
    experiment_id = open_experiment(experiment, columns)
    if not nested:
        end_abandoned_runs()
    claim = Claim()
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 1]}…"  # its params have all of it
    run = TrackedRun("", experiment_id, name)
    parent = {"mlflow.parentRunId": _begun[-1].run_id} if nested and _begun else {}
    status = "FAILED"
    try:
        _begin(run, claim, {**(tags or {}), **parent})
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        if run.run_id:
            run.tags({"error": without_password(f"{type(error).__name__}: {error}")})
            run.text(without_password(traceback.format_exc()), "error.txt")
        raise
    finally:
        _end(run, claim, status)


def _begin(run: TrackedRun, claim: Claim, tags: Mapping[str, str]) -> None:
    """Create the run once: a retry after a lost answer finds the first run by this claim's tag."""
    client = run._client
    given = shown_tags({**tags, OWNER: claim.owner, "mlflow.runName": run.name})
    asked = False

    def create() -> None:
        nonlocal asked
        found = client.search_runs([run.experiment_id], f"tags.{OWNER} = '{claim.owner}'") if asked else []
        asked = True
        with signals_wait():
            made = found[0] if found else client.create_run(run.experiment_id, run.started, given, run.name)
            run.run_id = made.info.run_id
            run.logged.add(Batch(tags=given))
            _begun.append(run)

    try:
        patiently(create, reached=True)
    except StoreTrouble as trouble:
        raise ValueError(
            f"the tracking store {shown_uri()} takes no run ({trouble}). {remedy_for(trouble)}"
        ) from trouble
    _end_with_the_process()


def _end(run: TrackedRun, claim: Claim, status: str) -> None:
    """End a run. A lost store raises only if there is no other error; else it is printed."""
    lost: StoreLost | None = None
    if run.run_id:
        try:
            run.end(status)
        except StoreLost as error:
            lost = error
        _begun.remove(run)
    claim.release(ended=lost is None)
    if lost is not None and status == "FINISHED":
        raise lost
    if lost is not None:
        print(f"warning: {lost}", file=sys.stderr)


def shown_tags(own: Mapping[str, str]) -> dict[str, str]:
    """Return a new run's tags with those of MLflow (user, source, git), without passwords in addresses."""
    from mlflow.tracking.context.registry import resolve_tags

    return {name: without_password(str(value)) for name, value in resolve_tags(dict(own)).items()}


_begun: list[TrackedRun] = []  # this process's runs that have not ended


@cache
def _end_with_the_process() -> None:
    """End open runs at exit: a signal between two lines may leave one."""
    atexit.register(_end_as_killed, os.getpid())


def _end_as_killed(process: int) -> None:
    if os.getpid() != process:
        return  # a forked child has a copy of the list, and none of the runs
    while _begun:
        try:
            _begun.pop().end("KILLED")
        except StoreLost as lost:
            print(f"warning: {lost}", file=sys.stderr)
