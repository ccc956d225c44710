"""A temporary file of runs between a store and the output, as they may not fit into memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import IO

from lethe.tracking.run_columns import SHOWN_IF_VARIED
from lethe.tracking.stored_run import StoredRun

ASKED = "metrics"  # the param of --metrics: names between commas
values_of = attrgetter(*(field.name for field in fields(StoredRun)))


class Spool:
    """An unnamed file with a line per run. Iterates by start time.

    params, metrics: all names. asked: the metrics that runs were told to measure, in small letters.
    varied: those of SHOWN_IF_VARIED in which runs that have them differ. warned: the number of runs with a
    warning.
    """

    def __init__(self, folder: Path) -> None:
        """folder: with room for as much as the output. Raises OSError if it can't be written to."""
        self.params: set[str] = set()
        self.metrics: set[str] = set()
        self.asked: set[str] = set()
        self.varied: set[str] = set()
        self.warned = 0
        self._first: dict[str, str] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()
        self._places: list[tuple[int, str, int]] = []  # start time, run id, begin of the line

    def add(self, run: StoredRun) -> None:
        self.params.update(run.params)
        self.metrics.update(run.metrics)
        self.asked.update(run.params.get(ASKED, "").casefold().split(","))
        # A run that has no such param, as the parent of several, is of any setting.
        for name in SHOWN_IF_VARIED & run.params.keys():
            value = run.params[name]
            if self._first.setdefault(name, value) != value:
                self.varied.add(name)
        self.warned += bool(run.warning)
        self._places.append((run.start_time or 0, run.run_id, self._file.tell()))
        self._file.write(json.dumps(values_of(run)).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[StoredRun]:
        for _, _, place in sorted(self._places):
            self._file.seek(place)
            yield StoredRun(*json.loads(self._file.readline()))

    def close(self) -> None:
        self._file.close()
