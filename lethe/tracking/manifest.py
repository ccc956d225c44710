"""The manifest of a run: all that it logged, by value or digest, so that a later change can be found.

The manifest is the run's last artifact. Whoever can write to the store and the artifacts can replace it too:
a signature of it shows that, see `lethe.audits.seal`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lethe.system.foreign_files import open_foreign
from lethe.tracking.entries import Artifact, Batch, Entry, InputSet

MANIFEST = "manifest.json"
SIGNATURE = "manifest.signature.json"
FORMAT = 1
PART = 2**20  # bytes of a read
LARGEST = 10**12  # bytes of an artifact: a model may be large, an endless file may not be read


@dataclass
class Manifest:
    """All that a run logged before it ended.

    artifacts: SHA-256 by path. params, tags: as the store has them. metrics: see `points_in_words`. images:
    digests of the image sets, by context.
    """

    run_id: str
    artifacts: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def of_json(cls, content: bytes) -> Manifest:
        """Return the manifest with this content. Raises ValueError for anything else."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON, got a mistake: {error}") from error
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise ValueError(f"expected a manifest of format {FORMAT}, got another file")
        parts: dict[str, Any] = {name: found.get(name) for name in PARTS}
        if not isinstance(found.get("run_id"), str) or not all(map(_is_texts, parts.values())):
            raise ValueError(f"expected a run_id, and {', '.join(PARTS)} as texts by name, got others")
        if found.keys() != {"run_id", *PARTS}:
            raise ValueError(f"expected the parts {', '.join(PARTS)}, got {', '.join(sorted(found))}")
        return cls(found["run_id"], **parts)


PARTS = ("artifacts", "params", "tags", "metrics", "images")


class Logged:
    """Collects what a run logs, for its manifest."""

    def __init__(self) -> None:
        self._manifest = Manifest("")
        self._points: dict[str, set[tuple[int, float]]] = {}

    def add(self, entry: Entry) -> None:
        """Add an entry. Reads an artifact's file, which may be gone afterwards."""
        found = self._manifest
        if isinstance(entry, Artifact):
            name = f"{entry.folder}/{entry.path.name}" if entry.folder else entry.path.name
            found.artifacts[name] = file_digest(entry.path)
        elif isinstance(entry, Batch):
            found.params |= entry.params
            found.tags |= entry.tags
            for point in entry.points:
                self._points.setdefault(point.name, set()).add((point.step, point.value))
        elif isinstance(entry, InputSet):
            found.images[entry.context] = entry.stored_digest

    def manifest(self, run_id: str) -> Manifest:
        self._manifest.run_id = run_id
        self._manifest.metrics = {name: points_in_words(points) for name, points in self._points.items()}
        return self._manifest


def points_in_words(points: Iterable[tuple[int, float]]) -> str:
    """Return the (step, value) pairs of a metric as text: the value of a single one at step 0, else a digest.

    The order does not matter, and neither does a pair that was logged twice: a file store keeps both.
    """
    once = sorted({(step, value + 0.0) for step, value in points})  # + 0.0: of -0.0 and 0.0, the latter
    if len(once) == 1 and once[0][0] == 0:
        return repr(once[0][1])
    lines = "\n".join(f"{step} {value!r}" for step, value in once)
    return f"{len(once)} values, SHA-256 {hashlib.sha256(lines.encode()).hexdigest()}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises ValueError for one that is not regular."""
    digest = hashlib.sha256()
    with open_foreign(path, most=LARGEST) as file:
        while part := file.read(PART):
            digest.update(part)
    return digest.hexdigest()


def _is_texts(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(value, str) for value in part.values())
