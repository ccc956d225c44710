"""Read runs from MLflow's tables in sqlite and PostgreSQL, with a short SELECT for some hundred runs."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lethe.tracking import sorted_points
from lethe.tracking.selection import Selection
from lethe.tracking.sorted_points import sorted_histories
from lethe.tracking.stored_run import (
    PARENT_TAG,
    RUN_NAME_TAG,
    WARNING_TAG,
    BrokenRun,
    Point,
    StoredRun,
    checked_time,
    infinity_restored,
)

TABLES = {"alembic_version", "experiments", "runs", "params", "tags", "latest_metrics", "metrics"}

# Alembic revisions of MLflow, from the one that made latest_metrics to MLflow 3.17's last.
# The SELECTs below were run against a store migrated to each of them.
REVISIONS = """
    89d4b8295536 2b4d017a5e9b cfd24bdc0731 0a8213491aaa 728d730b5ebd 27a6a02d2cf1 84291f40a231 a8c4a736bde6
    39d1c3be5f05 c48cb773bb87 bd07f7e963c5 0c779009ac13 cc1f77228345 97727af70f4d 3500859a5d39 7f2a7d5fae7d
    2d6e25af4d3e acf3f17fdcc7 867495a8f9d4 5b0e9adcef9c 4465047574b1 f5a4f2784254 0584bdc529eb 400f98739977
    6953534de441 bda7b8c39065 cbc13b556ace 770bee3ae1dd a1b2c3d4e5f6 de4033877273 1a0cddfcaa16 534353b11cbc
    71994744cf8e 3da73c924c2f bf29a5ff90ea 1bd49d398cd23 b7c8d9e0f1a2 5d2d30f0abce c9d4e5f6a7b8 2c33131f4dae
    d3e4f5a6b7c8 d0e1f2a3b4c5 c8d9e0f1a2b3 1b5f0d9ad7c1 e1f2a3b4c5d6 76601a5f987d c3d6457b6d8a a5b4c3d2e1f0
    ae8bbe7743c9 7d34483879f0 da6fb0208061 89d3d66ed43f b7e4c1a90f23 a8b9c0d1e2f3 c1d2e3f4a5b6 c3d9e7f1a2b4
    6f8d9c3b2a1e 1971f2d9a75b 17e22815139b b7e2c1a4d9f3 75868b020152 dc11669786a5
"""
KNOWN_SCHEMAS = frozenset(REVISIONS.split())

BATCH = 500  # runs per SELECT: old versions of sqlite take 999 placeholders

VERSION = "SELECT version_num FROM alembic_version"
# LEFT JOIN: a run whose experiment is missing from the table must be reported, not lost.
RUNS = """
    SELECT run_uuid, runs.name, status, start_time, end_time, artifact_uri, runs.experiment_id,
        experiments.name
    FROM runs LEFT JOIN experiments ON runs.experiment_id = experiments.experiment_id
    WHERE runs.lifecycle_stage = 'active'
        AND (experiments.lifecycle_stage = 'active' OR experiments.experiment_id IS NULL)
    ORDER BY start_time, run_uuid
"""
EXPERIMENTS = "SELECT name FROM experiments WHERE lifecycle_stage = 'active'"
PARAMS = "SELECT run_uuid, key, value FROM params WHERE run_uuid IN {runs}"
TAGS = "SELECT run_uuid, key, value FROM tags WHERE run_uuid IN {runs}"
METRICS = "SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN {runs}"
HISTORY = "SELECT run_uuid, key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid IN {runs}"
LENGTHS = "SELECT run_uuid, count(*) FROM metrics WHERE run_uuid IN {runs} GROUP BY run_uuid"

Item = TypeVar("Item")
Head = tuple[Any, ...]
Rows = list[tuple[Any, ...]]
Select = Callable[[str, Sequence[Any]], Rows]  # of a statement, with run ids for its {runs}
Pages = Callable[
    [Sequence[str]], Iterator[Rows]
]  # the rows of HISTORY of some runs, AT_ONCE at a time, in any order


class Unreadable(Exception):
    """Raised if a part of a database can't be read; others may be."""


class UnknownSchema(Exception):
    """Raised for a database whose tables are of an unknown version of MLflow."""


@dataclass(frozen=True)
class SqlStore:
    """The runs and histories in MLflow's tables.

    text: makes a str of the driver's texts. where: the name of the database in messages.
    Reads the table of runs first, so that values which a job logs meanwhile belong to a known run. Uses no
    transaction: on sqlite, a job's writes wait for one short SELECT at most.
    """

    where: str
    select: Select
    pages: Pages
    selection: Selection
    text: Callable[[Any], str]
    key: Callable[[Any], str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", functools.cache(self.text))  # names repeat in every run

    def check(self, table_names: str) -> None:
        """Check the schema. table_names: the SELECT for the names of the tables.

        Raises ValueError for a database that is no MLflow store, UnknownSchema for another version of MLflow.
        """
        if missing := TABLES - {self.text(name) for (name,) in self.select(table_names, ())}:
            raise ValueError(
                f"expected an MLflow store in {self.where}, got a database without "
                f"{', '.join(sorted(missing))}. Check the path."
            )
        version = " ".join(self.text(name) for (name,) in self.select(VERSION, ()))
        if version not in KNOWN_SCHEMAS:
            raise UnknownSchema(f"unknown schema version {version or '(none)'}")

    def runs(self) -> tuple[int, Iterator[StoredRun | BrokenRun]]:
        """Return the number of candidates, and the runs. Raises ValueError for an unknown experiment."""
        if self.selection.experiments:
            self.selection.check(printable(name) for (name,) in self.select(EXPERIMENTS, ()))
        heads = {head[0]: head for head in self.select(RUNS, ()) if self._may_be_selected(head)}
        return len(heads), self._runs(heads)

    def _may_be_selected(self, head: Head) -> bool:
        start_time, experiment = head[3], head[-1]
        if experiment is not None and not self.selection.takes_experiment(printable(experiment)):
            return False
        return self.selection.takes_time(start_time)

    def _runs(self, heads: Mapping[Any, Head]) -> Iterator[StoredRun | BrokenRun]:
        ids = list(heads)
        for start in range(0, len(ids), BATCH):
            yield from self._in_parts(ids[start : start + BATCH], lambda some: self._batch(some, heads))

    def _in_parts(
        self, ids: Sequence[Any], read: Callable[[Sequence[Any]], Iterator[Item | BrokenRun]]
    ) -> Iterator[Item | BrokenRun]:
        """Read runs together, or by halves if that fails: a damaged page costs only the runs on it.

        read: raises Unreadable before it yields anything.
        """
        try:
            yield from read(ids)
        except Unreadable as error:
            if len(ids) == 1:
                yield BrokenRun(f"{self.where}, run {printable(ids[0])}", str(error))
                return
            middle = len(ids) // 2
            yield from self._in_parts(ids[:middle], read)
            yield from self._in_parts(ids[middle:], read)

    def _batch(self, ids: Sequence[Any], heads: Mapping[Any, Head]) -> Iterator[StoredRun | BrokenRun]:
        params, tags, metrics = (by_run(self.select(table, ids)) for table in (PARAMS, TAGS, METRICS))
        for run_id in ids:
            run = self._stored_run(heads[run_id], params[run_id], metrics[run_id], tags[run_id])
            if isinstance(run, BrokenRun) or self.selection.takes(run):
                yield run

    def _stored_run(self, head: Head, params: Rows, metrics: Rows, tags: Rows) -> StoredRun | BrokenRun:
        run_id, name, status, start_time, end_time, artifact_uri, experiment_id, experiment = head
        text, key = self.text, self.key
        try:
            if experiment is None:
                raise ValueError(f"its experiment {experiment_id} is not in the store")
            named = [(key(name), value) for _, name, value in tags]
            wanted = self.selection.tag_names
            own_tags = {name: text(value) if value else "" for name, value in named if name in wanted}
            return StoredRun(
                run_id=text(run_id),
                run_name=text(name) if name else own_tags.get(RUN_NAME_TAG, ""),
                experiment=key(experiment),
                status=key(status),
                start_time=start_time,
                end_time=end_time,
                parent_run_id=own_tags.get(PARENT_TAG, ""),
                warning=own_tags.get(WARNING_TAG, ""),
                params={key(name): text(value) for _, name, value in params},
                metrics={key(name): metric_value(name, value, is_nan) for _, name, value, is_nan in metrics},
                artifact_uri=text(artifact_uri) if artifact_uri else "",
                tags=own_tags,
            )
        except (ValueError, TypeError) as error:  # TypeError: in sqlite a text can be a number
            return BrokenRun(f"{self.where}, run {printable(run_id)}", str(error))

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """Yield all values of all metrics of runs, sorted by run (as given), metric, step and time.

        Reads as many runs at a time as have AT_ONCE values.
        """
        yield from self._in_parts([run.run_id for run in runs], self._points)

    def _points(self, ids: Sequence[str]) -> Iterator[Point | BrokenRun]:
        lengths = {self.text(run_id): length for run_id, length in self.select(LENGTHS, ids)}
        for some in together(ids, lengths):
            yield from self._in_parts(some, self._histories)

    def _histories(self, ids: Sequence[str]) -> Iterator[Point | BrokenRun]:
        return sorted_histories(ids, self._parts(ids), f"{self.where}, ")

    def _parts(self, ids: Sequence[str]) -> Iterator[tuple[str, Iterator[Point]]]:
        for rows in self.pages(ids):
            for ident, own_rows in by_run(rows).items():
                run_id = self.text(ident)
                yield run_id, map(functools.partial(self._point, run_id), own_rows)

    def _point(self, run_id: str, row: tuple) -> Point:
        _, name, step, time, value, is_nan = row
        if type(step) is not int:
            raise ValueError(f"expected a whole number as step of metric {printable(name)}, got {step!r}")
        return Point(run_id, self.key(name), step, checked_time(time), metric_value(name, value, is_nan))


def together(ids: Sequence[str], lengths: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the runs in order, in groups of at most AT_ONCE values, or of a single run."""
    group: list[str] = []
    held = 0
    for run_id in ids:
        length = lengths.get(run_id, 0)
        if group and held + length > sorted_points.AT_ONCE:
            yield group
            group, held = [], 0
        group.append(run_id)
        held += length
    if group:
        yield group


def by_run(rows: Rows) -> dict[Any, Rows]:
    found: dict[Any, Rows] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def metric_value(name: Any, value: object, is_nan: object) -> float:
    if is_nan:
        return float("nan")
    if not isinstance(value, float):
        raise ValueError(f"expected a number as metric {printable(name)}, got {value!r}")
    return infinity_restored(value)


def printable(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else repr(value)
