"""Keep the measurements of a long benchmark one by one, so that an interrupted one continues."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parent.parent
MEASURED_CODE = (
    "models",
    "lethe/data",
    "lethe/training",
    "unlearn",
    "evaluation",
    "lethe/experiment/base_models.py",
    "lethe/experiment/measure.py",
)


class Cells:
    """A file with a JSON line for each finished measurement.

    A measurement is known by its key, which names all that it depends on, with the machine and the text of
    the code that it measures (the packages and the benchmark's own `files`): what is found was measured here
    and by this code. A line that a kill cut short is measured again.
    """

    def __init__(self, path: Path, *files: str, code: Sequence[str] = MEASURED_CODE) -> None:
        """`code`: what of the project is measured, if not all of it."""
        self.path = path
        self.reused = 0
        self._common = {
            "machine": machine(),
            "code": code_digest([*(str(ROOT / place) for place in code), *files]),
        }
        self._found = {
            name: value
            for name, value in map(_parsed, path.read_text().splitlines() if path.exists() else [])
            if name
        }

    def measured(self, key: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The numbers of this key: from the file, or made now and added to it."""
        name = hashlib.sha256(json.dumps({**key, **self._common}, sort_keys=True).encode()).hexdigest()
        if name in self._found:
            self.reused += 1
            return self._found[name]
        value = make()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("\n" + json.dumps({"name": name, "key": dict(key), "value": value}))
            file.flush()
            os.fsync(file.fileno())
        self._found[name] = value
        return value

    def note(self) -> str:
        """Return a line about the source of the numbers."""
        if not self.reused:
            return f"measured now, kept in {self.path}"
        before = f"{self.reused} cells were measured before by this code on this machine"
        return f"{before}; delete {self.path} to measure anew"


def code_digest(files: Iterable[str | Path]) -> str:
    """SHA-256 of the source files, and of those in the folders, that a measurement depends on."""
    content = hashlib.sha256()
    for path in map(Path, files):
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()


def files_behind(module: str, package: str) -> list[Path]:
    """Return the file of a module, and those of `package` that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = ROOT / Path(*name.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        if name == package or file in found or not file.exists():
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


def _parsed(line: str) -> tuple[str, dict[str, Any]]:
    try:
        cell = json.loads(line)
        return cell["name"], cell["value"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return "", {}
