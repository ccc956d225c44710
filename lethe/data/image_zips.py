"""Images in zip files: a file per part, in it a folder per class."""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path, PurePosixPath

from lethe.data.encoded_image import SUFFIXES, EncodedImage
from lethe.data.image_folders import key_of
from lethe.data.scanned import Published
from lethe.system.foreign_files import IMAGE, MB, check_size, open_foreign
from lethe.system.system_files import is_system_file

LARGEST_ARCHIVE = 1_000_000 * MB
ENCRYPTED = 1  # bit of a member's flags


def published_zips(name: str, files: dict[str, Path]) -> Published:
    """Return the images of train.zip and test.zip, sorted by class and name."""

    def opening(file: Path) -> Callable[[], Iterable[EncodedImage]]:
        return lambda: _images_in(name, file)

    key = key_of(
        next(iter(files.values())).parent,
        {part: [(file, PurePosixPath(part))] for part, file in files.items()},
    )
    return Published(name, key, {part: opening(file) for part, file in files.items()})


def _is_image(member: zipfile.ZipInfo) -> bool:
    hidden = any(map(is_system_file, PurePosixPath(member.filename).parts))
    return member.filename.casefold().endswith(SUFFIXES) and not hidden


def _images_in(name: str, file: Path) -> Iterator[EncodedImage]:
    unpacked = file.with_suffix("")
    try:
        with open_foreign(file, most=LARGEST_ARCHIVE) as packed, zipfile.ZipFile(packed) as opened:
            members = sorted(filter(_is_image, opened.infolist()), key=attrgetter("filename"))
            folders = {PurePosixPath(member.filename).parent.name for member in members}
            around = folders == {file.stem}  # train/1.png in train.zip
            for member in members:
                shown, label = f"{file}:{member.filename}", PurePosixPath(member.filename).parent.name
                if around or not label:
                    raise ValueError(
                        f"{name}: expected a folder per class in {file}, got {member.filename} outside of "
                        "any. Pack the folders of the classes"
                    )
                if member.flag_bits & ENCRYPTED:
                    raise ValueError(
                        f"{name}: expected a zip file without a password, got one with it: {file}. Unpack it "
                        f"into {unpacked}"
                    )
                check_size(shown, member.file_size, IMAGE)
                content = opened.read(member)  # by its entry, as several members may have one name
                yield EncodedImage(shown, label, functools.partial(bytes, content), len(content))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(
            f"{name}: expected a whole zip file, got a damaged one: {file} ({error}). Download it again"
        ) from error
    except NotImplementedError as error:
        raise ValueError(
            f"{name}: expected a zip file that Python reads, got {file} ({error}). Unpack it into {unpacked}"
        ) from error
