"""A cache on disk for tensors that are expensive to compute."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

from torch import Tensor

from lethe.training.file_lock import locked
from lethe.training.storage import read_tensors, write_tensors

Tensors = dict[str, Tensor]
Cache = MutableMapping[str, Tensors]


def computed_once(cache: Cache, key: str, compute: Callable[[], Tensors]) -> tuple[Tensors, bool]:
    """Return the tensors of this key and whether they were cached; if not, compute and cache them.

    Processes that want the same key of a `DiskCache` wait for the one that computes it. If that process dies,
    the next one computes.
    """
    with (
        cache.alone_with(key)
        if isinstance(cache, DiskCache) and key not in cache
        else contextlib.nullcontext()
    ):
        kept = cache.get(key)
        if kept is not None:
            return kept, True
        cache[key] = made = compute()
        return made, False


class DiskCache(Cache):
    """`cache[key] = {name: tensor}`; one safetensors file per key under `folder`, named by the key's hash.

    A key has to name everything that its value depends on. A damaged file counts as absent. A failed write is
    a warning.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def alone_with(self, key: str) -> contextlib.AbstractContextManager[object]:
        """Lock a key against other processes. Raises ValueError if the lock file can't be made."""
        return locked(self._path(key))

    def __getitem__(self, key: str) -> Tensors:
        try:
            tensors, header = read_tensors(self._path(key))
        except (FileNotFoundError, ValueError):
            raise KeyError(key) from None
        if header.get("key") != key:
            raise KeyError(key)
        return tensors

    def __setitem__(self, key: str, value: Tensors) -> None:
        try:
            write_tensors(self._path(key), value, {"key": key})
        except ValueError as error:  # the result is still of use if the disk is full
            warnings.warn(f"a result could not be cached and will be computed again: {error}", stacklevel=2)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        for file in sorted(self.folder.glob("*.safetensors")):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                yield read_tensors(file)[1]["key"]

    def __len__(self) -> int:
        return sum(1 for _ in self)
