"""Settings from a file, YAML or Python, that know the lines they stand on."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import did_you_mean

Place = tuple[str | int, ...]  # the keys and positions that lead to a value: ("methods", "SFT", "sft_mode", 1)
PYTHON_NAME = "GRID"


@dataclass(frozen=True)
class Located:
    """What a file says, and on which line each key or item of it stands."""

    content: Any
    file: Path | None
    lines: Mapping[Place, int]

    def at(self, place: Place) -> str:
        """grid.yml, line 5: of the place itself, else of the nearest one around it that is known."""
        name = "the small grid inside" if self.file is None else str(self.file)
        around = (place[:length] for length in range(len(place), 0, -1))
        line = next((self.lines[known] for known in around if known in self.lines), None)
        return name if line is None else f"{name}, line {line}"

    def error(self, place: Place, reason: object) -> ValueError:
        return ValueError(f"{self.at(place)}: {reason}")


def blamed(message: str, flags: Mapping[str, Any], otherwise: str) -> str:
    """Which of a command's flags an error message is about: the one it names, else the one whose value it quotes, else `otherwise`."""
    named = (name for name in re.findall(r"--(\w+)", message) if name in flags)
    quoted = (name for name, value in flags.items() if f"'{value}'" in message)
    return next(named, None) or next(quoted, None) or otherwise


def read_yaml(path: Path, flag: str) -> Located:
    """A YAML file. FileNotFoundError, or ValueError for what is none, for a key that stands there twice, and for one that is no word."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"--{flag}: expected a YAML file, and there is no file {path}. Check the path")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines = dict(_lines_of_yaml(node, (), path)) if node is not None else {}
        content = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or " ".join(str(error).split())[:160]
        raise ValueError(f"--{flag}: {path}{where} is not YAML ({reason}). Correct it") from error
    return Located(content, path, lines)


def _lines_of_yaml(node: Any, place: Place, path: Path) -> Iterator[tuple[Place, int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(
                    f"{path}, line {key.start_mark.line + 1}: expected a word as key, got a list or a mapping. Write a flag's name"
                )
            if key.value in seen:
                raise ValueError(
                    f"{path}, line {key.start_mark.line + 1}: {key.value!r} stands here a second time. Leave out one of the two"
                )
            seen.add(str(key.value))
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from _lines_of_yaml(value, (*place, str(key.value)), path)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*place, number), item.start_mark.line + 1
            yield from _lines_of_yaml(item, (*place, number), path)


def read_python(path: Path) -> Located:
    """The mapping GRID of a Python file, which is run as the user's own code. Where it is written out, its lines are known.

    FileNotFoundError, or ValueError for a file that has none or can't be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--grid: expected a YAML or Python file, and there is no file {path}. Check the path")
    try:
        found = runpy.run_path(str(path))
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"--grid: {path} can't be run ({type(error).__name__}: {error}). Correct it") from error
    if PYTHON_NAME not in found:
        names = [name for name in found if not name.startswith("_")]
        raise ValueError(did_you_mean(f"name in {path}: it has no", PYTHON_NAME, names, f"names in {path}"))
    assigned = (node.value for node in tree.body if isinstance(node, ast.Assign) and _assigns(node) and node.value)
    written = next(assigned, None)
    return Located(found[PYTHON_NAME], path, {} if written is None else dict(_lines_of_python(written, ())))


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
