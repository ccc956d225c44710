"""Where a dataset of the Hugging Face hub is: in a local copy, else on the hub."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_data.at_hand import begin_to_fetch
from vision_data.own_files import own_files

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("valid", "validation", "val", "dev"), "validation")
Splits = dict[str, Any]


def local_copy(hub_name: str, folder: Path, also: tuple[str, ...] = ()) -> Path | None:
    """NAME itself where it is a path, else <folder>/NAME, <folder>/NAME without its owner (OWNER/NAME/CONFIGURATION: NAME/CONFIGURATION),
    <folder>/<the last part of NAME>, or a folder called as `also` in any case."""
    places = [Path(hub_name).expanduser(), folder / hub_name]
    places += [folder / hub_name.partition("/")[2], folder / hub_name.rpartition("/")[2]] if "/" in hub_name else []
    if folder.is_dir():
        places += [entry for entry in sorted(folder.iterdir()) if entry.name.casefold() in also]
    return next((place for place in places if place.exists()), None)


def is_saved(place: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (place / "dataset_dict.json").exists() or (place / "state.json").exists()


def tables(place: Path) -> dict[str, list[str]]:
    """The Parquet files by split, as a folder or their name says (train-00000-of-00002.parquet, test/0000.parquet).

    Where any of them names a part (train, test, validation), a file that names none is of a split of its own, of its leading word; so is
    one of the hub's form SPLIT-00000-of-00001 where any split of that form is a part by its whole name: train_extra is not train.
    """
    files = [place] if place.suffix == ".parquet" else sorted(place.rglob("*.parquet"))
    kinds = sorted({file.relative_to(place).parts[0] for file in files if file != place and file.parent != place} - {"data", *PARTS})
    named = [_part_named(place, file) for file in files]
    if len(kinds) > 1 and not any(file.relative_to(place).parts[0] in PARTS for file in files):
        raise ValueError(f"{place}: expected one dataset, got several configurations: {', '.join(kinds)}. Name one: hf:{place / kinds[0]}")
    shards = [_shard_of(file) for file in files]
    exact = any(shard.casefold() in PARTS for shard in shards)
    found: dict[str, list[str]] = {}
    for file, part, shard in zip(files, named, shards, strict=True):
        if exact and shard:
            part = PARTS.get(shard.casefold(), shard)
        found.setdefault(part or (_leading_word(place, file) if any(named) else "train"), []).append(str(file))
    return found


def _part_named(place: Path, file: Path) -> str | None:
    """The part that the last such word in a file's place names."""
    words = re.split(r"[^A-Za-z]+", file.name if file == place else str(file.relative_to(place)))
    return next((PARTS[word.casefold()] for word in reversed(words) if word.casefold() in PARTS), None)


def _shard_of(file: Path) -> str:
    """SPLIT of SPLIT-00000-of-00001.parquet, as `push_to_hub` calls its files; empty for others."""
    found = re.fullmatch(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-\w+)?\.parquet", file.name)
    return found[1] if found else ""


def _leading_word(place: Path, file: Path) -> str:
    """The first word of a file's name, else of the folder that it is in."""
    for name in (file.stem, *reversed(file.relative_to(place).parts[:-1])):
        words = re.findall(r"[^\W\d_]+", name)
        if words:
            return str(words[0])
    return "unnamed"


def zips(place: Path) -> dict[str, Path]:
    """The zip files that are called as a part, by part; none where they are unpacked beside."""
    if not place.is_dir() or any((place / part).is_dir() for part in PARTS):
        return {}
    return {PARTS[file.stem.casefold()]: file for file in sorted(place.glob("*.zip")) if file.stem.casefold() in PARTS}


def saved(name: str, local: Path) -> Splits:
    """The splits that `save_to_disk` wrote. ValueError where one of them is empty, which the `datasets` library can't load."""
    import datasets

    with _read_from(name, local):
        places = {file.parent: json.loads(file.read_bytes()) for file in sorted([*local.glob("state.json"), *local.glob("*/state.json")])}
    _refuse_empty(name, [str(place) for place, state in places.items() if not state.get("_data_files")])
    with _read_from(name, local):
        return _as_splits(datasets.load_from_disk(str(local)))


def parquet(name: str, local: Path, files: dict[str, list[str]], folder: Path) -> Splits:
    """The parts in these Parquet files, each with its own features; the `datasets` library keeps its tables in <folder>/huggingface.

    Raises ValueError where two files of a part number their classes differently: that library would take the first file's for both.
    """
    import datasets
    import pyarrow.parquet as pq

    cache = str(own_files(name, folder, "huggingface"))
    parts = {}
    for part, paths in files.items():
        with _read_from(name, local):
            features = {path: datasets.Features.from_arrow_schema(pq.read_schema(path)) for path in paths}
            rows = sum(pq.read_metadata(path).num_rows for path in paths)
        _refuse_empty(name, [] if rows else [paths[0]])
        _check_same_classes(name, part, features)
        with _read_from(name, local):
            parts[part] = datasets.load_dataset("parquet", data_files={part: paths}, split=part, cache_dir=cache)
    return parts


def _refuse_empty(name: str, empty: list[str]) -> None:
    if empty:
        raise ValueError(
            f"{name}: expected training images and, where there is a test part, test images, got no row in {empty[0]}. Remove it"
        )


def _check_same_classes(name: str, part: str, features: dict[str, Any]) -> None:
    (first, its), *others = ((file, _classes_of(found)) for file, found in features.items())
    for file, found in others:
        different = sorted(column for column in {*its, *found} if its.get(column) != found.get(column))
        if different:
            column = different[0]
            shown = (f"{', '.join(these.get(column, ('none',)))} in {where}" for where, these in ((first, its), (file, found)))
            raise ValueError(
                f"{name}: expected the same classes, in the same order, in all files of {part}, got for the column {column} "
                f"{' and '.join(shown)}. Save them with the same"
            )


def _classes_of(features: Any) -> dict[str, tuple[str, ...]]:
    import datasets

    return {column: tuple(kind.names) for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}


@contextlib.contextmanager
def _read_from(name: str, local: Path) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name}: expected a dataset in {local}, and it can't be read ({_cause(error)}). Download it again") from error


def from_hub(name: str, hub_name: str, folder: Path) -> Splits:
    """The splits of the hub's dataset OWNER/NAME or OWNER/NAME/CONFIGURATION, by the `datasets` library."""
    begin_to_fetch(name)
    import datasets

    try:
        with _no_retries_told():
            owner_and_name, configuration = "/".join(hub_name.split("/")[:2]), hub_name.split("/")[2:]
            return _as_splits(datasets.load_dataset(owner_and_name, *configuration))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _not_to_be_had(name, hub_name, folder, error) from error


def zips_from_hub(name: str, hub_name: str, folder: Path) -> dict[str, Path]:
    """data/train.zip and data/test.zip of the hub's dataset."""
    begin_to_fetch(name)
    import huggingface_hub

    try:
        with _no_retries_told():
            fetch = functools.partial(huggingface_hub.hf_hub_download, hub_name, repo_type="dataset")
            return {part: Path(fetch(f"data/{part}.zip")) for part in ("train", "test")}
    except (OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise _not_to_be_had(name, hub_name, folder, error) from error


def _not_to_be_had(name: str, hub_name: str, folder: Path, error: Exception) -> FileNotFoundError:
    owner_and_name = "/".join(hub_name.split("/")[:2])
    root = folder / owner_and_name.rpartition("/")[2]
    place = root.joinpath(*hub_name.split("/")[2:])
    return FileNotFoundError(
        f"{name}: expected {hub_name} in {place}, and it can't be had from the hub ({_cause(error)}). Put its files there, e.g. by "
        f"hf download {owner_and_name} --repo-type dataset --local-dir {root}, or name their folder with --data"
    )


@contextlib.contextmanager
def _no_retries_told() -> Iterator[None]:
    """The hub's client tells of each attempt to reach it; what came of them is one line."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _as_splits(found: Any) -> Splits:
    return dict(found) if isinstance(found, dict) else {"train": found}


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
