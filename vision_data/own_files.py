"""Where runs put what they make of a dataset: beside its files, or where those can only be read, in ./data."""

from __future__ import annotations

import errno
import tempfile
import warnings
from pathlib import Path

INSTEAD = Path("data")
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def own_files(dataset: str, folder: Path, called: str) -> Path:
    """<folder>/<called>, made if need be; ./data/<called>, with a warning, where files can't be made there for want of permission."""
    place = folder / called
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError as error:
        instead = INSTEAD / called
        if error.errno not in READ_ONLY or instead.resolve() == place.resolve():
            raise ValueError(
                f"{dataset}: {place} can't be written or read ({error}). Make room, or name another folder with --data"
            ) from error
        warnings.warn(f"{place} can't be written ({error.strerror}): {instead} takes its place", stacklevel=2)
    return own_files(dataset, INSTEAD, called)
