"""Image datasets of the Hugging Face hub, or local copies of such: Parquet, `save_to_disk`, zipped or unpacked folders."""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import Entry, did_you_mean
from vision_data.decoded import FORMAT, Published, decoded
from vision_data.encoded_image import EncodedImage
from vision_data.image_folders import published_folder
from vision_data.impl import DATASETS, DatasetFacts, RawDataset, register, slug

PLANT, POKEMON = "jameelkhalidawan/Plant_Detection_Classification", "fcakyon/pokemon-classification"
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("valid", "validation", "val", "dev"), "validation")
LABEL_NAMES = ("label", "labels", "class", "target", "category")
Splits = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """Which column has the images, and which the labels; None where the data is to say."""

    image: str | None = None
    label: str | None = None


@DATASETS.family("hf", "NAME[:IMAGE_COLUMN:LABEL_COLUMN]")
def hub_set(spec: str) -> Entry[DatasetFacts]:
    """The dataset NAME of the hub, or the local copy of one: in NAME, <folder>/NAME or <folder>/<its last part>."""
    name, *columns = [spec] if Path(spec).expanduser().exists() else spec.split(":")
    if not name or len(columns) not in (0, 2) or not all(columns[:]):
        raise ValueError(f"--dataset hf:{spec}: expected hf:NAME or hf:NAME:IMAGE_COLUMN:LABEL_COLUMN. Give both columns or none")
    slugged = f"hf-{slug(Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name)}"
    load = functools.partial(read_hub_set, slugged, name, columns=Columns(*columns))
    return Entry(slugged, load, (), DatasetFacts(source=f"huggingface.co/datasets/{name}"))


@register("PLANT_CLASSIFICATION", epochs=30, augment=True, source=f"huggingface.co/datasets/{PLANT}")
def plant_classification(folder: Path) -> RawDataset:
    """Photographs of plants, from <folder>/plant-classification (train/<class>/..., test/<class>/..., or Parquet), else from the hub."""
    return read_hub_set("PLANT_CLASSIFICATION", PLANT, folder, also=("plant-classification",))


@register("POKEMON_CLASSIFICATION", epochs=30, augment=True, source=f"huggingface.co/datasets/{POKEMON}")
def pokemon_classification(folder: Path) -> RawDataset:
    """Pictures of Pokemon, from <folder>/pokemon-classification (data/train.zip, data/test.zip, unpacked or not, Parquet), else the hub."""
    zips = {part: f"hf://datasets/{POKEMON}/data/{part}.zip" for part in ("train", "test")}  # its script is not run
    return read_hub_set("POKEMON_CLASSIFICATION", POKEMON, folder, zips=zips)


def read_hub_set(
    name: str, hub_name: str, folder: Path, *, columns: Columns = Columns(), also: tuple[str, ...] = (), zips: dict[str, str] | None = None
) -> RawDataset:
    """A local copy where there is one, else what the hub has.

    Raises FileNotFoundError where there is neither, and ValueError for what can't be read, and for columns that are not there or not
    to be guessed.
    """
    local = _local_copy(hub_name, folder, also)
    if local is None:
        return decoded(_published(name, _from_hub(name, hub_name, folder, zips), columns), folder)
    root = local / "data" if (local / "data").is_dir() and not _is_saved(local) else local
    if not _is_saved(local) and not _tables(local) and not _zips(root):
        return decoded(published_folder(name, root), folder)
    return decoded(_published(name, _from_disk(name, local, root, folder), columns), folder)


def _local_copy(hub_name: str, folder: Path, also: tuple[str, ...]) -> Path | None:
    last = hub_name.rpartition("/")[2]
    places = [Path(hub_name).expanduser(), folder / hub_name, folder / last]
    if folder.is_dir():
        wanted = {last.casefold(), *also}
        places += [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name.casefold() in wanted]
    return next((place for place in places if place.exists()), None)


def _is_saved(place: Path) -> bool:
    return (place / "dataset_dict.json").exists() or (place / "state.json").exists()


def _tables(place: Path) -> dict[str, list[str]]:
    """The Parquet files by part, as a folder or their name says (train-00000-of-00002.parquet, test/0000.parquet)."""
    files = [place] if place.suffix == ".parquet" else sorted(place.rglob("*.parquet"))
    return _by_part({file: re.split(r"[^A-Za-z]+", str(file.relative_to(place) if file != place else file.name)) for file in files})


def _zips(place: Path) -> dict[str, list[str]]:
    """The zip files that are called as a part; none where they are unpacked."""
    if not place.is_dir() or any((place / part).is_dir() for part in PARTS):
        return {}
    return _by_part({file: [file.stem] for file in sorted(place.glob("*.zip")) if file.stem.casefold() in PARTS})


def _by_part(files: dict[Path, list[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file, words in files.items():
        part = next((PARTS[word.casefold()] for word in reversed(words) if word.casefold() in PARTS), "train")
        found.setdefault(part, []).append(str(file))
    return found


def _from_disk(name: str, local: Path, root: Path, folder: Path) -> Splits:
    import datasets

    kept_in = str(folder / "huggingface")
    try:
        if _is_saved(local):
            return _as_splits(datasets.load_from_disk(str(local)))
        tables = _tables(local)
        if tables:
            return _as_splits(datasets.load_dataset("parquet", data_files=tables, cache_dir=kept_in))
        return _as_splits(datasets.load_dataset("imagefolder", data_files=_zips(root), cache_dir=kept_in))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{name}: expected a dataset in {local}, and it can't be read ({_root_cause(error)}). Download it again"
        ) from error


def _from_hub(name: str, hub_name: str, folder: Path, zips: dict[str, str] | None) -> Splits:
    import datasets

    try:
        return _as_splits(datasets.load_dataset("imagefolder", data_files=zips) if zips else datasets.load_dataset(hub_name))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"{name}: expected {hub_name} in {folder / hub_name.rpartition('/')[2]}, and it can't be had from the hub "
            f"({_root_cause(error)}). Put its files there, e.g. by hf download {hub_name} --repo-type dataset --local-dir "
            f"{folder / hub_name.rpartition('/')[2]}, or name their folder with --data"
        ) from error


def _as_splits(found: Any) -> Splits:
    return dict(found) if isinstance(found, dict) else {"train": found}


def _published(name: str, splits: Splits, columns: Columns) -> Published:
    """The train and the test part of a dataset with an image column and a label column."""
    import datasets

    train = splits.get("train", next(iter(splits.values())) if len(splits) == 1 else None)
    if train is None:
        raise ValueError(f"{name}: expected a split train, got {', '.join(splits)}. Save it with one of that name")
    tests = [part for part in ("test", "validation", "valid", "val") if part in splits]
    left_out = [part for part in splits if splits[part] is not train and part not in tests[:1]]
    if left_out:
        warnings.warn(f"{name}: the split {', '.join(left_out)} is left out: validation images are drawn from train", stacklevel=2)
    chosen = _columns_of(name, train, columns)
    parts = {"train": train} | ({"test": splits[tests[0]]} if tests else {})
    for part, rows in parts.items():
        missing = [column for column in chosen if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"{name}: expected the column {missing[0]} in {part}, got {', '.join(rows.column_names)}. Name the columns as train does"
            )
    image, label = chosen
    parts = {part: rows.select_columns([image, label]) for part, rows in parts.items()}
    if isinstance(train.features[image], datasets.Image):
        parts = {part: rows.cast_column(image, datasets.Image(decode=False)) for part, rows in parts.items()}
    feature = train.features[label]
    names = (
        tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else tuple(map(str, sorted(_labels(name, parts["train"], label))))
    )
    content = hashlib.sha256(f"format {FORMAT}".encode())
    for part, rows in parts.items():
        content.update(f"\0{part}\0{rows._fingerprint}\0{len(rows)}\0{image}\0{label}".encode())
    numbered = isinstance(feature, datasets.ClassLabel)
    opening = {part: _opening(name, part, rows, image, label, names if numbered else None) for part, rows in parts.items()}
    return Published(name, content.hexdigest(), opening, names)


def _columns_of(name: str, rows: Any, columns: Columns) -> tuple[str, str]:
    """The image and the label column: those asked for, else the only ones that can be meant."""
    import datasets

    for asked in (columns.image, columns.label):
        if asked is not None and asked not in rows.column_names:
            raise ValueError(f"{name}: {did_you_mean('column', asked, rows.column_names)}")
    if columns.image is not None and columns.label is not None:
        return columns.image, columns.label
    features = rows.features
    images = [
        column
        for column, kind in features.items()
        if isinstance(kind, datasets.Image) or set(kind if isinstance(kind, dict) else ()) == {"bytes", "path"}
    ]
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [column for column in rows.column_names if column.casefold() in LABEL_NAMES]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{name}: expected one image column and one label column, got {', '.join(images) or 'none'} and {', '.join(labels) or 'none'} "
            f"among {', '.join(rows.column_names)}. Write hf:NAME:IMAGE_COLUMN:LABEL_COLUMN"
        )
    return images[0], labels[0]


def _labels(name: str, rows: Any, label: str) -> list[Any]:
    found = rows.unique(label) if len(rows) else []
    bad = [value for value in found if not isinstance(value, (str, int))]
    if bad:
        raise ValueError(f"{name}: expected a class for each image in the column {label}, got {bad[0]!r}. Name another column")
    return found


def _opening(
    name: str, part: str, rows: Any, image: str, label: str, names: tuple[str, ...] | None
) -> Callable[[], Iterable[EncodedImage]]:
    def images() -> Iterator[EncodedImage]:
        for number, row in enumerate(rows):
            value = row[label]
            shown = f"row {number} of {part}"
            if not isinstance(value, (str, int)) or (names is not None and not 0 <= int(value) < len(names)):
                raise ValueError(f"{name}: expected a class for each image, got {value!r} in {shown}, column {label}. Remove the row")
            cell = row[image]
            path = cell.get("path") if isinstance(cell, dict) else None
            shown = f"{shown} ({path})" if path else shown
            yield EncodedImage(shown, str(value) if names is None else names[int(value)], functools.partial(_bytes_of, cell))

    return images


def _bytes_of(cell: Any) -> bytes:
    """What is in an image cell: bytes, or a file that it names. ValueError for an empty one."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is None and isinstance(cell, dict) and cell.get("path"):
        return Path(cell["path"]).read_bytes()
    if not isinstance(content, bytes):
        raise ValueError(f"expected an image, got {'nothing' if content is None else type(content).__name__}")
    return content


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
