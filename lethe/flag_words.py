"""Values as text: on a command line, and in names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lethe.commands import COMMANDS, started

Flags = dict[str, list[str]]  # the words of each flag, by its name
_NUMBER = r"-(\d+|\d*\.\d+)"  # negative numbers, which argparse tells from flags


def text_of(value: Any) -> str:
    """Return a value as text of a command line: the inverse of `signature.Hyperparameter.parse`."""
    if isinstance(value, tuple | list):
        return ",".join(map(text_of, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def name_of(value: Any, between: str = "-") -> str:
    """Return a value as text in the name of a file or a run."""
    return between.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def words_of(flags: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the words of a command line for these flags."""
    words: list[str] = []
    for name, values in flags.items():
        if len(values) == 1 and values[0].startswith("-") and not re.fullmatch(_NUMBER, values[0]):
            words.append(f"--{name}={values[0]}")
        else:
            words += [f"--{name}", *values]
    return words


def command(name: str, flags: Mapping[str, Sequence[str]]) -> str:
    """Return the line for a shell that starts a command of Lethe's, such as `ideal`, with these flags."""
    return _line(name, words_of(flags))


def command_line_of(words: Sequence[str]) -> str:
    """Return the line for a shell that runs a script of Lethe's, the first word, with the words after it."""
    script, *rest = words
    return _line(COMMANDS[script], rest)


def _line(name: str, words: Sequence[str]) -> str:
    return " ".join([started(name), *map(shlex.quote, words)])
