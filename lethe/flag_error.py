"""The error of a flag, which names the flag as data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class FlagError(ValueError):
    """An error in a flag or its value. `flag` is the flag's name without `--`.

    The message starts with the flag, unless `named` is False: then the reason is the whole message.
    """

    def __init__(self, flag: str, reason: object, named: bool = True) -> None:
        super().__init__(flag, reason, named)
        self.flag = flag

    def __str__(self) -> str:
        _, reason, named = self.args
        return f"--{self.flag}: {reason}" if named else str(reason)


@contextmanager
def errors_of(flag: str) -> Iterator[None]:
    """Raise ValueError and FileNotFoundError of the block as FlagError of `flag`, with the same message."""
    try:
        yield
    except FlagError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise FlagError(flag, error, named=False) from error


@contextmanager
def named_as_arguments() -> Iterator[None]:
    """Let a FlagError of the block name flags as Python's arguments: `topk`, and not `--topk`."""
    try:
        yield
    except FlagError as error:
        error.args = (error.flag, re.sub(r"(?<![\w-])--(?=[A-Za-z])", "", str(error)), False)
        raise
