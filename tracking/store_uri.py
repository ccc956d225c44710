"""Choose the tracking store: one rule for writers, readers and MLflow."""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from tracking.shown_uri import without_password

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE, FOLDER = "mlflow.db", "mlruns"
DEFAULT_STORE = f"sqlite:///{DATABASE}"
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"
SQLITE, FILE = "sqlite", "file"  # schemes
DATABASES = (SQLITE, "postgresql", "mysql", "mssql")  # schemes that MLflow gives to SQLAlchemy
WITHOUT_SLASHES = (SQLITE, "databricks", "databricks-uc", "uc")  # schemes that need no :// after them
SPECIAL = frozenset("%?")  # in a sqlite URI they begin what is decoded, and the options


class Choice(NamedTuple):
    """A store as it is named, and why it is that one."""

    uri: str
    reason: str


def chosen_store(given: str | None = None) -> Choice | None:
    """Return the named store, else the one in this folder (a database before an old file store), else None.

    Raises ValueError for an empty name.
    """
    if given is not None:
        if not given.strip():
            raise ValueError(
                f"expected a store as --tracking_uri, got nothing. Write e.g. --tracking_uri {DEFAULT_STORE}"
            )
        return Choice(given.strip(), "--tracking_uri")
    if variable := os.environ.get(VARIABLE, "").strip():
        return Choice(variable, f"the environment's {VARIABLE}")
    old_store = is_file_store(Path(FOLDER))
    if Path(DATABASE).exists():
        also = f"; the old file store beside it is read with --tracking_uri ./{FOLDER}" if old_store else ""
        return Choice(DEFAULT_STORE, f"no {VARIABLE} is set and ./{DATABASE} exists{also}")
    if old_store:
        return Choice(f"./{FOLDER}", f"an old file store; no {VARIABLE} is set and there is no ./{DATABASE}")
    return None


def tracking_uri() -> str:
    """The store that runs are written to, as it is named; ./mlflow.db where none is."""
    choice = chosen_store()
    return DEFAULT_STORE if choice is None else choice.uri


def shown_uri() -> str:
    """The same for people to read: without a password."""
    return without_password(tracking_uri())


def other_store() -> str:
    """Return advice for a store that can't be used."""
    if os.environ.get(VARIABLE, "").strip():
        return f"Correct or unset {VARIABLE}"
    return f"Move ./{DATABASE} away to begin a new one, or name another store in {VARIABLE}"


def ui_command() -> str:
    """Return the server's address, or the command that shows the runs in a browser.

    `mlflow ui` alone looks for ./mlruns first, then for ./mlflow.db, and not at MLFLOW_TRACKING_URI.
    """
    uri = tracking_uri()
    if is_server(uri):
        return without_password(uri)
    if os.environ.get(VARIABLE, "").strip():
        return f'mlflow ui --backend-store-uri "${VARIABLE}"'
    beside_old_store = uri == DEFAULT_STORE and is_file_store(Path(FOLDER))
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if beside_old_store else "mlflow ui"


def scheme_of(uri: str) -> str:
    """Return the kind of store that a URI names: sqlite, postgresql, http, ..., without a driver; file for a path."""
    start, _, rest = uri.partition(":")
    scheme = start.partition("+")[0]
    return scheme if rest.startswith("//") or scheme in WITHOUT_SLASHES else FILE


def is_server(uri: str) -> bool:
    return scheme_of(uri) in ("http", "https")


def folder_path(uri: str) -> Path:
    """Return the folder of a `file:` URI or of a path."""
    return Path(url2pathname(urlparse(uri).path)) if uri.startswith("file:") else Path(uri)


def is_file_store(folder: Path) -> bool:
    """Return whether a folder has runs or experiments.

    MLflow 3 makes an `mlruns` for artifacts alone, which has no meta.yaml.
    """
    return any(folder.glob("*/meta.yaml")) or any(folder.glob("*/*/meta.yaml"))


def database_of(uri: str) -> Path | None:
    """Return the file of a sqlite store; None for a store of another kind. Raises as `sqlite_file`."""
    return sqlite_file(uri) if scheme_of(uri) == SQLITE else None


def sqlite_file(uri: str) -> Path:
    """The whole path of a sqlite store's file, as SQLAlchemy reads it.

    Three slashes are relative, four absolute, options come after `?`, and from SQLAlchemy 2.1 on %41 is A.
    Raises ValueError for a URI without a file: what is in memory is gone with the process.
    """
    _, slashes, rest = uri.partition(":///")
    literal = rest.partition("?")[0]
    name = unquote(literal) if _decodes() else literal
    if not slashes or name in ("", ":memory:") or name.startswith("file:"):
        raise ValueError(
            f"expected a sqlite store with a file, got {uri!r}, which names none: its runs would be gone "
            "with the process. "
            f"Write {DEFAULT_STORE}, or with the whole path sqlite:////path/to/{DATABASE}, and look for an "
            "empty variable in it"
        )
    file = Path(name).resolve()
    if name != literal and Path(literal).parent.is_dir() and not file.parent.is_dir():
        raise ValueError(
            f"{uri} names {file}, whose folder is not there: % and two digits stand for a sign in a sqlite "
            "URI. "
            f"Write % itself as %25: sqlite:///{_quoted(literal)}"
        )
    return file


def mlflow_uri(uri: str) -> str:
    """The same store for MLflow: with its whole path, so that it is the same in whatever folder the process
    is later.
    """
    file = database_of(uri)
    if file is not None:
        scheme, _, rest = uri.partition(":///")
        _, question, options = rest.partition("?")
        return f"{scheme}:///{_name_in_uri(file)}{question}{options}"
    return folder_path(uri).absolute().as_uri() if scheme_of(uri) == FILE else uri


def sqlite_uri(file: Path) -> str:
    """The URI of a sqlite file."""
    return f"sqlite:///{_name_in_uri(file)}"


def _name_in_uri(file: Path) -> str:
    """A database's path as SQLAlchemy of any version and MLflow read it.

    MLflow makes the folder that the name seems to be in before SQLAlchemy decodes it. A path with a % or a ?
    is therefore named relative to the current folder, where that leaves these signs out.
    """
    whole, here = str(file), os.path.relpath(file)
    if SPECIAL.isdisjoint(whole):
        return whole
    if SPECIAL.isdisjoint(here):
        _check_same_folder(here, file)
        return here
    if _decodes():
        return _quoted(whole)
    if "?" in whole:
        raise ValueError(
            f"expected a database's path without '?', got {whole}. Install SQLAlchemy 2.1 or newer, or "
            "rename the folder"
        )
    return whole


_named_relative: dict[
    str, Path
] = {}  # what this process has given to MLflow, which keeps a database open by its URI


def _check_same_folder(name: str, file: Path) -> None:
    known = _named_relative.setdefault(name, file)
    if known != file:
        raise ValueError(
            f"this process has {known} open, and can't open {file} too, whose path has a % or a ?. Begin a "
            "new process there"
        )


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F")


@cache
def _decodes() -> bool:
    """Whether the SQLAlchemy that is installed decodes %41 in a database's name. Asked without importing it,
    which takes longer.
    """
    major, minor = re.match(r"(\d+)\.(\d+)", version("sqlalchemy")).groups()  # type: ignore[union-attr]  # every release has both
    return (int(major), int(minor)) >= (2, 1)
