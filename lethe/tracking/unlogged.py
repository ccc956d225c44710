"""Keep entries that a store did not take in a folder, so that nothing is lost with the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lethe.system.temporary_files import replaced
from lethe.tracking.entries import Artifact, Batch, Entry
from lethe.tracking.patience import StoreTrouble

FOLDER = Path("eval/unlogged")


class Unlogged:
    """Entries of one run that only the disk has: `entries.json`, and the artifacts' files in `artifacts`."""

    def __init__(self, run_id: str, name: str) -> None:
        self.folder = (FOLDER / run_id).absolute()  # the process may change its folder
        self.about = {"run_id": run_id, "run_name": name}
        self.entries: list[Entry] = []
        self.trouble: StoreTrouble | None = None
        self.disk_error: OSError | None = None  # why not all entries are in the folder
        self.lost: list[str] = []  # artifacts that neither the store nor the disk took

    def keep(self, entry: Entry) -> None:
        """Keep an entry in the folder; if the disk is full, in memory, and lose an artifact's file."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Artifact):
                entry = replace(entry, path=self._copied(entry))
        except OSError as error:
            self.disk_error = error
            if isinstance(entry, Artifact):
                self.lost.append(entry.path.name)
                return
        self.entries.append(entry)
        self._write()

    def loss(self) -> str:
        """Return the end of a sentence: what the disk did not take, and why; empty if it took all."""
        if self.disk_error is None:
            return ""
        lost = f": lost are {', '.join(self.lost)}" if self.lost else ""
        return f", but not all of it ({self.disk_error.strerror}){lost}"

    def _copied(self, entry: Artifact) -> Path:
        place = self.folder / "artifacts" / entry.folder
        place.mkdir(parents=True, exist_ok=True)
        with replaced(place / entry.path.name) as partial:
            shutil.copy(entry.path, partial)
        return place / entry.path.name

    def send(self, write: Callable[[Entry], None]) -> None:
        """Write the entries into the store. Keeps refused ones, and the rest if the store is away."""
        waiting, self.entries, self.trouble = self.entries, [], None
        for entry in waiting:
            try:
                if self.trouble is None or self.trouble.refused:
                    write(entry)
                else:
                    self.entries.append(entry)
            except StoreTrouble as trouble:
                self.trouble = trouble
                self.entries.append(entry)
        if self.lost and self.trouble is None:  # the store is back, but these files are lost
            self.trouble = StoreTrouble("wrong", f"no room for {', '.join(self.lost)}")
        if self.entries:
            self._write()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self) -> None:
        listed = [{"kind": type(entry).__name__, **_as_json(entry)} for entry in self.entries]
        text = json.dumps({**self.about, "entries": listed}, indent=1)
        try:
            with replaced(self.folder / "entries.json") as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:  # the run has to end all the same
            self.disk_error = error


def _as_json(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Artifact):
        return {"path": str(entry.path), "folder": entry.folder}
    if isinstance(entry, Batch):
        points = [point._asdict() for point in entry.points]
        return {"params": dict(entry.params), "tags": dict(entry.tags), "points": points}
    return asdict(entry)
