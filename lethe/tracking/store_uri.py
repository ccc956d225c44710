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

from lethe.tracking.shown_uri import without_password

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE, FOLDER = "mlflow.db", "mlruns"
DEFAULT_STORE = f"sqlite:///{DATABASE}"
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"
SQLITE, FILE = "sqlite", "file"  # schemes
DATABASES = (SQLITE, "postgresql", "mysql", "mssql")  # schemes that MLflow gives to SQLAlchemy
WITHOUT_SLASHES = (SQLITE, "databricks", "databricks-uc", "uc")  # schemes that need no :// after them


class Choice(NamedTuple):
    """A store's URI, and the reason for the choice."""

    uri: str
    reason: str


def chosen_store(given: str | None = None) -> Choice | None:
    """Return the named store, else the database in this folder, else the old file store in it, else None.

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
    """Return the URI of the store that runs are written to, by default ./mlflow.db."""
    choice = chosen_store()
    return DEFAULT_STORE if choice is None else choice.uri


def shown_uri() -> str:
    """Return the URI of the store that runs are written to, without a password."""
    return without_password(tracking_uri())


def other_store() -> str:
    """Return advice for a store that can't be used."""
    if os.environ.get(VARIABLE, "").strip():
        return f"Correct or unset {VARIABLE}"
    return f"Move ./{DATABASE} away to begin a new one, or name another store in {VARIABLE}"


def ui_command() -> str:
    """Return the server's address, or the command that shows the runs in a browser.

    `mlflow ui` alone shows ./mlruns, else ./mlflow.db; it ignores MLFLOW_TRACKING_URI.
    """
    uri = tracking_uri()
    if is_server(uri):
        return without_password(uri)
    if os.environ.get(VARIABLE, "").strip():
        return f'mlflow ui --backend-store-uri "${VARIABLE}"'
    beside_old_store = uri == DEFAULT_STORE and is_file_store(Path(FOLDER))
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if beside_old_store else "mlflow ui"


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI without its driver: sqlite, postgresql, http, ...; file for a path."""
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
    """Return the absolute path of a sqlite store's file, as SQLAlchemy reads the URI.

    Three slashes begin a relative path, four an absolute one; options come after `?`; from SQLAlchemy 2.1 on
    %41 is A. Raises ValueError for a URI without a file: a store in memory is gone with the process.
    """
    _, slashes, rest = uri.partition(":///")
    literal = rest.partition("?")[0]
    name = unquote(literal) if _decodes() else literal
    if not slashes or name in ("", ":memory:") or name.startswith("file:"):
        raise ValueError(
            f"expected a sqlite store with a file, got {uri!r}, which names none: its runs would be gone "
            f"with the process. Write {DEFAULT_STORE}, or with the whole path sqlite:////path/to/{DATABASE}, "
            "and look for an empty variable in it"
        )
    if name.startswith("~/") or re.match(r"\$[A-Za-z_{]", name):
        raise ValueError(
            f"expected a sqlite store's path, got {uri!r}, in which no shell has replaced the ~ or the "
            "variable. Write the path itself, or leave the quotes out: sqlite:///$HOME/mlflow.db"
        )
    file = Path(name).resolve()
    if name != literal and Path(literal).parent.is_dir() and not file.parent.is_dir():
        raise ValueError(
            f"{uri} names {file}, whose folder is not there: % and two digits are an encoded sign in a "
            f"sqlite URI. Write % itself as %25: sqlite:///{_quoted(literal)}"
        )
    return file


def mlflow_uri(uri: str) -> str:
    """Return the URI for MLflow: with an absolute path, as the process may change its folder."""
    file = database_of(uri)
    if file is not None:
        scheme, _, rest = uri.partition(":///")
        _, question, options = rest.partition("?")
        return f"{sqlite_uri(file, scheme)}{question}{options}"
    return folder_path(uri).absolute().as_uri() if scheme_of(uri) == FILE else uri


def sqlite_uri(file: Path, scheme: str = SQLITE) -> str:
    """Return the URI of a sqlite file, as SQLAlchemy of any version and MLflow read it."""
    path = str(file)
    if "%" not in path and "?" not in path:
        return f"{scheme}:///{path}"
    if _decodes():
        # Of a URI that begins with sqlite:///, MLflow would create the folder of the encoded path.
        return f"sqlite+pysqlite:///{_quoted(path)}"
    if "?" in path:
        raise ValueError(
            f"expected a database's path without '?', got {path}. Install SQLAlchemy 2.1 or newer, or rename "
            "the folder"
        )
    return f"{scheme}:///{path}"


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F")


@cache
def _decodes() -> bool:
    """Return whether the installed SQLAlchemy decodes %41 in a database's name. Doesn't import it."""
    major, minor = version("sqlalchemy").split(".")[:2]
    return (int(major), int(re.sub(r"\D.*", "", minor))) >= (2, 1)
