"""The folder for files derived from a dataset: beside its files, or ./data if those are read-only."""

from __future__ import annotations

import errno
import tempfile
import warnings
from pathlib import Path

INSTEAD = Path("data")
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def own_files(dataset: str, folder: Path, called: str) -> Path:
    """Make and return <folder>/<called>; ./data/<called>, with a warning, if the folder is read-only."""
    place = folder / called
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError as error:
        instead = INSTEAD / called
        if error.errno not in READ_ONLY or instead.resolve() == place.resolve():
            raise ValueError(
                f"{dataset}: {place} can't be written or read ({error}). Make room, or name another folder "
                "with --data"
            ) from error
        warnings.warn(f"{place} can't be written ({error.strerror}): {instead} is used instead", stacklevel=2)
    return own_files(dataset, INSTEAD, called)
