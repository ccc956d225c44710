"""docs/flags.md: every command's flags, read from the parsers that the commands make.

python -m lethe.cli.flags_page writes docs/flags.md.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lethe.command_line import FIRST, MORE, OneLineParser
from lethe.commands import SCRIPTS
from lethe.flag_words import text_of
from lethe.models import ARCHITECTURES
from lethe.report.markdown import capital, codes, prose, table
from lethe.training.storage import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "flags.md"
COMMAND = "python -m lethe.cli.flags_page"
COMMANDS = (
    ("forget", ()),
    ("baseline", ()),
    ("ideal", ()),
    ("grid", ()),
    ("run", ()),
    ("parse", ()),
    ("compare", ()),
    ("audit", ("klom",)),
    ("audit", ("ulira",)),
    ("audit", ("memorisation",)),
    ("audit", ("evaluate",)),
    ("audit", ("verify",)),
    ("tune", ()),
    ("seal", ()),
)
HEAD = f"""# Flags

Every flag of every command. Made from the commands' parsers by `{COMMAND}`: what
stands here is what runs.

A flag may be written with hyphens (`--class-to-replace`), and is never abbreviated. `lethe COMMAND --help`
prints the same, with the flags of the method and the architecture that the command line names:

- the flags of each method are in [Methods](methods.md), its add-ons' too;
- the flags of each architecture are [below](#flags-of-the-architectures);
- the names that `--metrics` takes are in [Metrics](metrics.md).

A group of flags that several commands share is shown once."""


def written() -> str:
    """Return docs/flags.md."""
    parts = [HEAD]
    shown: dict[str, str] = {}
    for name, words in COMMANDS:
        command = " ".join(("lethe", name, *words))
        parts += _section(command, _script(name, words), parser_of(name, words), shown)
    return "\n\n".join([*parts, *_architectures()]) + "\n"


def parser_of(name: str, words: Sequence[str] = ()) -> OneLineParser:
    """Return the parser that `lethe NAME WORDS --help` prints."""
    with _printed_parsers() as printed, contextlib.suppress(SystemExit):
        import_module(f"lethe.cli.{name}").main([*words, "--help"])
    (parser,) = printed
    return parser


@contextlib.contextmanager
def _printed_parsers() -> Iterator[list[OneLineParser]]:
    """Collect the parsers whose help would be printed: commands make them when they know their words."""
    printed: list[OneLineParser] = []
    usual = OneLineParser.print_help

    def collect(self: Any, file: Any = None) -> None:
        printed.append(self)

    OneLineParser.print_help = collect  # type: ignore[method-assign]
    try:
        yield printed
    finally:
        OneLineParser.print_help = usual  # type: ignore[method-assign]


def _script(name: str, words: Sequence[str]) -> str:
    return " ".join(("python", SCRIPTS[name], *words))


def _section(name: str, script: str, parser: OneLineParser, shown: dict[str, str]) -> list[str]:
    """Return the section of one command. shown: the tables so far, and the command that has each."""
    parts = [f"## `{name}`", f"{prose(parser.description or '')} In a checkout: `{script}`."]
    repeated: dict[str, list[str]] = {}
    for title, actions in _groups(parser):
        rows = table(["flag", "what it is"], [_row(action) for action in actions])
        if rows in shown:
            repeated.setdefault(shown[rows], []).append(title)
        else:
            shown[rows] = name
            parts += [f"**{capital(title)}**", rows]
    for owner, titles in repeated.items():
        parts.append(f"As for [`{owner}`](#{owner.replace(' ', '-')}): {', '.join(titles)}.")
    return parts


def _groups(parser: OneLineParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the titles of a help and the flags below each; --help itself is left out."""
    flags = [action for action in parser._actions if action.dest != "help"]
    first = [action for action in flags if action.dest in parser.first]
    if first:
        yield FIRST, sorted(first, key=lambda action: parser.first.index(action.dest))
    for group in parser._action_groups:
        rest = [action for action in group._group_actions if action in flags and action not in first]
        if rest:
            yield _title(group.title or ""), rest


def _title(title: str) -> str:
    plain = {"positional arguments": "arguments", "options": "flags"}
    return plain.get(title, title.removeprefix(f"{MORE}: "))


def _row(action: argparse.Action) -> list[str]:
    """Return the flag with its value, and its help."""
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar}`"
    value = _value(action) if action.option_strings else ""
    text = (action.help or "") % vars(action)
    return [f"{names} {prose(value, cell=True)}".strip(), prose(text, cell=True)]


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:  # a switch
        return ""
    value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar)
    return f"{value} ..." if action.nargs in ("+", "*") else value


def _architectures() -> list[str]:
    """Return a table of the flags that architectures have of their own."""
    rows = []
    for entry in ARCHITECTURES:
        if not entry.own:
            continue
        for parameter in entry.hyperparameters.values():
            default = codes([text_of(parameter.default)])
            about = [prose(text, cell=True) for text in (parameter.expects, parameter.help)]
            rows.append([codes([entry.name]), codes([f"--{parameter.name}"]), about[0], default, about[1]])
    header = ["`--arch`", "flag", "value", "default", "what it is"]
    return ["## Flags of the architectures", table(header, rows)]


if __name__ == "__main__":
    write_bytes(PAGE, written().encode())
    print(f"written: {PAGE}")
