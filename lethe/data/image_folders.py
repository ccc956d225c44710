"""Images in folders: a class per folder, with or without folders for train and test."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from lethe.data.decoded import FORMAT, decoded
from lethe.data.default_arch import arch_for
from lethe.data.encoded_image import SUFFIXES, EncodedImage
from lethe.data.folder_columns import ATTRIBUTES, FolderColumns
from lethe.data.impl import DATASETS, DatasetFacts, RawDataset, absolute, place_name, slug
from lethe.data.reading import AS_THEY_ARE, Reading
from lethe.data.scanned import Published
from lethe.data.split_names import MEANING, NAMES, NOTHING_ASKED, Asked, choose, meaning_of, training_splits
from lethe.registry import Entry
from lethe.system.foreign_files import IMAGE, check_depth, check_inside, read_foreign
from lethe.system.system_files import is_system_file

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
OF_LETHE = ("decoded", "huggingface")  # the folders that runs make in the folder of --data


@DATASETS.family("folder", "PATH")
def image_folder(path: str) -> Entry[DatasetFacts]:
    """Your own images in PATH/<class>/..., or in PATH/train/<class>/... and PATH/test/<class>/..."""
    if not path:
        raise ValueError("--dataset folder:PATH: expected a folder after the colon, got nothing. Name one")
    name = f"folder-{slug(absolute(path).name)}"

    def load(folder: Path, reading: Reading = AS_THEY_ARE) -> RawDataset:
        made = [folder / below for below in OF_LETHE]
        published = published_folder(
            name, Path(path).expanduser(), own=True, besides=made, asked=reading.asked
        )
        return decoded(published, folder, reading)

    facts = DatasetFacts(
        arch=arch_for(first_image(absolute(path))),
        source="your own images, a class per folder",
        free_form=True,
    )
    return Entry(place_name("folder", path), load, (), facts)


def first_image(folder: Path, depth: int = 8) -> Path | None:
    """Return the first image file below a folder, by name; None if none is there or can be read."""
    try:
        entries = sorted(_entries_of(folder), key=lambda entry: entry.name)
    except ValueError:  # reading the dataset reports it
        return None
    for entry in entries:
        path = folder / entry.name
        if entry.is_file() and entry.name.casefold().endswith(SUFFIXES):
            return path
        below = first_image(path, depth - 1) if entry.is_dir() and depth else None
        if below is not None:
            return below
    return None


def published_folder(
    name: str, root: Path, *, own: bool = False, besides: Iterable[Path] = (), asked: Asked = NOTHING_ASKED
) -> Published:
    """Return the images of a folder with a folder per class, sorted; `besides` are no classes.

    `split_names.choose` picks among folders of splits (train, test, val). Raises FileNotFoundError for a
    missing folder, and ValueError for a class folder without images and for a test part without a train part.
    """
    if root.is_file():
        raise ValueError(
            f"{name}: expected a folder with a folder of images per class, got the file {root}. Unpack it, "
            "and name the folder"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"{name}: expected a folder with a folder of images per class, and there is no folder {root}"
        )
    root = _unwrapped(name, root, besides)
    folders = {entry.name: entry for entry in _folders_in(root, besides)}
    if not _are_splits(name, folders, asked):
        listed = files_by_class(name, root, beside=(ATTRIBUTES,), besides=besides, within=root)
        return _with_columns(of_files(name, root, {"train": listed}, own=own), root, root, listed)
    _warn_of_loose_images(name, root)

    def has_labels(split: str, train: str) -> bool:
        """Return whether a split has a folder named after a class: images without labels lie in none."""
        classes = {folder.name for folder in _folders_in(folders[train])}
        return any(folder.name in classes for folder in _folders_in(folders[split]))

    chosen = choose(name, folders, has_labels, asked)
    part = folders[chosen.train]
    files = {"train": files_by_class(name, part, beside=(ATTRIBUTES,), within=root)}
    if chosen.test is not None:
        files["test"] = files_by_class(name, folders[chosen.test], beside=(ATTRIBUTES,), within=root)
    return _with_columns(of_files(name, root, files, own=own), part, root, files["train"])


def _with_columns(published: Published, part: Path, root: Path, listed: list[tuple[str, Path]]) -> Published:
    """Add the attributes of the training images, which lie below `part`."""
    files = tuple(file for _, file in listed)
    return replace(published, columns=FolderColumns(part, root, files).columns())


def _unwrapped(name: str, root: Path, besides: Iterable[Path]) -> Path:
    """Return the folder of classes or splits, inside the folders that an unpacked archive put around it."""
    found, inside = root, _folders_in(root, besides)
    while (
        len(inside) == 1
        and meaning_of(inside[0].name) is None
        and not _loose_images(found)
        and _has_folders_alone(inside[0])
    ):
        found, inside = inside[0], _folders_in(inside[0], besides)
        check_depth(found, len(found.parts) - len(root.parts))
    if found != root:
        check_inside(found, root)
        warnings.warn(f"{name}: {found} is read, the one folder in {root}", stacklevel=2)
    return found


def _are_splits(name: str, folders: Mapping[str, Path], asked: Asked) -> bool:
    """Return whether these folders are splits, not classes. Raises ValueError for a test split alone."""
    if asked != NOTHING_ASKED:
        return True
    training = training_splits(folders)
    tests = [split for split in folders if MEANING.get(split.casefold()) in ("test", "validation")]
    if not training:
        alone = [folders[split] for split in tests if _has_folders_alone(folders[split])]
        if alone:
            raise ValueError(
                f"{name}: expected a folder train beside {alone[0]}, got none. Name the folder of the "
                "training images train"
            )
        _warn_of_equal_subfolders(name, folders)
        return False
    if all(_has_folders_alone(folders[split]) for split in training):
        return True
    # A folder train with images of its own is a class of that name, unless a test split lies beside it, or
    # nothing does.
    is_named_train = training[0].casefold() in NAMES["train"]
    return is_named_train and (bool(tests) or len(folders) == 1)


def _warn_of_equal_subfolders(name: str, folders: Mapping[str, Path]) -> None:
    """Warn if all class folders have the same subfolders, as splits do."""
    inside = {frozenset(below.name for below in _folders_in(folder)) for folder in folders.values()}
    if (
        len(folders) > 1
        and len(inside) == 1
        and len(next(iter(inside))) > 1
        and all(map(_has_folders_alone, folders.values()))
    ):
        warnings.warn(
            f"{name}: {', '.join(folders)} are taken for classes, and each has the same folders: "
            f"{', '.join(sorted(next(iter(inside))))}. "
            "If they are splits, name the one for training with --train_split",
            stacklevel=2,
        )


def files_by_class(
    name: str,
    part: Path,
    beside: tuple[str, ...] = (),
    besides: Iterable[Path] = (),
    *,
    within: Path | None = None,
) -> list[tuple[str, Path]]:
    """Return (class, file) of each image below `part`, sorted. Warns of images outside the class folders.

    beside: endings of files that are known to be no images
    besides: folders that are no classes
    within: links are followed, but not out of this folder (default: `part`)

    Raises ValueError for a broken link, a link out of `within`, and a class folder without images.
    """
    classes = _folders_in(part, besides)
    if not classes:
        packed = sorted(file.name for file in part.iterdir() if file.name.casefold().endswith(ARCHIVES))
        way_out = f"Unpack {packed[0]} there" if packed else "Put each class's images in a folder of its own"
        raise ValueError(f"{name}: expected a folder of images per class in {part}, got no folder. {way_out}")
    _check_names(name, classes)
    _warn_of_loose_images(name, part)
    loose = [entry for entry in part.iterdir() if entry.is_file() and not is_system_file(entry.name)]
    in_classes = [file for folder in classes for file in files_below(folder, within or part)]
    images = _images_among(sorted([*loose, *in_classes]), beside)
    by_class: dict[str, list[Path]] = {class_name(folder): [] for folder in classes}
    for file in images:
        by_class.get(class_name(PurePath(file.relative_to(part).parts[0])), []).append(file)
    empty = [part / label for label, files in by_class.items() if not files]
    if empty:
        raise ValueError(
            f"{name}: expected images in the class folder {empty[0]}, got none. Remove the folder, or put "
            "its images there"
        )
    return [(label, file) for label, files in by_class.items() for file in files]


def images_below(folder: Path, beside: tuple[str, ...] = ()) -> list[Path]:
    """Return the image files below a folder, sorted. Warns of others, unless they end as in `beside`."""
    return _images_among(files_below(folder, folder), beside)


def _images_among(files: list[Path], beside: tuple[str, ...]) -> list[Path]:
    others = [file for file in files if not file.name.casefold().endswith((*SUFFIXES, *beside))]
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        warnings.warn(f"{others[0]}{more}: no image by its ending, left out", stacklevel=2)
    return [file for file in files if file.name.casefold().endswith(SUFFIXES)]


def files_below(folder: Path, within: Path) -> list[Path]:
    """Return the files below a folder, sorted. Follows links, but warns of those to a folder above them.

    Raises ValueError for a link out of `within`.
    """
    check_inside(folder, within)
    above = (*folder.resolve().parents, *(place.resolve() for place in folder.absolute().parents))
    return sorted(_walked(folder, above, within))


def _walked(folder: Path, above: tuple[Path, ...], within: Path) -> Iterator[Path]:
    inside = (*above, folder.resolve())
    for entry in _entries_of(folder):
        path = folder / entry.name
        if not entry.is_dir():
            yield path
        elif entry.is_symlink() and path.resolve() in inside:
            warnings.warn(f"{path}: leads back to a folder that it is in, left out", stacklevel=2)
        else:
            if entry.is_symlink():
                check_inside(path, within)
            check_depth(path, len(path.parts) - len(within.parts))
            yield from _walked(path, inside, within)


def _entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden.

    Raises ValueError for a folder that can't be read, and for a broken link that is named like an image or a
    folder.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_system_file(entry.name)]
        lost = sorted(
            Path(e.path)
            for e in found
            if e.is_symlink() and _may_be_images(Path(e.name)) and not Path(e.path).exists()
        )
        if not lost:
            return found
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that can be read ({error}). Correct its permissions, or remove it"
        ) from error
    more = f" and {len(lost) - 1} more" if lost[1:] else ""
    raise ValueError(
        f"{lost[0]}{more}: expected a link to an existing file, got one to {lost[0].readlink()}. Restore "
        "that file, or remove the link"
    )


def _may_be_images(place: PurePath) -> bool:
    """Return whether the name is that of an image or of a folder (no ending)."""
    return place.suffix.casefold() in ("", *SUFFIXES)


def class_name(folder: PurePath) -> str:
    """Return the folder's name decoded as UTF-8, whatever the locale's encoding is."""
    return os.fsencode(folder.name).decode()


def _check_names(name: str, classes: list[Path]) -> None:
    """Raise ValueError for a class folder whose name is not UTF-8: reports and stores can't contain it."""
    for folder in classes:
        try:
            class_name(folder)
        except UnicodeDecodeError as error:
            shown = os.fsencode(folder).decode(errors="backslashreplace")
            raise ValueError(
                f"{name}: expected class folders whose names are UTF-8, got {shown}. Rename it"
            ) from error


def _folders_in(folder: Path, besides: Iterable[Path] = ()) -> list[Path]:
    left_out = {place.resolve() for place in besides}
    there = (folder / entry.name for entry in _entries_of(folder) if entry.is_dir())
    return sorted(path for path in there if path.resolve() not in left_out)


def _loose_images(folder: Path) -> list[Path]:
    return sorted(
        e
        for e in folder.iterdir()
        if e.name.casefold().endswith(SUFFIXES) and not is_system_file(e.name) and e.is_file()
    )


def _has_folders_alone(folder: Path) -> bool:
    """Return whether the folder has subfolders and no images of its own: a split rather than a class."""
    return bool(_folders_in(folder)) and not _loose_images(folder)


def _warn_of_loose_images(name: str, folder: Path) -> None:
    """Warn of images that lie in no class folder."""
    loose = _loose_images(folder)
    if loose:
        more = f" and {len(loose) - 1} more" if loose[1:] else ""
        warnings.warn(f"{name}: {loose[0]}{more}: in no class folder, left out", stacklevel=2)


def of_files(
    name: str,
    root: Path,
    files: dict[str, list[tuple[str, Path]]],
    *,
    class_names: tuple[str, ...] | None = None,
    own: bool = False,
) -> Published:
    """Return a dataset of image files. Its key changes with the files' names, sizes and times of change."""
    key = key_of(
        root, {part: [(file, file.relative_to(root)) for _, file in listed] for part, listed in files.items()}
    )
    return Published(
        name, key, {part: _opening(listed, root) for part, listed in files.items()}, class_names, own
    )


def key_of(root: Path, files: Mapping[str, Iterable[tuple[Path, PurePath]]]) -> str:
    """Return a digest of the root, and of the name, size and time of change of each file."""
    content = hashlib.sha256(f"format {FORMAT}\0{root.resolve()}".encode(errors="surrogateescape"))
    for part, listed in files.items():
        for file, place in listed:
            about = file.stat()
            content.update(
                f"\0{part}\0{place}\0{about.st_size}\0{about.st_mtime_ns}".encode(errors="surrogateescape")
            )
    return content.hexdigest()


def _opening(listed: list[tuple[str, Path]], root: Path) -> Callable[[], Iterable[EncodedImage]]:
    read = functools.partial(read_foreign, most=IMAGE, inside=root)

    def images() -> Iterator[EncodedImage]:
        return (EncodedImage(str(file), label, functools.partial(read, file)) for label, file in listed)

    return images
