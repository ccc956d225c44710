"""Checks of a store's and an experiment's name, before anything is opened."""

from __future__ import annotations

import os
import re
import unicodedata

from lethe.flag_error import FlagError
from lethe.tracking.shown_uri import one_line, without_password
from lethe.tracking.store_uri import (
    ALLOWED,
    DATABASES,
    DEFAULT_STORE,
    VARIABLE,
    folder_path,
    scheme_of,
    sqlite_file,
)

WORKSPACES = "MLFLOW_ENABLE_WORKSPACES"
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
    """Raise ValueError for an old file store, unless MLflow is set to allow it."""
    if os.environ.get(ALLOWED, "").lower() in TRUE:
        return
    if folder_path(uri).is_file():
        raise ValueError(
            f"expected a tracking store, got {uri}, which is a file. Write a sqlite store as "
            f"{VARIABLE}=sqlite:///{uri}"
        )
    if re.match(r"[\w.-]+:\d+(/|$)", uri):
        raise ValueError(f"expected a tracking store, got {uri}. Write a server as {VARIABLE}=http://{uri}")
    raise ValueError(
        f"{uri} is an old file store, which MLflow refuses. Set {VARIABLE}={DEFAULT_STORE} to start a new "
        f"store beside it (before that, mlflow migrate-filestore --source {uri} --target {DEFAULT_STORE} "
        f"brings its runs along), or {ALLOWED}=true to go on with it"
    )


def check_driver(uri: str) -> None:
    """Raise ValueError if SQLAlchemy can't make an engine of a database's URI. Does not connect."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    if scheme_of(uri) not in DATABASES:
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
