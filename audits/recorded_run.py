"""A run as its store has it, which somebody else may have written: its params, its artifacts, and the code
that it names.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from foreign_files import LIST, leads_out, read_foreign
from run_artifacts import CODE
from tracking.record import Record
from tracking.run import LONGEST_PARAM
from training import shortened
from vision_data import DATASETS


class RecordedRun:
    """Notes which params, tags and artifacts were looked at, so that what was not can be named.

    Code that the run names is run only with `trust_code`, and then only the copy among the artifacts, if its
    digest is the recorded one.
    """

    def __init__(self, record: Record, *, trust_code: bool = False) -> None:
        self.record, self.trust_code = record, trust_code
        self.params_seen: set[str] = set()
        self.tags_seen: set[str] = set()
        self.artifacts_seen: set[str] = set()

    def param(self, name: str) -> str:
        """A param, whole where MLflow has cut it. ValueError where the run has none of that name."""
        if name not in self.record.params:
            raise ValueError(
                f"run {self.record.run_id}: expected its param {name}, and there is none. Verify another run"
            )
        text, beside = self.record.params[name], f"params/{name}.txt"
        if len(text) == LONGEST_PARAM and self.has(beside):
            whole = self.content(beside).decode(errors="replace")
            text = whole if whole.startswith(text) else text
        return text

    def whole_number(self, name: str) -> int:
        """A param that is an integer. ValueError for any other."""
        text = self.param(name)
        if not re.fullmatch(r"-?\d{1,19}", text):
            raise ValueError(
                f"run {self.record.run_id}: expected an integer as its param {name}, got {text[:40]!r}. "
                "Verify another run"
            )
        return int(text)

    def has(self, name: str) -> bool:
        return (self.record.folder / name).is_file()

    def artifact(self, name: str) -> Path:
        """The path of an artifact. FileNotFoundError where there is none, ValueError for a link out of the
        run's folder.
        """
        path = self.record.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"run {self.record.run_id}: expected its artifact {name}, and there is none in "
                f"{self.record.folder}. Bring it back"
            )
        if leads_out(
            path, self.record.folder
        ):  # whatever LETHE_FOLLOW_LINKS is: what is verified is the run's own
            raise ValueError(
                f"{path}: expected an artifact inside the run's folder, got a link to {path.resolve()}. Copy "
                "the file there"
            )
        self.artifacts_seen.add(name)
        return path

    def content(self, name: str) -> bytes:
        """An artifact's bytes. Raises as `artifact`, and ValueError for one that is too large to be Lethe's."""
        return read_foreign(self.artifact(name), most=LIST)

    def dataset(self) -> str:
        """What the run's dataset is called: a name, folder:PATH and its like, or the checked copy of a
        person's file.
        """
        file, name = self.record.params.get("dataset_file", "None"), self.param("dataset")
        spelled = name if file == "None" else file
        if file.endswith(".py") or DATASETS.runs_code(spelled):
            return self.code("dataset", name.rpartition(":")[2], self.record.params.get("dataset_code"))
        return spelled

    def code(self, kind: str, function: str, digest: str | None) -> str:
        """path/to/file.py:function of the copy of a person's file among the artifacts. ValueError where it is
        not to be run.
        """
        who = f"run {self.record.run_id}: its {kind} {function!r} is a person's own code"
        if digest is None:
            raise ValueError(
                f"{who}, of which no digest is recorded: it can't be told which file it was. Verify another "
                "run"
            )
        copy = self._copy(digest)
        if copy is None:
            raise ValueError(
                f"{who} with the digest {digest}, and no file in its artifacts' {CODE}/ has it. Bring that "
                "back"
            )
        if not self.trust_code:
            raise ValueError(
                f"{who} ({copy}), which is not run without being told to. Read it, and if you trust it, "
                "verify with --trust_code"
            )
        return f"{copy}:{function}"

    def _copy(self, digest: str) -> Path | None:
        """The file in code/ that has the digest; earlier runs have eight letters of it."""
        for path in sorted((self.record.folder / CODE).glob("*.py")):
            name = f"{CODE}/{path.name}"
            found = hashlib.sha256(self.content(name)).hexdigest()
            if digest in (found, shortened(f"-{found}")[1:]):
                return path
        return None

    def unseen(self) -> dict[str, list[str]]:
        """The artifacts, params and tags that nothing looked at."""
        folder = self.record.folder
        artifacts = {
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()
        }
        return {
            "artifacts": sorted(artifacts - self.artifacts_seen),
            "params": sorted(self.record.params.keys() - self.params_seen),
            "tags": sorted(self.record.tags.keys() - self.tags_seen),
        }
