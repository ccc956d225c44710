"""The registry of readers: the scheme of a store's URI -> a context manager of a `Store`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lethe.registry import Entry, Registry
from lethe.tracking.selection import Selection
from lethe.tracking.shown_uri import without_password
from lethe.tracking.sql_store import UnknownSchema
from lethe.tracking.store_uri import scheme_of
from lethe.tracking.stored_run import BrokenRun, Point, StoredRun

ANY_STORE = "mlflow"  # reads every store that MLflow can open


@runtime_checkable
class Store(Protocol):
    """An open store, which gives its runs and their histories."""

    def runs(self) -> tuple[int | None, Iterator[StoredRun | BrokenRun]]:
        """Return the number of candidates, if known, and the selected runs. Unreadable ones are broken."""
        ...

    def points(self, runs: Sequence[StoredRun]) -> Iterator[Point | BrokenRun]:
        """Yield all values of all metrics of these runs, sorted by run (as given), metric, step, time."""
        ...


@dataclass(frozen=True)
class ReaderFacts:
    """What a reader declares: the schemes of the URIs that it reads. `file` is the scheme of a path."""

    schemes: tuple[str, ...] = ()


READERS = Registry("reader", ReaderFacts, takes=("uri", "selection"), plugins="lethe.readers")
"""The readers of tracking stores by name, or path/to/file.py:function."""
register = READERS.register
"""Decorator: register a reader of tracking stores, a context manager of a URI and a selection of runs.

    @lethe.register_reader("mine", schemes=("mine",))
    @contextmanager
    def mine(uri: str, selection: Selection) -> Iterator[Store]: ...

schemes: of the URIs that it reads. Raises ValueError for a name that is registered already.
"""


@contextmanager
def open_store(
    uri: str, selection: Selection, notice: Callable[[str], None], reader: str | None = None
) -> Iterator[Store]:
    """Open a store with the named reader; by default, with the reader of the URI's scheme.

    Readers of files and databases are 5 to 8 times as fast as MLflow, and don't import it. MLflow's client
    reads tables of an unknown schema too; `notice` gets a message then.
    Raises ValueError or OSError if the store can't be opened or read.
    """
    entry = READERS[reader] if reader is not None else reader_of(uri)
    with ExitStack() as stack:
        try:
            store = stack.enter_context(opened(entry, uri, selection))
        except UnknownSchema as error:
            notice(f"{error}: reading through MLflow's own client, which is slower")
            store = stack.enter_context(opened(READERS[ANY_STORE], uri, selection))
        if not isinstance(store, Store):
            raise ValueError(
                f"--reader {reader}: expected a store with the methods runs and points, got "
                f"{type(store).__name__}. Yield one"
            )
        yield store


def reader_of(uri: str) -> Entry[ReaderFacts]:
    """Return the reader of a URI's scheme; for other schemes, the one that uses MLflow's client."""
    scheme = scheme_of(uri)
    return next((entry for entry in READERS if scheme in entry.facts.schemes), READERS[ANY_STORE])


def opened(entry: Entry[ReaderFacts], uri: str, selection: Selection) -> AbstractContextManager[object]:
    """Call a reader. Raises ValueError for another scheme, and if a user's function is no context manager."""
    schemes = entry.facts.schemes
    if schemes and scheme_of(uri) not in schemes:
        raise ValueError(
            f"--reader {entry.name}: expected a URI with the scheme {' or '.join(schemes)}, got "
            f"{without_password(uri)}. Leave out --reader, or name another"
        )
    store = entry(uri, selection)
    if not isinstance(store, AbstractContextManager):
        raise ValueError(
            f"--reader {entry.name}: expected a context manager, got {type(store).__name__}. Decorate "
            f"{entry.name} with contextlib.contextmanager and yield the store"
        )
    return store
