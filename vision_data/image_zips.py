"""Images in zip files, one per part: a class per folder in each."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from vision_data.encoded_image import SUFFIXES, EncodedImage
from vision_data.image_folders import key_of
from vision_data.scanned import Published


def published_zips(name: str, files: dict[str, Path]) -> Published:
    """The images of train.zip and test.zip, sorted by class and name."""

    def opening(file: Path) -> Callable[[], Iterable[EncodedImage]]:
        return lambda: _images_in(name, file)

    key = key_of(next(iter(files.values())).parent, {part: [(file, PurePosixPath(part))] for part, file in files.items()})
    return Published(name, key, {part: opening(file) for part, file in files.items()})


def _images_in(name: str, file: Path) -> Iterator[EncodedImage]:
    try:
        with zipfile.ZipFile(file) as opened:
            members = sorted(member for member in opened.namelist() if member.casefold().endswith(SUFFIXES) and "__MACOSX" not in member)
            for member in members:
                label = PurePosixPath(member).parent.name
                if not label:
                    raise ValueError(f"{name}: expected a folder per class in {file}, got {member} outside of any. Pack the folders")
                yield EncodedImage(f"{file}:{member}", label, functools.partial(bytes, opened.read(member)))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{name}: expected a whole zip file, got a damaged one: {file} ({error}). Download it again") from error
