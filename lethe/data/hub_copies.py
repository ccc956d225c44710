"""Find a dataset of the Hugging Face hub: in a local copy, else on the hub."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lethe.data.at_hand import check_may_fetch
from lethe.data.dataset_card import with_configuration
from lethe.data.own_files import own_files
from lethe.data.split_names import MEANING, meaning_of
from lethe.system.foreign_files import MB, check_inside, foreign_text, open_foreign
from lethe.system.system_files import is_system_file

LARGEST_TABLE = 1_000_000 * MB
Splits = Mapping[str, Any]


def local_copy(hub_name: str, folder: Path, also: tuple[str, ...] = ()) -> Path | None:
    """Return the local copy of a dataset OWNER/NAME or OWNER/NAME/CONFIGURATION; None if there is none.

    The places, in order: the path itself, <folder>/OWNER/NAME/..., <folder>/NAME/..., <folder>/<last part>,
    and a folder in <folder> that has one of the lower-case names `also` in any case. A path may end in a
    configuration of its README.md.
    """
    places = [Path(hub_name).expanduser(), folder / hub_name]
    places += (
        [folder / hub_name.partition("/")[2], folder / hub_name.rpartition("/")[2]] if "/" in hub_name else []
    )
    if folder.is_dir():
        places += [entry for entry in sorted(folder.iterdir()) if entry.name.casefold() in also]
    configured = [
        place
        for place in places
        if place.parent not in (folder, Path()) and with_configuration(place)[1] is not None
    ]
    return next((place for place in (*places, *configured) if place.exists() or place in configured), None)


def is_saved(place: Path) -> bool:
    """Return whether the `datasets` library's `save_to_disk` wrote this folder."""
    return (place / "dataset_dict.json").exists() or (place / "state.json").exists()


def tables(place: Path) -> dict[str, list[str]]:
    """Return the Parquet files of each split: train-00000-of-00002.parquet, test/0000.parquet, ...

    If no name means a split and there are no shards of several splits, all files are for training.
    """
    below = [place] if place.suffix == ".parquet" else sorted(place.rglob("*.parquet"))
    files = [file for file in below if not any(map(is_system_file, file.relative_to(place).parts))]
    if not files:
        return {}
    named = [_split_named(place, file) for file in files]
    _refuse_configurations(place, files)
    shards = [_shard_of(file) for file in files]
    if not any(named) and len(set(shards)) == 1:
        words = {_leading_word(place, file) for file in files}
        if len(words) > 1:
            called = ", ".join(str(file.relative_to(place)) for file in files)
            warnings.warn(
                f"{place}: no file is called as a split: all are for training ({called})", stacklevel=2
            )
        return {"train": [str(file) for file in files]}
    found: dict[str, list[str]] = {}
    for file, split, shard in zip(files, named, shards, strict=True):
        found.setdefault(split or shard or _leading_word(place, file), []).append(str(file))
    return found


def _refuse_configurations(place: Path, files: list[Path]) -> None:
    """Raise ValueError if the top folders are several configurations rather than splits."""
    top = {file.relative_to(place).parts[0] for file in files if file != place and file.parent != place}
    if any(name.casefold() in MEANING for name in top):
        return
    kinds = sorted(top - {"data"})
    if len(kinds) > 1:
        raise ValueError(
            f"{place}: expected one dataset, got several configurations: {', '.join(kinds)}. Name one: "
            f"hf:{place / kinds[0]}"
        )


def _split_named(place: Path, file: Path) -> str | None:
    """Return the split of a file: by its shard name, else by the last word in its path that means one."""
    shard = _shard_of(file)
    if meaning_of(shard):
        return shard
    steps = [file.stem] if file == place else [*file.relative_to(place).parts[:-1], file.stem]
    return next((meaning for step in reversed(steps) if (meaning := meaning_of(step))), None)


def _shard_of(file: Path) -> str:
    """Return SPLIT of SPLIT-00000-of-00001.parquet, as `push_to_hub` names files; "" for other names."""
    found = re.fullmatch(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-\w+)?\.parquet", file.name)
    return found[1] if found else ""


def _leading_word(place: Path, file: Path) -> str:
    """Return the first word of a file's name, else of the nearest folder."""
    for name in (file.stem, *reversed(file.relative_to(place).parts[:-1])):
        words = re.findall(r"[^\W\d_]+", name)
        if words:
            return str(words[0])
    return "unnamed"


def zips(place: Path) -> dict[str, Path]:
    """Return the zip files named after splits; {} if folders are named so: the files are unpacked."""
    if not place.is_dir() or any((place / split).is_dir() for split in MEANING):
        return {}
    return {file.stem: file for file in sorted(place.glob("*.zip")) if file.stem.casefold() in MEANING}


def saved(name: str, local: Path) -> Splits:
    """Load splits that `save_to_disk` wrote. Raises ValueError for an empty one: `datasets` can't load it."""
    import datasets

    for file in sorted([*local.glob("*"), *local.glob("*/*")]):
        if not file.is_dir():
            open_foreign(file, most=LARGEST_TABLE, inside=local).close()
    with _read_from(name, local):
        states = sorted([*local.glob("state.json"), *local.glob("*/state.json")])
        places = {
            state.parent: json.loads(foreign_text(state, inside=local))["_data_files"] for state in states
        }
        for place, files in places.items():
            for file in files or ():
                check_inside(place / file["filename"], local)
    _refuse_empty(name, [str(place) for place, files in places.items() if not files])
    with _read_from(name, local):
        return _as_splits(datasets.load_from_disk(str(local)))


class ParquetSplits(Mapping[str, Any]):
    """Splits in Parquet files, read at their first use. `datasets` caches tables in <folder>/huggingface.

    Raises ValueError if two files of a split number their classes differently: that library would apply the
    first file's to both.
    """

    def __init__(self, name: str, local: Path, files: Mapping[str, list[str]], folder: Path) -> None:
        self.name, self.local, self.files = name, local, files
        self.cache = str(own_files(name, folder, "huggingface"))
        self._read: dict[str, Any] = {}

    def __getitem__(self, split: str) -> Any:
        if split not in self._read:
            self._read[split] = self._rows_of(split)
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def _rows_of(self, split: str) -> Any:
        import datasets
        import pyarrow.parquet as pq

        paths = self.files[split]
        with _read_from(self.name, self.local):
            for path in paths:
                open_foreign(
                    Path(path),
                    most=LARGEST_TABLE,
                    inside=self.local if self.local.is_dir() else self.local.parent,
                ).close()
            features = {path: datasets.Features.from_arrow_schema(pq.read_schema(path)) for path in paths}
            rows = sum(pq.read_metadata(path).num_rows for path in paths)
        _refuse_empty(self.name, [] if rows else [paths[0]])
        _check_same_classes(self.name, split, features)
        called = re.sub(r"\W+", "_", split)  # the library's rule for the name of a split
        with _read_from(self.name, self.local):
            return datasets.load_dataset(
                "parquet", data_files={called: paths}, split=called, cache_dir=self.cache
            )


def _refuse_empty(name: str, empty: list[str]) -> None:
    if empty:
        raise ValueError(
            f"{name}: expected training images and, where there is a test part, test images, got no row in "
            f"{empty[0]}. Remove it"
        )


def _check_same_classes(name: str, part: str, features: dict[str, Any]) -> None:
    (first, its), *others = ((file, _classes_of(found)) for file, found in features.items())
    for file, found in others:
        different = sorted(column for column in {*its, *found} if its.get(column) != found.get(column))
        if different:
            column = different[0]
            shown = (
                f"{', '.join(these.get(column, ('none',)))} in {where}"
                for where, these in ((first, its), (file, found))
            )
            raise ValueError(
                f"{name}: expected the same classes, in the same order, in all files of {part}, got for the "
                f"column {column} {' and '.join(shown)}. Save them with the same"
            )


def _classes_of(features: Any) -> dict[str, tuple[str, ...]]:
    import datasets

    return {
        column: tuple(kind.names)
        for column, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
    }


@contextlib.contextmanager
def _read_from(name: str, local: Path) -> Iterator[None]:
    import datasets

    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        TypeError,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise ValueError(
            f"{name}: expected a dataset in {local}, and it can't be read ({_cause(error)}). Download it "
            "again"
        ) from error


def from_hub(name: str, hub_name: str, folder: Path) -> Splits:
    """Load the splits of a hub dataset OWNER/NAME or OWNER/NAME/CONFIGURATION with the `datasets` library."""
    check_may_fetch(name)
    import datasets

    try:
        with _quiet_client():
            owner_and_name, configuration = "/".join(hub_name.split("/")[:2]), hub_name.split("/")[2:]
            return _as_splits(datasets.load_dataset(owner_and_name, *configuration))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _not_available(name, hub_name, folder, error) from error


def hub_cache() -> Path:
    """Return the cache folder of the `datasets` library and the hub's client."""
    import datasets

    return Path(datasets.config.HF_CACHE_HOME).expanduser()


def zips_from_hub(name: str, hub_name: str, folder: Path) -> dict[str, Path]:
    """Download data/train.zip and data/test.zip of a hub dataset."""
    check_may_fetch(name)
    import huggingface_hub

    try:
        with _quiet_client():
            fetch = functools.partial(huggingface_hub.hf_hub_download, hub_name, repo_type="dataset")
            return {part: Path(fetch(f"data/{part}.zip")) for part in ("train", "test")}
    except (OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise _not_available(name, hub_name, folder, error) from error


def _not_available(name: str, hub_name: str, folder: Path, error: Exception) -> FileNotFoundError:
    owner_and_name = "/".join(hub_name.split("/")[:2])
    root = folder / owner_and_name.rpartition("/")[2]
    place = root.joinpath(*hub_name.split("/")[2:])
    return FileNotFoundError(
        f"{name}: expected {hub_name} in {place}, and it can't be had from the hub ({_cause(error)}). Put "
        f"its files there, e.g. by hf download {owner_and_name} --repo-type dataset --local-dir {root}, or "
        "name their folder with --data"
    )


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Silence the hub client's line for each attempt to connect; the error message says the outcome."""
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
