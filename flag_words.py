"""Flags as the words of a command line, and values as the text that means them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

Flags = dict[str, list[str]]  # the words of each flag, by its name
_NUMBER = r"-(\d+|\d*\.\d+)"  # what argparse does not take for a flag


def text_of(value: Any) -> str:
    """A value as a command line has it: the inverse of `signature.Hyperparameter.parse`."""
    if isinstance(value, tuple | list):
        return ",".join(map(text_of, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def words_of(flags: Mapping[str, Sequence[str]]) -> list[str]:
    """The words of a command line for these flags."""
    words: list[str] = []
    for name, values in flags.items():
        if len(values) == 1 and values[0].startswith("-") and not re.fullmatch(_NUMBER, values[0]):
            words.append(f"--{name}={values[0]}")
        else:
            words += [f"--{name}", *values]
    return words


def command(script: str, flags: Mapping[str, Sequence[str]]) -> str:
    """The command that runs a script with these flags, as a shell takes it."""
    return shlex.join(["python", "-u", script, *words_of(flags)])
