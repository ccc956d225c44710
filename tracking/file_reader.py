"""The runs of MLflow's old file store: `<experiment id>/<run id>/` with meta.yaml, params/, metrics/ and
tags/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from foreign_files import LIST
from system_files import is_system_file
from tracking.folder_process import found_in
from tracking.run_folder import (
    check_link,
    contents_below,
    in_words,
    is_active,
    metric_blocks,
    metric_points,
    read_meta,
)
from tracking.selection import EVERY_RUN, Selection
from tracking.sorted_points import SortedPoints
from tracking.stored_run import BrokenRun, Point, StoredRun, checked_time

NOT_EXPERIMENTS = {"models"}  # the model registry
NOT_RUNS = {"tags", "datasets", "traces", "models"}  # what MLflow keeps beside an experiment's runs


def folder_path(uri: str) -> Path:
    """The folder of a `file:` URI or of a plain path."""
    return Path(url2pathname(urlparse(uri).path)) if uri.startswith("file:") else Path(uri)


def is_file_store(folder: Path) -> bool:
    """Whether runs or experiments are described here. MLflow 3 makes an `mlruns` for artifacts alone, which
    has no meta.yaml.
    """
    return any(folder.glob("*/meta.yaml")) or any(folder.glob("*/*/meta.yaml"))


def read_folder(uri: str, selection: Selection = EVERY_RUN) -> Iterator[StoredRun | BrokenRun]:
    """Every selected active run of a file store, and a BrokenRun for each that can't be read whole."""
    return FolderStore(uri, selection).runs()[1]


class FolderStore:
    """The runs and histories of a file store.

    A metric's latest value is the one with the highest (step, timestamp, value), as MLflow has it.
    Raises ValueError if there is no file store at that place.
    """

    def __init__(self, uri: str, selection: Selection = EVERY_RUN) -> None:
        self.root = folder_path(uri)
        self.selection = selection
        self._folders: dict[str, str] = {}  # of the runs that were read, by their ids
        if not self.root.is_dir():
            found = (
                "a file. A sqlite store is written sqlite:///PATH"
                if self.root.is_file()
                else "no such folder. Check --tracking_uri and MLFLOW_TRACKING_URI"
            )
            raise ValueError(f"expected the folder of a file store at {self.root}, got {found}")
        if not is_file_store(self.root):
            raise ValueError(
                f"expected <experiment id>/meta.yaml in {self.root}, got none: it may hold only the "
                "artifacts of another store. "
                f"Name that store, e.g. --tracking_uri sqlite:///mlflow.db"
            )

    def runs(self) -> tuple[int, Iterator[StoredRun | BrokenRun]]:
        """How many folders there are to look at, and the runs in them. Raises ValueError for an experiment
        that is not there.
        """
        experiments = [read_experiment(folder) for folder in subfolders(self.root, NOT_EXPERIMENTS)]
        self.selection.check(experiment.name for experiment in experiments if experiment.name is not None)
        taken = [
            it
            for it in experiments
            if it.broken or (it.name is not None and self.selection.takes_experiment(it.name))
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
        """Every value of every metric of runs that were read, sorted by run (as given), metric, step and
        time.
        """
        for run in runs:
            folder = self._folders[run.run_id]
            with SortedPoints([run.run_id]) as found:
                try:
                    found.add(
                        Point(run.run_id, name, step, checked_time(time), value)
                        for name, content in contents_below(f"{folder}/metrics", str(self.root), most=LIST)
                        for block in metric_blocks(content)
                        for step, time, value in metric_points(block, f"{folder}/metrics/{name}")
                    )
                except (OSError, ValueError) as error:
                    yield BrokenRun(folder, str(error))
                    continue
                yield from found


@dataclass(frozen=True)
class Experiment:
    """An experiment's name (None if it is deleted or broken), the folders that may be its runs, and what is
    broken.
    """

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
    """The name in an experiment's meta.yaml; None if it is deleted."""
    meta = read_meta(folder, folder.parent)
    if str(meta["experiment_id"]) != folder.name:
        raise ValueError(f"{folder / 'meta.yaml'} is of experiment {meta['experiment_id']}")
    return str(meta["name"]) if is_active(meta) else None


def subfolders(folder: Path, others: set[str]) -> Iterator[Path]:
    """Folders that may be experiments or runs, sorted. A dangling link is among them: its target may have
    been one.
    """
    for path in sorted(folder.iterdir()):
        if (
            path.name not in others
            and not is_system_file(path.name)
            and (path.is_dir() or (path.is_symlink() and not path.exists()))
        ):
            yield path
