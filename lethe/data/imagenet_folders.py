"""ImageNet and subsets, from published files: IMAGENET_SMALL, TinyImageNet, Living17, Imagenette."""

from __future__ import annotations

import functools
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lethe.data.decoded import decoded
from lethe.data.encoded_image import SUFFIXES, EncodedImage
from lethe.data.image_columns import SUBCLASS, ReadColumns
from lethe.data.image_folders import (
    files_below,
    files_by_class,
    images_below,
    key_of,
    of_files,
    published_folder,
)
from lethe.data.impl import RawDataset, register
from lethe.data.living17 import LIVING17
from lethe.data.scanned import Published
from lethe.system.foreign_files import (
    IMAGE,
    MB,
    check_size,
    foreign_text,
    open_foreign,
    read_foreign,
    size_text,
)
from lethe.system.system_files import is_system_file
from lethe.system.torchvision_import import torchvision_module

SYNSET = re.compile(r"n\d{8}")
PART_IN_NAME = {
    "ilsvrc2012_val_": "test",
    "ilsvrc2012_test_": None,
}  # of an image outside the folders of parts and classes
ARCHIVES = (".tar.gz", ".tgz", ".tar")
IMAGENET_FOLDERS = ("imagenet_small", "imagenet-small", "imagenet-1k", "imagenet")
SMALLEST = "imagenette2-160"
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
LARGEST_ARCHIVE = 1_000_000 * MB
ClassOf = Callable[[str], str | None]


@register("IMAGENET_SMALL", epochs=30, augment=True, source="Russakovsky et al. 2015, arXiv:1409.0575")
def imagenet_small(folder: Path) -> RawDataset:
    """ImageNet-1k or a part of it, from <folder>/imagenet_small.

    Reads the hub's archives, unpacked images, or an archive per class. The class of an image is the synset
    (n01440764) in the name of its folder or archive, else in its own name. Images in train*/ or
    train*.tar.gz are for training, those in val*/ for the test. If the hub's archives were unpacked in
    place, an image's own name gives its part (ILSVRC2012_val_...).
    """
    return decoded(
        published_imagenet(
            "IMAGENET_SMALL", _first_of("IMAGENET_SMALL", folder, IMAGENET_FOLDERS), lambda synset: synset
        ),
        folder,
    )


@register("TinyImageNet", "tiny_imagenet", epochs=30, augment=True, source="Le, Yang 2015, Stanford CS 231N")
def tiny_imagenet(folder: Path) -> RawDataset:
    """TinyImageNet: 100,000 + 10,000 images of 200 classes, 64 x 64, from <folder>/tiny-imagenet-200.

    Its validation part is the test part here: the labels of the published test part are not public.
    """
    root = _first_of("TinyImageNet", folder, ("tiny-imagenet-200",))
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise FileNotFoundError(
            f"TinyImageNet: expected the folders train and val in {root}. Unpack tiny-imagenet-200.zip there"
        )
    train = files_by_class("TinyImageNet", root / "train", beside=("_boxes.txt",), within=root)
    files = {"train": train, "test": _annotated(root / "val", root)}
    return decoded(of_files("TinyImageNet", root, files), folder)


@register("Living17", epochs=25, augment=True, source="Santurkar, Tsipras, Madry 2021, arXiv:2008.04859")
def living17(folder: Path) -> RawDataset:
    """Living17: ImageNet's images of 17 kinds of animals, four classes each, from <folder>/living17.

    Without that folder, from the folder of IMAGENET_SMALL. Read as IMAGENET_SMALL, without the other classes.
    Folders named after the 17 kinds are read as they are.
    """
    root = _first_of("Living17", folder, ("living17", *IMAGENET_FOLDERS))
    kinds = {synset: kind for kind, synsets in LIVING17.items() for synset in synsets}
    if {entry.name for entry in (root / "train").glob("*")} >= set(LIVING17):
        return decoded(published_folder("Living17", root), folder)
    return decoded(published_imagenet("Living17", root, kinds.get, tuple(kinds), tuple(LIVING17)), folder)


@register("Imagenette", epochs=20, augment=True, source="Howard 2019, github.com/fastai/imagenette")
def imagenette(folder: Path) -> RawDataset:
    """Imagenette: ten easy classes, 9,469 + 3,925 images, 160 x 160, from <folder>/imagenette2-160."""
    torchvision_set, root = torchvision_module("datasets").Imagenette, folder / SMALLEST
    if not root.is_dir():
        try:
            torchvision_set(str(folder), size="160px", download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"Imagenette: expected train and val in {root}, and the download failed ({_line(error)}). "
                f"Unpack {SMALLEST}.tgz in {folder}"
            ) from error
    names = {synset: name for synset, (name, *_) in torchvision_set._WNID_TO_CLASS.items()}
    files = {}
    for part, below in (("train", "train"), ("test", "val")):
        if not (root / below).is_dir():
            raise FileNotFoundError(
                f"Imagenette: expected the folder {below} in {root}. Unpack {SMALLEST}.tgz in {folder}"
            )
        files[part] = [
            (names.get(synset, synset), file)
            for synset, file in files_by_class("Imagenette", root / below, within=root)
        ]
    return decoded(
        of_files("Imagenette", root, files, class_names=tuple(names[synset] for synset in sorted(names))),
        folder,
    )


def published_imagenet(
    name: str,
    root: Path,
    class_of: ClassOf,
    needed: tuple[str, ...] = (),
    class_names: tuple[str, ...] | None = None,
) -> Published:
    """Return the images below a folder, without the synsets for which `class_of` returns None."""
    there: dict[str, list[Path]] = {"train": [], "test": []}
    for file in sorted([*images_below(root, beside=ARCHIVES), *_archives_below(root)]):
        part = _part_of(file.relative_to(root))
        if part is not None:
            there[part].append(file)
    if not there["train"]:
        raise FileNotFoundError(
            f"{name}: expected images or archives (.tar.gz) of ImageNet in {root}, got none. Put them there"
        )
    by_class = [_synset_of(file.relative_to(root)) for file in there["train"]]
    missing = sorted(set(needed) - set(by_class)) if all(by_class) else []
    if missing:
        raise FileNotFoundError(
            f"{name}: expected each of its {len(needed)} classes in {root}, got none of "
            f"{', '.join(missing)}. Put them there"
        )

    def opening(files: list[Path]) -> Callable[[], Iterable[EncodedImage]]:
        return lambda: _images_of(name, root, files, class_of)

    parts = {part: opening(files) for part, files in there.items() if files}
    key = key_of(
        root, {part: [(file, file.relative_to(root)) for file in files] for part, files in there.items()}
    )
    columns = None
    if class_names is not None:  # classes of several synsets each
        columns = ReadColumns(lambda: [SUBCLASS], lambda _: _synsets_of(root, there["train"], class_of))
    return Published(name, key, parts, class_names, columns=columns)


def _synsets_of(root: Path, files: list[Path], class_of: ClassOf) -> list[str]:
    """Return the synset of each image of a class. Unpacks archives, whose members say it."""
    synsets = []
    for file in files:
        for image in _inside(root, file) if _is_archive(file) else [_file_of(root, file)]:
            synset = _synset_of(image.place) or _synset_in_name(image.place)
            if synset is not None and class_of(synset) is not None:
                synsets.append(synset)
    return synsets


def _images_of(name: str, root: Path, files: list[Path], class_of: ClassOf) -> Iterator[EncodedImage]:
    for file in files:
        count = 0
        for image in _inside(root, file) if _is_archive(file) else [_file_of(root, file)]:
            count += 1
            synset = _synset_of(image.place) or _synset_in_name(image.place)
            if synset is None:
                raise ValueError(
                    f"{name}: expected a class like n01440764 in the name of {image.shown} or its folder, "
                    "got none. Put it in its class's folder"
                )
            label = class_of(synset)
            if label is not None:
                yield EncodedImage(image.shown, label, image.read, image.held)
        if not count:
            raise ValueError(f"{name}: expected images in {file}, got none. Download it again, or remove it")


@dataclass(frozen=True)
class Found:
    """An image whose class is not known yet.

    shown: its name in messages
    place: its path below the root
    read: returns its bytes
    held: number of these bytes that memory already holds
    """

    shown: str
    place: Path | PurePosixPath
    read: Callable[[], bytes]
    held: int = 0


def _file_of(root: Path, file: Path) -> Found:
    return Found(
        str(file), file.relative_to(root), functools.partial(read_foreign, file, most=IMAGE, inside=root)
    )


class BoundedMember(tarfile.TarInfo):
    """A member of a tar archive with a bounded long name and extended header: tarfile reads these whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedMember:
        member = super().frombuf(buf, encoding, errors)
        if member.type in HEADERS and member.size > MB:
            raise tarfile.ReadError(
                f"expected names and headers of at most {size_text(MB)}, got {size_text(member.size)}"
            )
        return member


def _inside(root: Path, archive: Path) -> Iterator[Found]:
    """Yield the images of a tar archive in its order. Raises ValueError for one that is too large."""
    folder = PurePosixPath(_stem(archive.relative_to(root)))
    with open_foreign(archive, most=LARGEST_ARCHIVE, inside=root) as opened:
        try:
            with tarfile.open(fileobj=opened, mode="r|*", tarinfo=BoundedMember) as tar:
                for member in tar:
                    place = PurePosixPath(member.name)
                    if (
                        member.isfile()
                        and place.suffix.casefold() in SUFFIXES
                        and not is_system_file(place.name)
                    ):
                        yield _member_of(tar, member, f"{archive}:{member.name}", folder / place)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            raise ValueError(
                f"{archive}: expected a whole tar archive, got a damaged one ({_line(error)}). Download it "
                "again"
            ) from error


def _member_of(tar: tarfile.TarFile, member: tarfile.TarInfo, shown: str, place: PurePosixPath) -> Found:
    check_size(shown, member.size, IMAGE)
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    return Found(shown, place, functools.partial(bytes, content), len(content))


def _part_of(place: Path) -> str | None:
    """Return train or test, by the folders in the path; None for the published test part (no labels).

    For an image outside the folders of parts and classes, its own name decides.
    """
    for step in place.parts if _is_archive(place) else place.parts[:-1]:
        for start, part in (("train", "train"), ("val", "test"), ("test", None)):
            if step.casefold().startswith(start):
                return part
    if _synset_of(place) is None:
        return next(
            (part for start, part in PART_IN_NAME.items() if place.name.casefold().startswith(start)), "train"
        )
    return "train"


def _synset_of(place: Path | PurePosixPath) -> str | None:
    """Return the synset in the name of the nearest folder or archive."""
    steps = (*place.parts[:-1], _stem(place)) if _is_archive(place) else place.parts[:-1]
    return next(
        (PurePosixPath(step).name for step in reversed(steps) if SYNSET.fullmatch(PurePosixPath(step).name)),
        None,
    )


def _synset_in_name(place: Path | PurePosixPath) -> str | None:
    """Return the synset in n01440764_10026.JPEG or ILSVRC2012_val_00000293_n01440764.JPEG."""
    first, *_, last = (place.stem.split("_")[0], place.stem.split("_")[-1])
    return next((text for text in (last, first) if SYNSET.fullmatch(text)), None)


def _annotated(val: Path, root: Path) -> list[tuple[str, Path]]:
    """Return (class, file) of TinyImageNet's validation images, by val_annotations.txt or class folders."""
    notes = val / "val_annotations.txt"
    if not notes.exists():
        return files_by_class("TinyImageNet", val, within=root)
    lines = [line.split("\t") for line in foreign_text(notes, inside=root).splitlines() if line.strip()]
    classes = {words[0]: words[1] for words in lines if len(words) > 1}
    files = images_below(val / "images") if (val / "images").is_dir() else []
    strangers = [file.name for file in files if file.name not in classes]
    if not files or strangers:
        raise ValueError(
            f"TinyImageNet: expected {notes} to name the class of every image in {val / 'images'}, "
            f"got none for {', '.join(strangers[:3]) or 'any'}"
        )
    return [(classes[file.name], file) for file in files]


def _archives_below(root: Path) -> list[Path]:
    return [file for file in files_below(root, root) if _is_archive(file)]


def _is_archive(file: Path | PurePosixPath) -> bool:
    return file.name.casefold().endswith(ARCHIVES)


def _stem(file: Path | PurePosixPath) -> str:
    """Return a path without its archive ending."""
    return re.sub(r"\.(tar\.gz|tgz|tar)$", "", str(file), flags=re.IGNORECASE)


def _first_of(name: str, folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of these folders that exists, ignoring case. Raises FileNotFoundError for none."""
    there = (
        {entry.name.casefold(): entry for entry in folder.iterdir() if entry.is_dir()}
        if folder.is_dir()
        else {}
    )
    found = next((there[wanted] for wanted in names if wanted in there), None)
    if found is None:
        others = f" (or {', '.join(names[1:])} there)" if names[1:] else ""
        raise FileNotFoundError(
            f"{name}: expected the folder {folder / names[0]}{others}, and there is none. "
            "Put the files there, or name their folder with --data"
        )
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
