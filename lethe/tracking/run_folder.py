"""Read a run's folder in MLflow's old file store: meta.yaml, params/, metrics/ and tags/."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lethe.system.bounded_yaml import NotYaml, read_yaml
from lethe.system.foreign_files import (
    CAREFULLY,
    LIST,
    TEXT,
    check_depth,
    check_inside,
    check_regular,
    check_size,
)
from lethe.system.system_files import is_system_file
from lethe.tracking.selection import Selection
from lethe.tracking.stored_run import PARENT_TAG, RUN_NAME_TAG, STATUSES, WARNING_TAG, BrokenRun, StoredRun

CHUNK = 65536
NO_LINK = CAREFULLY | getattr(os, "O_NOFOLLOW", 0)
BLOCK = 2**20  # bytes of a metric's file that are points in memory at once

# `key: value`, for values that YAML reads in one way only: a decimal number, 'text', [], null, words that
# begin with a letter or a slash, and digits mixed with letters from a to f, as in run ids.
NUMBER, QUOTED, EMPTY = rb"(0|-?[1-9][0-9]{0,17})", rb"'([\w .:/+-]*)'", rb"(\[\]|null)"
WORDS = rb"([A-Za-z/](?:[ :]?[\w/.=,-])*|[0-9]+[a-df][0-9a-f]*|[0-9]+e[0-9]*[a-f][0-9a-f]*)"
PLAIN_LINE = re.compile(rb"([a-z_]+): (?:%b|%b|%b|%b)\n" % (NUMBER, QUOTED, EMPTY, WORDS), re.ASCII)
EMPTIES: dict[bytes, list | None] = {b"[]": [], b"null": None}
NOT_WORDS = {
    word
    for name in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    for word in (name, name.title(), name.upper())
}

Meta = dict[str, Any]  # the content of a meta.yaml, checked where it is used
Place = tuple[str, str]  # a folder that may be a run's, and its experiment's name
Found = tuple[str, StoredRun | BrokenRun]  # a folder, and its run


def read_places(places: Iterable[Place], selection: Selection) -> Iterator[Found]:
    """Yield the active, selected runs in these folders. Follows no links out of the store."""
    for folder, experiment in places:
        try:
            root = folder.rsplit("/", 2)[0]
            check_link(folder, root)
            meta = read_meta(folder, root)
            if is_active(meta) and selection.takes_time(meta.get("start_time")):
                run = stored_run(folder, root, meta, experiment, selection.tag_names)
                if selection.takes(run):
                    yield folder, run
        except (OSError, ValueError, KeyError) as error:
            yield folder, BrokenRun(folder, in_words(error))


def is_active(meta: Meta) -> bool:
    stage = meta.get("lifecycle_stage", "active")  # the oldest stores have no stages, as nothing was deleted
    if stage not in ("active", "deleted"):
        raise ValueError(f"expected the lifecycle_stage active or deleted, got {stage!r}")
    return stage == "active"


def stored_run(folder: str, root: str, meta: Meta, experiment: str, tag_names: Sequence[str]) -> StoredRun:
    run_id = str(meta.get("run_id") or meta["run_uuid"])  # run_uuid: before MLflow 1.0
    if [str(meta["experiment_id"]), run_id] != folder.rsplit("/", 2)[-2:]:
        raise ValueError(f"meta.yaml is of run {run_id} in experiment {meta['experiment_id']}")
    tags = read_texts(f"{folder}/tags", root, tag_names)
    return StoredRun(
        run_id=run_id,
        run_name=str(meta.get("run_name") or tags.get(RUN_NAME_TAG, "")),
        experiment=experiment,
        status=status_word(meta.get("status", 1)),  # as in MLflow, a run without a status is running
        start_time=meta.get("start_time"),
        end_time=meta.get("end_time"),
        parent_run_id=tags.get(PARENT_TAG, ""),
        warning=tags.get(WARNING_TAG, ""),
        params=read_texts(f"{folder}/params", root),
        metrics=dict(latest_values(f"{folder}/metrics", root)),
        artifact_uri=str(meta.get("artifact_uri") or ""),
        tags=tags,
    )


def contents_below(
    folder: str, root: str, prefix: str = "", only: Collection[str] | None = None, *, most: int = TEXT
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every file, or of the files `only`; a slash in a name is a subfolder.

    A missing folder has no values, as git does not keep empty folders. Skips hidden and system files. Uses
    few system calls, relative to the open folder, as a run has dozens of tiny files. Raises OSError with the
    path, and ValueError for a file that is not regular, has more than `most` bytes, or lies outside of the
    store at `root`.
    """
    check_link(folder, root)
    check_depth(folder, prefix.count("/"))
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if os.path.islink(folder):  # noqa: PTH114  # a Path would cost more than the system call
            raise
        return
    try:
        for name in os.listdir(directory):  # noqa: PTH208  # of an open folder
            if is_system_file(name) or (only is not None and name not in only):
                continue
            path = f"{folder}/{name}"
            try:
                content = read_bytes(path, root, name, directory, most)
            except OSError as error:
                if error.errno != errno.EISDIR or os.path.islink(path):  # noqa: PTH114
                    raise OSError(error.errno, error.strerror, path) from error
                yield from contents_below(path, root, f"{prefix}{name}/", most=most)
            else:
                yield prefix + name, content
    finally:
        os.close(directory)


def read_bytes(
    path: str, root: str, name: str | None = None, directory: int | None = None, most: int = TEXT
) -> bytes:
    """Return a file's content. `name`: relative to the open folder `directory`, if given."""
    file = open_without_leaving(path, root, name or path, directory)
    try:
        content = os.read(file, CHUNK)
        check_regular(file, path, most)
        while len(content) % CHUNK == 0 and (more := os.read(file, CHUNK)):  # a short read is the file's end
            content += more
            check_size(path, len(content), most)
        return content
    finally:
        os.close(file)


def open_without_leaving(path: str, root: str, name: str, directory: int | None) -> int:
    """Open a file; follow a link only inside the store at `root`."""
    try:
        return os.open(name, NO_LINK, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    check_inside(Path(path), Path(root))
    return os.open(name, CAREFULLY, dir_fd=directory)


def check_link(folder: str, root: str) -> None:
    """Raise ValueError for a folder that is a link out of the store at `root`."""
    if os.path.islink(folder):  # noqa: PTH114
        check_inside(Path(folder), Path(root))


def decoded(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 text in {path}, got {error.reason} at byte {error.start}"
        ) from error


def read_texts(folder: str, root: str, only: Collection[str] | None = None) -> dict[str, str]:
    return {
        name: decoded(content, f"{folder}/{name}")
        for name, content in contents_below(folder, root, only=only)
    }


def read_meta(folder: Path | str, root: Path | str) -> Meta:
    """Return the mapping in a folder's meta.yaml. Raises OSError or ValueError if there is none."""
    path = f"{folder}/meta.yaml"
    content = read_bytes(path, str(root))
    meta: object = plain_mapping(content) or any_yaml(content, path)
    if not isinstance(meta, dict):
        raise ValueError(f"expected keys and values in {path}, got {meta!r:.60}")
    return meta


def plain_mapping(content: bytes) -> Meta | None:
    """Parse a mapping in MLflow's own format without a YAML parser, which would take most of the time.

    Returns None unless YAML reads every line in the same way.
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
    try:
        return read_yaml(content)
    except NotYaml as error:
        raise ValueError(f"expected YAML in {path}, got a mistake: {error}") from error


def status_word(status: object) -> str:
    numbered = dict(enumerate(STATUSES, start=1))
    return numbered.get(status, str(status)) if isinstance(status, int) else str(status)


def latest_values(folder: str, root: str) -> Iterator[tuple[str, float]]:
    for name, content in contents_below(folder, root, most=LIST):
        yield name, latest_value(content, f"{folder}/{name}")


def latest_value(content: bytes, path: str) -> float:
    """Return the value with the highest (step, timestamp, value). Raises ValueError for a malformed file."""
    return max(max(metric_points(block, path)) for block in metric_blocks(content))[2]


def metric_blocks(content: bytes) -> Iterator[bytes]:
    """Yield a metric's file in blocks of whole lines; one empty block for an empty file."""
    start = 0
    while len(content) - start > BLOCK:
        end = content.find(b"\n", start + BLOCK) + 1 or len(content)
        yield content[start:end]
        start = end
    if start < len(content) or not content:
        yield content[start:]


def metric_points(content: bytes, path: str) -> list[tuple[int, int, float]]:
    """Return (step, timestamp, value) of every line of a metric's file. Raises ValueError if malformed."""
    text = decoded(content, path)
    if not text.endswith("\n"):  # the only sign of a cut value, which still parses as a number
        found = "a half-written last one" if text else "an empty file"
        raise ValueError(f"expected whole lines in {path}, got {found}")
    lines = text[:-1].split("\n")
    fields = [line.split(" ") for line in lines]
    try:
        return [(int(step), int(time), float(value)) for time, value, step in fields]
    except ValueError:  # some have no three fields, which are the usual form
        pass
    try:
        return [metric_point(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"malformed metric {path}: {error}") from error


def metric_point(line: str) -> tuple[int, int, float]:
    """Return (step, timestamp, value) of a line `timestamp value [step [dataset digest]]`."""
    fields = line.strip().split(" ")
    if len(fields) not in (2, 3, 5):
        raise ValueError(f"expected `timestamp value step`, got {line!r:.60}")
    # If there is a dataset, MLflow itself reads the step as 0.
    return int(fields[2]) if len(fields) == 3 else 0, int(fields[0]), float(fields[1])


def in_words(error: Exception) -> str:
    return f"meta.yaml has no {error}" if isinstance(error, KeyError) else str(error)
