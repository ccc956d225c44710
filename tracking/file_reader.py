"""The runs of MLflow's old file store: `<experiment id>/<run id>/` with meta.yaml, params/, metrics/ and tags/."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from tracking.selection import EVERY_RUN, Selection
from tracking.stored_run import PARENT_TAG, RUN_NAME_TAG, STATUSES, WARNING_TAG, BrokenRun, Point, StoredRun, checked_time

NOT_EXPERIMENTS = {"models"}  # the model registry
NOT_RUNS = {"tags", "datasets", "traces", "models"}  # what MLflow keeps beside an experiment's runs

CHUNK = 65536

# `key: value` where value is a decimal number, 'text', [], null, or words that begin with a letter or a slash, or digits with one of a to f
# among them, as run ids are: what YAML has one reading of.
NUMBER, TEXT, EMPTY = rb"(0|-?[1-9][0-9]{0,17})", rb"'([\w .:/+-]*)'", rb"(\[\]|null)"
WORDS = rb"([A-Za-z/](?:[ :]?[\w/.=,-])*|[0-9]+[a-df][0-9a-f]*|[0-9]+e[0-9]*[a-f][0-9a-f]*)"
PLAIN_LINE = re.compile(rb"([a-z_]+): (?:%b|%b|%b|%b)\n" % (NUMBER, TEXT, EMPTY, WORDS), re.ASCII)
EMPTIES: dict[bytes, list | None] = {b"[]": [], b"null": None}
NOT_WORDS = {word for name in ("null", "true", "false", "yes", "no", "on", "off", "y", "n") for word in (name, name.title(), name.upper())}

Meta = dict[str, Any]  # what YAML holds: checked where it is used


def folder_path(uri: str) -> Path:
    """The folder of a `file:` URI or of a plain path."""
    return Path(url2pathname(urlparse(uri).path)) if uri.startswith("file:") else Path(uri)


def is_file_store(folder: Path) -> bool:
    """Whether runs or experiments are described here. MLflow 3 makes an `mlruns` for artifacts alone, which has no meta.yaml."""
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
            found = "a file. A sqlite store is written sqlite:///PATH" if self.root.is_file() else "no such folder. Check --tracking_uri"
            raise ValueError(f"expected the folder of a file store at {self.root}, got {found}.")
        if not is_file_store(self.root):
            raise ValueError(
                f"expected <experiment id>/meta.yaml in {self.root}, got none: it may hold only the artifacts of another store. "
                f"Name that store, e.g. --tracking_uri sqlite:///mlflow.db"
            )

    def runs(self) -> tuple[int, Iterator[StoredRun | BrokenRun]]:
        """How many folders there are to look at, and the runs in them. Raises ValueError for an experiment that is not there."""
        experiments = [read_experiment(folder) for folder in subfolders(self.root, NOT_EXPERIMENTS)]
        self.selection.check(experiment.name for experiment in experiments if experiment.name is not None)
        taken = [it for it in experiments if it.broken or (it.name is not None and self.selection.takes_experiment(it.name))]
        return sum(len(experiment.folders) for experiment in taken), self._runs(taken)

    def _runs(self, experiments: list[Experiment]) -> Iterator[StoredRun | BrokenRun]:
        for experiment in experiments:
            yield from experiment.broken
            for folder in experiment.folders:
                yield from self._run(folder, str(experiment.name))

    def _run(self, folder: Path, experiment: str) -> Iterator[StoredRun | BrokenRun]:
        """The run in a folder; nothing if it is deleted or not asked for."""
        try:
            meta = read_meta(folder)
            if is_active(meta) and self.selection.takes_time(meta.get("start_time")):
                run = stored_run(folder, meta, experiment, self.selection.tag_names)
                if self.selection.takes(run):
                    self._folders[run.run_id] = str(folder)
                    yield run
        except (OSError, ValueError, KeyError) as error:
            yield BrokenRun(str(folder), in_words(error))

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """Every value of every metric of runs that were read, sorted by run (as given), metric, step and time."""
        for run in runs:
            folder = self._folders[run.run_id]
            try:
                found = [
                    Point(run.run_id, name, step, checked_time(time), value)
                    for name, content in contents_below(f"{folder}/metrics")
                    for step, time, value in metric_points(content, f"{folder}/metrics/{name}")
                ]
            except (OSError, ValueError) as error:
                yield BrokenRun(folder, str(error))
                continue
            yield from sorted(found)


@dataclass(frozen=True)
class Experiment:
    """An experiment's name (None if it is deleted or broken), the folders that may be its runs, and what is broken."""

    name: str | None
    folders: Sequence[Path] = ()
    broken: Sequence[BrokenRun] = ()


def read_experiment(folder: Path) -> Experiment:
    try:
        runs = list(subfolders(folder, NOT_RUNS))
    except OSError as error:
        return Experiment(None, broken=[BrokenRun(str(folder), in_words(error))])
    try:
        return Experiment(experiment_name(folder), runs)
    except (OSError, ValueError, KeyError) as error:
        reason = f"its experiment is broken: {in_words(error)}"
        return Experiment(None, broken=[BrokenRun(str(run), reason) for run in runs if (run / "meta.yaml").is_file()])


def experiment_name(folder: Path) -> str | None:
    """The name in an experiment's meta.yaml; None if it is deleted."""
    meta = read_meta(folder)
    if str(meta["experiment_id"]) != folder.name:
        raise ValueError(f"{folder / 'meta.yaml'} is of experiment {meta['experiment_id']}")
    return str(meta["name"]) if is_active(meta) else None


def is_active(meta: Meta) -> bool:
    stage = meta.get("lifecycle_stage", "active")  # the oldest stores have none, and could not delete
    if stage not in ("active", "deleted"):
        raise ValueError(f"expected the lifecycle_stage active or deleted, got {stage!r}")
    return stage == "active"


def stored_run(folder: Path, meta: Meta, experiment: str, tag_names: Sequence[str]) -> StoredRun:
    run_id = str(meta.get("run_id") or meta["run_uuid"])  # run_uuid: before MLflow 1.0
    if run_id != folder.name or str(meta["experiment_id"]) != folder.parent.name:
        raise ValueError(f"meta.yaml is of run {run_id} in experiment {meta['experiment_id']}")
    tags = read_texts(f"{folder}/tags", tag_names)
    return StoredRun(
        run_id=run_id,
        run_name=str(meta.get("run_name") or tags.get(RUN_NAME_TAG, "")),
        experiment=experiment,
        status=status_word(meta.get("status", 1)),  # 1: MLflow takes a run without a status for a running one
        start_time=meta.get("start_time"),
        end_time=meta.get("end_time"),
        parent_run_id=tags.get(PARENT_TAG, ""),
        warning=tags.get(WARNING_TAG, ""),
        params=read_texts(f"{folder}/params"),
        metrics={name: latest_value(content, f"{folder}/metrics/{name}") for name, content in contents_below(f"{folder}/metrics")},
        artifact_uri=str(meta.get("artifact_uri") or ""),
        tags=tags,
    )


def subfolders(folder: Path, others: set[str]) -> Iterator[Path]:
    """Folders that may be experiments or runs, sorted. A dangling link is among them: its target may have been one."""
    for path in sorted(folder.iterdir()):
        if path.name not in others and not path.name.startswith(".") and (path.is_dir() or is_dangling(path)):
            yield path


def is_dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def contents_below(folder: str, prefix: str = "", only: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file, or of these names; a slash in a param's or a metric's name is a folder here.

    No folder means no values: git, for one, does not keep empty folders. By as few system calls as can be, none of which walks the
    whole path: a run is dozens of tiny files. Raises OSError that names the path.
    """
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if os.path.islink(folder):  # noqa: PTH114  # a Path would cost more than the system call
            raise
        return
    try:
        for name in os.listdir(directory):  # noqa: PTH208  # of an open folder
            if only is not None and name not in only:
                continue
            try:
                content = read_bytes(name, directory)
            except OSError as error:
                path = f"{folder}/{name}"
                if error.errno != errno.EISDIR or os.path.islink(path):  # noqa: PTH114
                    raise OSError(error.errno, error.strerror, path) from error
                yield from contents_below(path, f"{prefix}{name}/")
            else:
                yield prefix + name, content
    finally:
        os.close(directory)


def read_bytes(path: str, directory: int | None = None) -> bytes:
    """A file's content; path: relative to an open directory, if that is given."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)  # not blocking: a pipe in a file's place has nobody who writes
    try:
        content = os.read(file, CHUNK)
        while len(content) % CHUNK == 0 and (more := os.read(file, CHUNK)):  # a short read is the file's end
            content += more
        return content
    finally:
        os.close(file)


def decoded(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text in {path}, got {error.reason} at byte {error.start}") from error


def read_texts(folder: str, only: Collection[str] | None = None) -> dict[str, str]:
    return {name: decoded(content, f"{folder}/{name}") for name, content in contents_below(folder, only=only)}


def read_meta(folder: Path) -> Meta:
    """The mapping in a folder's meta.yaml. Raises OSError or ValueError if there is none."""
    path = f"{folder}/meta.yaml"
    content = read_bytes(path)
    meta: object = plain_mapping(content) or any_yaml(content, path)
    if not isinstance(meta, dict):
        raise ValueError(f"expected keys and values in {path}, got {meta!r:.60}")
    return meta


def plain_mapping(content: bytes) -> Meta | None:
    """A mapping of which every line is as MLflow writes it, without a YAML parser, which is most of the time a run takes.

    None for everything else: only what can't be read in another way is read here.
    """
    meta: Meta = {}
    for line in content.splitlines(keepends=True):
        found = PLAIN_LINE.fullmatch(line)
        if found is None:
            return None
        key, number, quoted, empty, word = found.groups()
        text = (quoted or word or b"").decode("ascii")
        if key in meta or text in NOT_WORDS:
            return None
        meta[key.decode("ascii")] = int(number) if number else EMPTIES[empty] if empty else text
    return meta or None


def any_yaml(content: bytes, path: str) -> object:
    import yaml

    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C: ten times faster
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"expected YAML in {path}, got {type(error).__name__}: {error}") from error


def status_word(status: object) -> str:
    numbered = dict(enumerate(STATUSES, start=1))
    return numbered.get(status, str(status)) if isinstance(status, int) else str(status)


def latest_value(content: bytes, path: str) -> float:
    """The value with the highest (step, timestamp, value) of a metric's file. Raises ValueError for a malformed file."""
    return max(metric_points(content, path))[2]


def metric_points(content: bytes, path: str) -> list[tuple[int, int, float]]:
    """(step, timestamp, value) of every line of a metric's file. Raises ValueError for a malformed one."""
    text = decoded(content, path)
    if not text.endswith("\n"):  # a cut value still parses as a number: the missing end is the only sign
        raise ValueError(f"expected whole lines in {path}, got {'a half-written last one' if text else 'an empty file'}")
    lines = text[:-1].split("\n")
    try:
        return [(int(step), int(time), float(value)) for time, value, step in [line.split(" ") for line in lines]]
    except ValueError:  # not all have three fields, which is the usual form
        pass
    try:
        return [metric_point(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"malformed metric {path}: {error}") from error


def metric_point(line: str) -> tuple[int, int, float]:
    """(step, timestamp, value) of a line `timestamp value [step [dataset digest]]`."""
    fields = line.strip().split(" ")
    if len(fields) not in (2, 3, 5):
        raise ValueError(f"expected `timestamp value step`, got {line!r:.60}")
    # With a dataset MLflow itself takes the step for 0; another answer here would contradict its own tools.
    return int(fields[2]) if len(fields) == 3 else 0, int(fields[0]), float(fields[1])


def in_words(error: Exception) -> str:
    return f"meta.yaml has no {error}" if isinstance(error, KeyError) else str(error)
