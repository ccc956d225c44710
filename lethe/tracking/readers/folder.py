"""Read MLflow's old file store: `<experiment id>/<run id>/` with meta.yaml, params, metrics and tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lethe.system.foreign_files import LIST
from lethe.system.system_files import is_system_file
from lethe.tracking.folder_process import found_in
from lethe.tracking.readers.impl import register
from lethe.tracking.run_folder import (
    check_link,
    contents_below,
    in_words,
    is_active,
    metric_blocks,
    metric_points,
    read_meta,
)
from lethe.tracking.selection import EVERY_RUN, Selection
from lethe.tracking.sorted_points import sorted_histories
from lethe.tracking.store_uri import FILE, folder_path, is_file_store
from lethe.tracking.stored_run import BrokenRun, Point, StoredRun, checked_time

NOT_EXPERIMENTS = {"models"}  # the model registry
NOT_RUNS = {"tags", "datasets", "traces", "models"}  # MLflow's other folders of an experiment


@register("folder", schemes=(FILE,))
@contextmanager
def folder_store(uri: str, selection: Selection) -> Iterator[FolderStore]:
    """Open the folder of a file store. Raises as `FolderStore`."""
    yield FolderStore(uri, selection)


class FolderStore:
    """The runs and histories of a file store.

    A metric's latest value is the one with the highest (step, timestamp, value), as in MLflow.
    Raises ValueError if the folder is no file store.
    """

    def __init__(self, uri: str, selection: Selection = EVERY_RUN) -> None:
        self.root = folder_path(uri)
        self.selection = selection
        self._folders: dict[str, str] = {}  # of runs that were read, by run id
        if not self.root.is_dir():
            found = "no such folder. Check --tracking_uri and MLFLOW_TRACKING_URI"
            if self.root.is_file():
                found = "a file. A sqlite store is written sqlite:///PATH"
            raise ValueError(f"expected the folder of a file store at {self.root}, got {found}")
        if not is_file_store(self.root):
            raise ValueError(
                f"expected <experiment id>/meta.yaml in {self.root}, got none: it may hold only the "
                "artifacts of another store. Name that store, e.g. --tracking_uri sqlite:///mlflow.db"
            )

    def runs(self) -> tuple[int, Iterator[StoredRun | BrokenRun]]:
        """Return the number of folders, and the runs in them. Raises ValueError for an unknown experiment."""
        experiments = [read_experiment(folder) for folder in subfolders(self.root, NOT_EXPERIMENTS)]
        self.selection.check(experiment.name for experiment in experiments if experiment.name is not None)
        taken = [
            experiment
            for experiment in experiments
            if experiment.broken
            or (experiment.name is not None and self.selection.takes_experiment(experiment.name))
        ]
        return sum(len(experiment.folders) for experiment in taken), self._runs(taken)

    def _runs(self, experiments: list[Experiment]) -> Iterator[StoredRun | BrokenRun]:
        for experiment in experiments:
            yield from experiment.broken
        places = [
            (str(folder), str(experiment.name)) for experiment in experiments for folder in experiment.folders
        ]
        for folder, run in found_in(places, self.selection):
            if isinstance(run, StoredRun):
                self._folders[run.run_id] = folder
            yield run

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """Yield all values of all metrics of runs that were read, sorted by metric, step and time."""
        for run in runs:
            parts = [(run.run_id, self._history(run.run_id))]
            yield from sorted_histories([run.run_id], parts, f"{self._folders[run.run_id]}, ")

    def _history(self, run_id: str) -> Iterator[Point]:
        folder = f"{self._folders[run_id]}/metrics"
        try:
            for name, content in contents_below(folder, str(self.root), most=LIST):
                for block in metric_blocks(content):
                    for step, time, value in metric_points(block, f"{folder}/{name}"):
                        yield Point(run_id, name, step, checked_time(time), value)
        except OSError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Experiment:
    """An experiment's name (None if it is deleted or broken), its candidate folders, and broken runs."""

    name: str | None
    folders: Sequence[Path] = ()
    broken: Sequence[BrokenRun] = ()


def read_experiment(folder: Path) -> Experiment:
    try:
        check_link(str(folder), str(folder.parent))
        runs = list(subfolders(folder, NOT_RUNS))
    except (OSError, ValueError) as error:
        return Experiment(None, broken=[BrokenRun(str(folder), in_words(error))])
    try:
        return Experiment(experiment_name(folder), runs)
    except (OSError, ValueError, KeyError) as error:
        reason = f"its experiment is broken: {in_words(error)}"
        return Experiment(
            None, broken=[BrokenRun(str(run), reason) for run in runs if (run / "meta.yaml").is_file()]
        )


def experiment_name(folder: Path) -> str | None:
    """Return the name in an experiment's meta.yaml; None if it is deleted."""
    meta = read_meta(folder, folder.parent)
    if str(meta["experiment_id"]) != folder.name:
        raise ValueError(f"{folder / 'meta.yaml'} is of experiment {meta['experiment_id']}")
    return str(meta["name"]) if is_active(meta) else None


def subfolders(folder: Path, others: set[str]) -> Iterator[Path]:
    """Yield folders that may be experiments or runs, sorted; also broken links, to report them."""
    for path in sorted(folder.iterdir()):
        if path.name in others or is_system_file(path.name):
            continue
        if path.is_dir() or (path.is_symlink() and not path.exists()):
            yield path
