"""Params beyond MLflow's limit, which the store cuts: the artifact params/<name>.txt has all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lethe.system.foreign_files import foreign_text
from lethe.tracking.artifact_place import artifact_folder
from lethe.tracking.run import LONGEST_PARAM
from lethe.tracking.stored_run import StoredRun

Read = Callable[[StoredRun, str], str | None]  # returns the text of a run's artifact, or None


def with_whole_params(run: StoredRun, read: Read) -> tuple[StoredRun, list[str]]:
    """Return the run with whole long params, and the names of params that may be cut.

    A param of exactly LONGEST_PARAM characters may be cut; an artifact that begins with it is its whole text.
    """
    suspects = [name for name, value in run.params.items() if len(value) == LONGEST_PARAM]
    if not suspects:
        return run, []
    found = {name: read(run, f"params/{name}.txt") for name in suspects}
    whole = {
        name: text for name, text in found.items() if text is not None and text.startswith(run.params[name])
    }
    return replace(run, params=run.params | whole), sorted(found.keys() - whole.keys())


def local_artifact(root: Path | None) -> Read:
    """Return a reader of artifacts on this machine: below `root`, else at the run's artifact URI."""

    def read(run: StoredRun, name: str) -> str | None:
        folder = artifact_folder(run.artifact_uri, root)
        if folder is None:
            return None
        try:
            return foreign_text(folder / name, inside=root or folder)
        except (OSError, ValueError):
            return None

    return read
