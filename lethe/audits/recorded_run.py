"""A run to verify: its params, artifacts and the code that it names, which others may have edited."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lethe.data import DATASETS
from lethe.experiment.artifacts import CODE
from lethe.system.foreign_files import LIST, leads_out, read_foreign
from lethe.tracking.manifest import MANIFEST, SIGNATURE
from lethe.tracking.record import Record
from lethe.tracking.run import LONGEST_PARAM
from lethe.training import shortened


class RecordedRun:
    """Reads a run's params and artifacts, and notes which were read, to list the others as unchecked.

    Runs the code that the run names only with `trust_code`, and then only the copy among the artifacts whose
    digest is the recorded one.
    """

    def __init__(self, record: Record, *, trust_code: bool = False) -> None:
        self.record, self.trust_code = record, trust_code
        self.params_seen: set[str] = set()
        self.tags_seen: set[str] = set()
        self.artifacts_seen: set[str] = set()

    def recorded(self, name: str) -> str | None:
        """Return a param as `param` does; None if the run has none, which is not the same as an empty one."""
        self.params_seen.add(name)
        return self.param(name) if name in self.record.params else None

    def param(self, name: str, otherwise: str | None = None) -> str:
        """Return a param, whole where MLflow has cut it; if the run has none, `otherwise`.

        Raises ValueError if the run has none and `otherwise` is None.
        """
        self.params_seen.add(name)
        text = self.record.params.get(name, otherwise)
        if text is None:
            raise ValueError(f"{self._expected(f'its param {name}')}, and there is none. Verify another run")
        whole_text = f"params/{name}.txt"
        if len(text) == LONGEST_PARAM and self.has(whole_text):
            whole = self.content(whole_text).decode(errors="replace")
            text = whole if whole.startswith(text) else text
        return text

    def whole_number(self, name: str) -> int:
        """Return a param that is an integer. Raises ValueError for any other."""
        text = self.param(name)
        if not re.fullmatch(r"-?\d{1,19}", text):
            expected = self._expected(f"an integer as its param {name}")
            raise ValueError(f"{expected}, got {text[:40]!r}. Verify another run")
        return int(text)

    def has(self, name: str) -> bool:
        return (self.record.folder / name).is_file()

    def artifact(self, name: str) -> Path:
        """Return the path of an artifact.

        Raises FileNotFoundError if there is none, and ValueError for a link out of the run's folder.
        """
        folder = self.record.folder
        path = folder / name
        if not path.is_file():
            expected = self._expected(f"its artifact {name}")
            raise FileNotFoundError(f"{expected}, and there is none in {folder}. Restore it")
        # Whatever LETHE_FOLLOW_LINKS is: only the run's own files are verified.
        if leads_out(path, folder):
            raise ValueError(
                f"{path}: expected an artifact inside the run's folder, got a link to {path.resolve()}. Copy "
                "the file there"
            )
        self.artifacts_seen.add(name)
        return path

    def content(self, name: str) -> bytes:
        """Return an artifact's bytes. Raises as `artifact`, and ValueError for a file over 1 GB."""
        return read_foreign(self.artifact(name), most=LIST)

    def dataset(self) -> str:
        """Return the dataset as --dataset takes it; for a user's file, its copy among the artifacts."""
        file, name = self.param("dataset_file", "None"), self.param("dataset")
        asked = name if file == "None" else file
        if file.endswith(".py") or DATASETS.runs_code(asked):
            return self.code("dataset", name.rpartition(":")[2], self.param("dataset_code", ""))
        return asked

    def code(self, kind: str, function: str, digest: str) -> str:
        """Return path/to/file.py:function of the copy of a user's file among the artifacts.

        digest: recorded by the run; "" if there is none. Raises ValueError for code that must not be run.
        """
        code = f"run {self.record.run_id}: its {kind} {function!r} is a user's own code"
        if not digest:
            raise ValueError(f"{code} without a recorded digest, so the file is unknown. Verify another run")
        copy = self._copy(digest)
        if copy is None:
            raise ValueError(
                f"{code} with the digest {digest}, and no file among its artifacts in {CODE}/ has this "
                "digest. Restore the file"
            )
        if not self.trust_code:
            raise ValueError(
                f"{code} ({copy}), which does not run by default. Read it, and if you trust it, verify with "
                "--trust_code"
            )
        return f"{copy}:{function}"

    def _copy(self, digest: str) -> Path | None:
        """Return the file in code/ with the digest; earlier runs record only eight letters of it."""
        for path in sorted((self.record.folder / CODE).glob("*.py")):
            found = hashlib.sha256(self.content(f"{CODE}/{path.name}")).hexdigest()
            if digest in (found, shortened(f"-{found}")[1:]):
                return path
        return None

    def artifacts(self) -> list[str]:
        """Return the names of all artifacts but the manifest and its signature, with their folders."""
        folder = self.record.folder
        files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        names = {path.relative_to(folder).as_posix() for path in files}
        return sorted(names - {MANIFEST, SIGNATURE})

    def unseen(self) -> dict[str, list[str]]:
        """Return the artifacts, params and tags that were not read."""
        return {
            "artifacts": [name for name in self.artifacts() if name not in self.artifacts_seen],
            "params": sorted(self.record.params.keys() - self.params_seen),
            "tags": sorted(self.record.tags.keys() - self.tags_seen),
        }

    def _expected(self, what: str) -> str:
        return f"run {self.record.run_id}: expected {what}"
