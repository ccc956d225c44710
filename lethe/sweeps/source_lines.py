"""Settings from a YAML or Python file, with the line of each."""

from __future__ import annotations

import ast
import runpy
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe.experiment.shared_flags import SHORT
from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean
from lethe.system.bounded_yaml import NotYaml, content_of, nodes_of
from lethe.system.foreign_files import foreign_text, warn_if_others_write

# The keys and positions that lead to a value: ("methods", "SFT", "sft_mode", 1).
Place = tuple[str | int, ...]
PYTHON_NAME = "GRID"
# Control characters, halves of a character, ends of lines and paragraphs.
NOT_PRINTED = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Located:
    """The content of a file, and the line of each key and item."""

    content: Any
    file: Path | None
    lines: Mapping[Place, int]

    def at(self, place: Place) -> str:
        """Return "grid.yml, line 5" of the place, or of the nearest place around it with a known line."""
        name = "the small grid inside" if self.file is None else str(self.file)
        around = (place[:length] for length in range(len(place), 0, -1))
        line = next((self.lines[known] for known in around if known in self.lines), None)
        return name if line is None else f"{name}, line {line}"

    def error(self, place: Place, reason: object) -> ValueError:
        return ValueError(f"{self.at(place)}: {reason}")


def control_character(text: str) -> str | None:
    """Return the first control character or line break of a text; None if it has none."""
    return next((sign for sign in text if unicodedata.category(sign) in NOT_PRINTED), None)


def flag_of_error(error: Exception, flags: Iterable[str]) -> str | None:
    """Return the flag of the error or its cause, as spelled in `flags`; None if it is none of them."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, FlagError):
        cause = cause.__cause__
    if cause is None:
        return None
    spelled = {flag.replace("-", "_"): flag for flag in flags}
    return spelled.get(cause.flag) or spelled.get(SHORT.get(cause.flag, cause.flag))


def read_yaml(path: Path, flag: str) -> Located:
    """Read a YAML file. Raises FileNotFoundError, and ValueError for other files and repeated or odd keys."""
    text = settings_text(path, flag, "a YAML file")
    try:
        root = nodes_of(text)
        lines = {} if root is None else dict(_lines_of_yaml(root, (), path))
        content = content_of(root)
    except NotYaml as error:
        where = "" if error.line is None else f", line {error.line}"
        raise ValueError(
            f"--{flag}: {path}{where} is not YAML that can be read ({error.reason}). Correct it"
        ) from error
    return Located(content, path, lines)


def settings_text(path: Path, flag: str, expected: str) -> str:
    """Return the text of a file of settings. Raises FileNotFoundError, or ValueError for no text."""
    if not path.exists():
        raise FileNotFoundError(f"--{flag}: expected {expected}, and there is no file {path}. Check the path")
    try:
        return foreign_text(path)
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from error


def _lines_of_yaml(node: Any, place: Place, path: Path) -> Iterator[tuple[Place, int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                expected = "expected a word as key, got a list or a mapping"
                raise ValueError(f"{path}, line {line}: {expected}. Write a flag's name")
            name = str(key.value)
            if name in seen:
                remedy = "Leave out one of the two"
                raise ValueError(f"{path}, line {line}: {name!r} stands here a second time. {remedy}")
            seen.add(name)
            yield (*place, name), line
            yield from _lines_of_yaml(value, (*place, name), path)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*place, number), item.start_mark.line + 1
            yield from _lines_of_yaml(item, (*place, number), path)


def read_python(path: Path) -> Located:
    """Run a Python file as the user's own code, and return its mapping GRID. A literal one has its lines.

    Raises FileNotFoundError, or ValueError for a file without GRID or one that can't be run.
    """
    code = settings_text(path, "grid", "a YAML or Python file")
    warn_if_others_write(path)
    try:
        found = runpy.run_path(str(path))
        tree = ast.parse(code)
    except SystemExit as error:
        reason = f"ends the program (exit code {error.code}) before {PYTHON_NAME} is read"
        raise ValueError(f"--grid: {path} {reason}. Leave that out") from error
    except Exception as error:  # whatever the user's code does
        raise ValueError(
            f"--grid: {path} can't be run ({type(error).__name__}: {error}). Correct it"
        ) from error
    if PYTHON_NAME not in found:
        names = [name for name in found if not name.startswith("_")]
        raise ValueError(did_you_mean(f"name in {path}: it has no", PYTHON_NAME, names, f"names in {path}"))
    written = [node.value for node in tree.body if isinstance(node, ast.Assign) and _assigns(node)]
    lines = dict(_lines_of_python(written[0], ())) if written else {}
    return Located(found[PYTHON_NAME], path, lines)


def _assigns(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == PYTHON_NAME for target in node.targets)


def _lines_of_python(node: ast.expr, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield (*place, str(key.value)), key.lineno
                yield from _lines_of_python(value, (*place, str(key.value)))
    elif isinstance(node, ast.List | ast.Tuple):
        for number, item in enumerate(node.elts):
            yield (*place, number), item.lineno
            yield from _lines_of_python(item, (*place, number))
