"""Checks of a store's and an experiment's name, before anything is opened."""

from __future__ import annotations

import os
import re
import unicodedata
from importlib.metadata import entry_points

from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean
from lethe.tracking.shown_uri import one_line, without_password
from lethe.tracking.store_uri import (
    ALLOWED,
    DATABASE,
    DATABASES,
    DEFAULT_STORE,
    VARIABLE,
    folder_path,
    is_file_store,
    scheme_of,
    sqlite_file,
)

WORKSPACES = "MLFLOW_ENABLE_WORKSPACES"
OF_MLFLOW = ("databricks", "databricks-uc", "uc")  # other schemes
DATABASE_ENDINGS = (".db", ".sqlite", ".sqlite3")  # of files that may not be there yet
TRUE = ("true", "1")  # as MLflow reads a variable
LONGEST_NAME = 256  # characters of an experiment's name in MLflow's tables

# A driver's module -> its package, where the names differ.
PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "PyMySQL",
}


def check_name(experiment: str) -> None:
    """Raise ValueError for an experiment's name that a store can't hold."""
    if not experiment.strip():
        raise FlagError(
            "experiment", f"expected a name, got {experiment!r}. Write one, or leave out the flag"
        )
    if len(experiment) > LONGEST_NAME:
        raise FlagError(
            "experiment",
            f"expected at most {LONGEST_NAME} characters, got {len(experiment)}. Shorten the name",
        )
    odd = next((sign for sign in experiment if unicodedata.category(sign) in ("Cc", "Cs")), None)
    if odd is not None:
        raise FlagError(
            "experiment",
            f"expected a name in Unicode without control characters, got {odd!r} in "
            f"{experiment!r}. Leave it out",
        )


def check_sqlite(uri: str) -> None:
    """Raise ValueError for a sqlite URI without a file, and for MLflow's workspaces, which need a server."""
    sqlite_file(uri)
    if os.environ.get(WORKSPACES, "").lower() in TRUE:
        raise ValueError(
            f"{WORKSPACES} is set, and {uri} is a sqlite store, in which Lethe uses none. Unset "
            f"{WORKSPACES}, or name a server"
        )


def check_folder(uri: str) -> None:
    """Raise ValueError for an old file store, unless MLflow is set to allow it, and for what is no store."""
    if os.environ.get(ALLOWED, "").lower() in TRUE:
        return
    meant = _meant_by(uri)
    if meant is not None:
        # A password is known by what stands around it, which is wrong here.
        got = re.sub(r"^.*:.*@", "***@", uri)
        raise ValueError(f"expected a tracking store, got {got}, {meant}")
    raise ValueError(
        f"{uri} is an old file store, which MLflow refuses. Set {VARIABLE}={DEFAULT_STORE} to start a new "
        f"store beside it (before that, mlflow migrate-filestore --source {uri} --target {DEFAULT_STORE} "
        f"brings its runs along), or {ALLOWED}=true to go on with it"
    )


def _meant_by(uri: str) -> str | None:
    """Return what a URI without a known scheme is and what to write; None for an old file store."""
    address = re.match(r"(https?)[:/]+(?=[^/])", uri)
    if address is not None:
        return f"a server's address without ://. Write {VARIABLE}={address[1]}://{uri[address.end() :]}"
    if re.match(r"(\S+@)?[\w.-]+:\d+(/|$)", uri):
        return f"a server's address without its scheme. Write {VARIABLE}=http://{uri}"
    path = folder_path(uri)
    if path.is_file() or (path.suffix.lower() in DATABASE_ENDINGS and not path.is_dir()):
        return f"which is a file. Write a sqlite store as {VARIABLE}=sqlite:///{path}"
    if not is_file_store(path):
        return f"a folder, where MLflow writes no runs any more. Write {VARIABLE}=sqlite:///{path / DATABASE}"
    return None


def check_scheme(uri: str) -> None:
    """Raise ValueError for a scheme that neither MLflow nor a plug-in of it knows."""
    schemes = {"http", "https", *DATABASES, *OF_MLFLOW}
    schemes |= {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    scheme = scheme_of(uri)
    if scheme not in schemes:
        place = without_password(uri)
        known = did_you_mean("scheme", scheme, schemes)
        raise ValueError(f"expected a tracking store, got {place}: {known}. Correct or unset {VARIABLE}")


def check_driver(uri: str) -> None:
    """Raise ValueError if SQLAlchemy can't make an engine of a database's URI. Does not connect.

    Raises it for a scheme that nobody knows, too.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    if scheme_of(uri) not in DATABASES:
        check_scheme(uri)
        return  # a store of MLflow's own or of a plug-in
    try:
        create_engine(uri).dispose()
    except ImportError as error:
        raise missing_driver_error(uri, error) from error
    except (SQLAlchemyError, ValueError) as error:
        raise ValueError(
            f"expected the URI of a database, got {without_password(uri)} ({one_line(error)}). Write "
            f"{VARIABLE} as postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE, with %XX for signs such as @ "
            "in a password"
        ) from error


def missing_driver_error(uri: str, error: ImportError) -> ValueError:
    """Return the error for a database whose Python driver is not installed."""
    module = error.name or "the driver"
    package = PACKAGES.get(module, module)
    return ValueError(
        f"expected the driver of {without_password(uri)} to be installed, got {error}. Install it: pip "
        f"install '{package}'"
    )
