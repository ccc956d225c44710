"""The folder of an experiment's artifacts: beside a sqlite store, and checked before a run begins."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

LONGEST_FOLDER = 120  # bytes of a folder's name, which encrypted file systems hold too


def new_place(file: Path | None, experiment: str) -> str | None:
    """Return the URI of a new experiment's artifacts, beside a sqlite file; None for other stores."""
    return None if file is None else (file.parent / "mlruns" / folder_name(experiment)).as_uri()


def folder_name(experiment: str) -> str:
    """Return a portable folder name below mlruns/, with a digest if the experiment's name is too long."""
    name = re.sub(r"[^\w.+-]", "_", experiment)
    if name.strip(".") and len(name.encode()) <= LONGEST_FOLDER:
        return name
    digest = hashlib.sha256(experiment.encode()).hexdigest()[:16]
    start = name.strip(".").encode()[: LONGEST_FOLDER - len(digest) - 1].decode(errors="ignore")
    return f"{start}_{digest}"


def check_place(location: str, file: Path | None, experiment: str) -> None:
    """Raise ValueError if an experiment's artifacts can't be written. file: of a sqlite store.

    The store of a moved or copied project still names the old folder; the one beside the store is right.
    """
    place = artifact_folder(location, None)
    if place is None:
        return
    remedy = (
        "Choose another --experiment, whose artifacts are kept beside the store. docs/stores.md says how to "
        "mend this one"
    )
    if file is not None:
        beside = file.parent / "mlruns" / place.name
        if beside.is_dir() and not (place.is_dir() and place.samefile(beside)):
            raise ValueError(
                f"experiment {experiment!r} keeps its artifacts in {place}, and beside the store there is "
                f"{beside}: was the project moved or copied? {remedy}"
            )
    there = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"experiment {experiment!r} keeps its artifacts in {place}, which can't be written. {remedy}"
        )


def artifact_folder(uri: str, root: Path | None) -> Path | None:
    """Return the folder of a run's artifacts; None if they are not on this machine.

    uri: MLflow's, with the absolute path `.../<experiment>/<run id>/artifacts`. root: the folder that has the
    folders of the experiments now, if they were moved.
    """
    parsed = urlparse(uri)
    if not uri or parsed.scheme not in ("", "file"):
        return None if root is None or not uri else root.joinpath(*parsed.path.split("/")[-3:])
    path = Path(unquote(parsed.path)) if parsed.scheme else Path(uri)
    return path if root is None else root.joinpath(*path.parts[-3:])
