"""Where a dataset of the Hugging Face hub is: in a local copy, else on the hub."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_data.at_hand import begin_to_fetch

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("valid", "validation", "val", "dev"), "validation")
Splits = dict[str, Any]


def local_copy(hub_name: str, folder: Path, also: tuple[str, ...] = ()) -> Path | None:
    """NAME itself where it is a path, else <folder>/NAME, <folder>/<the last part of NAME>, or a folder called as `also` in any case."""
    places = [Path(hub_name).expanduser(), folder / hub_name, folder / hub_name.rpartition("/")[2]]
    if folder.is_dir():
        places += [entry for entry in sorted(folder.iterdir()) if entry.name.casefold() in also]
    return next((place for place in places if place.exists()), None)


def is_saved(place: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (place / "dataset_dict.json").exists() or (place / "state.json").exists()


def tables(place: Path) -> dict[str, list[str]]:
    """The Parquet files by part, as a folder or their name says (train-00000-of-00002.parquet, test/0000.parquet)."""
    files = [place] if place.suffix == ".parquet" else sorted(place.rglob("*.parquet"))
    kinds = sorted({file.relative_to(place).parts[0] for file in files if file != place and file.parent != place} - {"data", *PARTS})
    if len(kinds) > 1:
        raise ValueError(f"{place}: expected one dataset, got several configurations: {', '.join(kinds)}. Name one: hf:{place / kinds[0]}")
    found: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^A-Za-z]+", file.name if file == place else str(file.relative_to(place)))
        part = next((PARTS[word.casefold()] for word in reversed(words) if word.casefold() in PARTS), "train")
        found.setdefault(part, []).append(str(file))
    return found


def zips(place: Path) -> dict[str, Path]:
    """The zip files that are called as a part, by part; none where they are unpacked beside."""
    if not place.is_dir() or any((place / part).is_dir() for part in PARTS):
        return {}
    return {PARTS[file.stem.casefold()]: file for file in sorted(place.glob("*.zip")) if file.stem.casefold() in PARTS}


def from_disk(name: str, local: Path, folder: Path) -> Splits:
    """The splits of a local copy, by the `datasets` library. What that makes of Parquet is kept in <folder>/huggingface."""
    import datasets

    try:
        if is_saved(local):
            return _as_splits(datasets.load_from_disk(str(local)))
        return _as_splits(datasets.load_dataset("parquet", data_files=tables(local), cache_dir=str(folder / "huggingface")))
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
    place = folder / hub_name.rpartition("/")[2]
    return FileNotFoundError(
        f"{name}: expected {hub_name} in {place}, and it can't be had from the hub ({_cause(error)}). Put its files there, e.g. by "
        f"hf download {hub_name} --repo-type dataset --local-dir {place}, or name their folder with --data"
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
