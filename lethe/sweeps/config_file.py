"""The flags of a run from a file: `kappa: 0.1` is `--kappa 0.1`. The command line's flags replace them.

A key without a value (YAML's null) leaves the flag out; for a hyperparameter it is `none`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe import command_line
from lethe.experiment.forget_flags import BY_SCORE
from lethe.experiment.run_flags import plain_flags
from lethe.experiment.shared_flags import GIVEN_UP, SHORT
from lethe.flag_words import Flags, words_of
from lethe.sweeps.base_model_jobs import LISTED, REQUEST, SHOWS
from lethe.sweeps.grid import METHOD, check_printable, several_words, value_words
from lethe.sweeps.source_lines import Located, flag_of_error, read_yaml

# The flags of a file that a flag of the command line puts out of force: a list names every image itself, and
# only one flag says how many.
COUNTS = ("num_indexes_to_replace", *BY_SCORE)
EXCLUSIVE = {name: (LISTED, *COUNTS) if name in COUNTS else (LISTED,) for name in REQUEST} | {LISTED: REQUEST}
SAME = {short: name for name, short in SHORT.items() if short not in GIVEN_UP}
SWITCHES = ("skip_finished",)


@dataclass(frozen=True)
class Config:
    """The flags of a file without those that the command line replaces, and the command line's words."""

    source: Located
    flags: Flags
    given: list[str]

    @property
    def words(self) -> list[str]:
        return words_of(self.flags)

    def located(self, error: ValueError) -> ValueError:
        """Return the error with the line of its flag, if the flag is one of the file's."""
        name = flag_of_error(error, self.flags)
        return self.source.error((name,), error) if name else error


def read_config(file: Path, argv: Sequence[str] | None) -> Config:
    """Return the flags of a YAML file without those that the command line has.

    Raises ValueError or FileNotFoundError as `read_yaml`, and ValueError for anything but flags.
    """
    source = read_yaml(file, "config")
    if not isinstance(source.content, Mapping) or not source.content:
        raise source.error((), "expected flags and their values. Write e.g. 'unlearn: SSD'")
    check_printable(source, source.content, ())
    words = list(sys.argv[1:] if argv is None else argv)
    method = command_line.first_pass(words, {METHOD: None})[METHOD]
    several = several_words({**source.content, **({METHOD: method} if method else {})})
    names = {
        str(key).replace("-", "_") for key in source.content if re.fullmatch(r"[A-Za-z][\w-]*", str(key))
    }
    asked = names.union(REQUEST, SAME, SAME.values())
    named = command_line.words_on([word for word in words if word != "--"], asked)
    on_line = {SAME.get(name, name) for name in named}
    hidden = on_line.union(*(EXCLUSIVE.get(name, ()) for name in on_line))
    flags: Flags = {}
    for key, value in source.content.items():
        name = SAME.get(str(key), str(key)).replace("-", "_")
        if name == "config" or isinstance(value, Mapping):
            message = f"expected a flag and its value, got {key}: {value!r:.80}. One file is one experiment"
            raise source.error((str(key),), message)
        if name in SHOWS:
            message = f"--{key} shows what there is, and runs nothing. Leave it out"
            raise source.error((str(key),), f"{message}, and give it on the command line")
        if name not in hidden and not (value is None and name in plain_flags()):
            flags.update(_words(name, value, several))
    return Config(source, flags, words)


def _words(name: str, value: object, several: Collection[str]) -> Flags:
    """Return a flag with the words after it; nothing for a switch that is off."""
    if name in SWITCHES and isinstance(value, bool):
        return {name: []} if value else {}
    return {name: value_words(name, value, several)}
