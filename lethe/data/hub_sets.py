"""Image datasets of the Hugging Face hub, or local copies: Parquet, `save_to_disk`, zips, folders."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lethe.data.dataset_card import all_end_as, described_splits, with_configuration
from lethe.data.decoded import FORMAT, decoded
from lethe.data.default_arch import arch_for
from lethe.data.encoded_image import SUFFIXES, EncodedImage
from lethe.data.hub_copies import (
    ParquetSplits,
    Splits,
    from_hub,
    hub_cache,
    is_saved,
    local_copy,
    saved,
    tables,
    zips,
    zips_from_hub,
)
from lethe.data.image_folders import of_files, published_folder
from lethe.data.image_zips import published_zips
from lethe.data.impl import DATASETS, DatasetFacts, RawDataset, absolute, place_name, register, slug
from lethe.data.item_columns import LABEL_NAMES
from lethe.data.reading import AS_THEY_ARE, Reading
from lethe.data.scanned import Published
from lethe.data.split_names import NOTHING_ASKED, Asked, Chosen, choose, training_splits
from lethe.data.table_columns import table_columns
from lethe.nearest_name import did_you_mean
from lethe.registry import Entry
from lethe.system.foreign_files import IMAGE, check_inside, check_size, read_foreign

PLANT, POKEMON = "jameelkhalidawan/Plant_Detection_Classification", "fcakyon/pokemon-classification"
PARQUET = (".parquet",)
T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """The names of the image and the label column; None finds the column from the features."""

    image: str | None = None
    label: str | None = None


@DATASETS.family("hf", "NAME[:IMAGE_COLUMN:LABEL_COLUMN]")
def hub_set(spec: str) -> Entry[DatasetFacts]:
    """The dataset NAME of the hub, or a local copy in NAME, <folder>/NAME or <folder>/<its last part>."""
    name, *columns = [spec] if Path(spec).expanduser().exists() else spec.split(":")
    if not name or len(columns) not in (0, 2) or not all(columns[:]):
        raise ValueError(
            f"--dataset hf:{spec}: expected hf:NAME or hf:NAME:IMAGE_COLUMN:LABEL_COLUMN. Give both columns "
            "or none"
        )
    here = Path(name).expanduser().exists()
    slugged = f"hf-{slug(absolute(name).name if here else name)}"

    def load(folder: Path, reading: Reading = AS_THEY_ARE) -> RawDataset:
        return read_hub_set(slugged, name, folder, columns=Columns(*columns), reading=reading)

    facts = DatasetFacts(arch=arch_for(None), source=f"huggingface.co/datasets/{name}", free_form=True)
    return Entry(place_name("hf", name) if here else slugged, load, (), facts)


@register("PLANT_CLASSIFICATION", epochs=30, augment=True, source=f"huggingface.co/datasets/{PLANT}")
def plant_classification(folder: Path) -> RawDataset:
    """Photographs of plants, from <folder>/plant-classification or the hub.

    The folder has train/<class>/... and test/<class>/..., or Parquet files.
    """
    also = ("plant-classification", PLANT.partition("/")[2].casefold())
    return read_hub_set("PLANT_CLASSIFICATION", PLANT, folder, also=also)


@register("POKEMON_CLASSIFICATION", epochs=30, augment=True, source=f"huggingface.co/datasets/{POKEMON}")
def pokemon_classification(folder: Path) -> RawDataset:
    """Pictures of Pokemon, from <folder>/pokemon-classification or the hub.

    The folder has data/train.zip and data/test.zip, packed or unpacked, or Parquet files.
    """
    name, also = "POKEMON_CLASSIFICATION", ("pokemon-classification",)
    if local_copy(POKEMON, folder, also) is not None:
        return read_hub_set(name, POKEMON, folder, also=also)
    # On the hub it has a loading script, which `datasets` refuses to run.
    return decoded(published_zips(name, zips_from_hub(name, POKEMON, folder)), folder)


def read_hub_set(
    name: str,
    hub_name: str,
    folder: Path,
    *,
    columns: Columns = Columns(),
    also: tuple[str, ...] = (),
    reading: Reading | None = None,
) -> RawDataset:
    """Read a local copy if there is one, else download the dataset from the hub.

    Raises FileNotFoundError if there is neither, and ValueError for damaged files and for columns that are
    missing or ambiguous.
    """
    asked = NOTHING_ASKED if reading is None else reading.asked
    local = local_copy(hub_name, folder, also)
    if local is None:
        return decoded(
            _published(name, from_hub(name, hub_name, folder), columns, asked, hub_cache()), folder, reading
        )
    local, configuration = with_configuration(local)
    root = local / "data" if (local / "data").is_dir() and not is_saved(local) else local
    if is_saved(local):
        return decoded(_published(name, saved(name, local), columns, asked, local), folder, reading)
    described = described_splits(name, local, configuration)
    if files := described if all_end_as(described, PARQUET) else tables(local):
        tables_in = local if local.is_dir() else local.parent
        return decoded(
            _published(name, ParquetSplits(name, local, files, folder), columns, asked, tables_in),
            folder,
            reading,
        )
    if all_end_as(described, SUFFIXES):
        return decoded(_of_images(name, local, described, asked), folder, reading)
    archives = _one_each(name, described) if all_end_as(described, (".zip",)) else zips(root)
    if training_splits(archives):
        for archive in archives.values():
            check_inside(archive, local)
        chosen = choose(name, archives, lambda split, train: True, asked)
        return decoded(published_zips(name, _by_part(archives, chosen)), folder, reading)
    return decoded(published_folder(name, root, asked=asked), folder, reading)


def _by_part(splits: Mapping[str, T], chosen: Chosen) -> dict[str, T]:
    """Return the chosen training split as "train" and the test split, if there is one, as "test"."""
    train = {"train": splits[chosen.train]}
    return train if chosen.test is None else train | {"test": splits[chosen.test]}


def _of_images(name: str, root: Path, splits: Mapping[str, list[str]], asked: Asked) -> Published:
    """Return the image files of a dataset card's splits; the class of each is the name of its folder."""
    classes = {split: {Path(file).parent.name for file in files} for split, files in splits.items()}
    chosen = choose(name, splits, lambda split, train: bool(classes[split] & classes[train]), asked)
    files = {
        part: [(Path(file).parent.name, Path(file)) for file in listed]
        for part, listed in _by_part(splits, chosen).items()
    }
    return of_files(name, root, files)


def _one_each(name: str, splits: Mapping[str, list[str]]) -> dict[str, Path]:
    several = next((split for split, files in splits.items() if len(files) > 1), None)
    if several is not None:
        raise ValueError(
            f"{name}: expected one zip file for the split {several}, got {len(splits[several])}. Unpack them"
        )
    return {split: Path(file) for split, (file,) in splits.items()}


def _published(name: str, splits: Splits, columns: Columns, asked: Asked, root: Path) -> Published:
    """Return the training and test split of a table of images and labels; image files lie below `root`."""

    def has_labels(split: str, train: str) -> bool:
        _, label = _columns_of(name, splits[train], columns)
        return _has_labels(splits[split], label)

    parts = _by_part(splits, choose(name, splits, has_labels, asked))
    train = parts["train"]
    image, label = chosen = _columns_of(name, train, columns)
    for part, rows in parts.items():
        missing = [column for column in chosen if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"{name}: expected the column {missing[0]} in {part}, got {', '.join(rows.column_names)}. "
                "Rename the column, or name another test split with --test_split"
            )
    attributes = table_columns(train, besides=chosen)
    parts = {part: _encoded(rows.select_columns([image, label]), image) for part, rows in parts.items()}
    classes = {part: _class_names(name, rows.features[label], label) for part, rows in parts.items()}
    names = classes["train"]
    for part, own in classes.items():
        kind = parts[part].features[label]
        if names is not None and own is None and "string" not in kind.dtype:
            raise ValueError(
                f"{name}: expected the classes' names in the column {label} of {part}, as in train, got "
                f"{kind.dtype} without names. Save both with the same features"
            )
    content = hashlib.sha256(f"format {FORMAT}".encode())
    for part, rows in parts.items():
        content.update(f"\0{part}\0{rows._fingerprint}\0{len(rows)}\0{image}\0{label}".encode())
        content.update(b"" if classes[part] == names else f"\0{classes[part]}".encode())
        for file in _files_named(rows, image):
            content.update(f"\0{_about(root / file)}".encode(errors="surrogateescape"))
    opening = {
        part: _opening(name, part, rows, (image, label), classes[part], root) for part, rows in parts.items()
    }
    in_order = names if names is not None else tuple(map(str, sorted(_labels(name, parts["train"], label))))
    return Published(name, content.hexdigest(), opening, in_order, columns=attributes)


def _has_labels(rows: Any, label: str) -> bool:
    """Return whether any label is public; if none is, the column is missing, or -1 or null in every row."""
    return label in rows.column_names and any(value not in (None, -1, "") for value in rows.unique(label))


def _encoded(rows: Any, image: str) -> Any:
    """Return the rows with their images still encoded: bytes, or a file's path."""
    import datasets

    if not isinstance(rows.features[image], datasets.Image):
        return rows
    return rows.cast_column(image, datasets.Image(decode=False))


def _class_names(name: str, feature: Any, label: str) -> tuple[str, ...] | None:
    """Return the class names of a numeric label column; None if the column holds the classes themselves."""
    import datasets

    if not isinstance(feature, (datasets.ClassLabel, datasets.Value)):
        raise ValueError(
            f"{name}: expected a class for each image in the column {label}, got a list or the like. Name "
            "another column"
        )
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _files_named(rows: Any, image: str) -> Iterator[str]:
    """Yield the image files of cells without bytes: the table's fingerprint does not cover their content."""
    import pyarrow.compute as pc
    import pyarrow.types

    for cells in rows.data.column(image).chunks:
        if pyarrow.types.is_struct(cells.type) and {"bytes", "path"} <= {field.name for field in cells.type}:
            paths = pc.struct_field(cells, "path")
            alone = pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(paths))
            yield from paths.filter(alone).to_pylist()


def _about(file: Path) -> str:
    """Return a file's name, size and time of change; the name alone if it is missing."""
    try:
        about = file.stat()
    except (OSError, ValueError):
        return str(file)
    return f"{file}\0{about.st_size}\0{about.st_mtime_ns}"


def _columns_of(name: str, rows: Any, columns: Columns) -> tuple[str, str]:
    """Return the image and the label column: those asked for, else the only candidates."""
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
        if isinstance(kind, datasets.Image)
        or set(kind if isinstance(kind, dict) else ()) == {"bytes", "path"}
    ]
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [column for column in rows.column_names if column.casefold() in LABEL_NAMES]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{name}: expected one image column and one label column, got {', '.join(images) or 'none'} and "
            f"{', '.join(labels) or 'none'} "
            f"among {', '.join(rows.column_names)}. Write hf:NAME:IMAGE_COLUMN:LABEL_COLUMN"
        )
    return images[0], labels[0]


def _labels(name: str, rows: Any, label: str) -> list[Any]:
    found = rows.unique(label) if len(rows) else []
    bad = [value for value in found if not isinstance(value, (str, int))]
    if bad:
        raise ValueError(
            f"{name}: expected a class for each image in the column {label}, got {bad[0]!r}. Name another "
            "column"
        )
    return found


def _opening(
    name: str, part: str, rows: Any, columns: tuple[str, str], names: tuple[str, ...] | None, root: Path
) -> Callable[[], Iterable[EncodedImage]]:
    image, label = columns

    def images() -> Iterator[EncodedImage]:
        for number, row in enumerate(rows):
            value = row[label]
            shown = f"row {number} of {part}"
            if not isinstance(value, (str, int)) or (names is not None and not 0 <= int(value) < len(names)):
                raise ValueError(
                    f"{name}: expected a class for each image, got {value!r} in {shown}, column {label}. "
                    "Remove the row"
                )
            cell = row[image]
            path = cell.get("path") if isinstance(cell, dict) else None
            shown = f"{shown} ({path})" if path else shown
            yield EncodedImage(
                shown,
                str(value) if names is None else names[int(value)],
                functools.partial(_bytes_of, cell, root),
            )

    return images


def _bytes_of(cell: Any, root: Path) -> bytes:
    """Return the bytes of an image cell, or of its file below `root`. Raises ValueError for an empty cell."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is None and isinstance(cell, dict) and cell.get("path"):
        return read_foreign(root / cell["path"], most=IMAGE, inside=root)
    if not isinstance(content, bytes):
        raise ValueError(f"expected an image, got {'nothing' if content is None else type(content).__name__}")
    check_size("the cell", len(content), IMAGE)
    return content
