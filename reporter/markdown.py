"""Docstrings and registries as Markdown: what the generated pages of docs/ share."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from registry import Entry


def by_name(entries: Iterable[Entry[Any]]) -> list[Entry[Any]]:
    return sorted(entries, key=lambda entry: entry.name.casefold())


def paragraphs_of(function: Any, label: str = "Departures?") -> tuple[list[str], list[str]]:
    """The docstring's paragraphs after its one line, without the flags: those without a label, and those with
    it, which it is cut from.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(function) or "")[1:]
    rest = [text for text in paragraphs if not text.startswith("Flags:")]
    labelled = [text for text in rest if re.match(f"{label}:", text)]
    return [text for text in rest if text not in labelled], [
        re.sub(rf"^{label}:\s+", "", text) for text in labelled
    ]


def paragraph(text: str) -> str:
    """An indented paragraph is a formula and stays as it is; another one is prose."""
    return (
        f"```text\n{textwrap.dedent(text)}\n```"
        if all(line.startswith("    ") for line in text.splitlines())
        else prose(text)
    )


def prose(text: str, *, cell: bool = False) -> str:
    """Text as Markdown on one line: names with an underscore and flags as code, everything else that Markdown
    reads escaped.
    """

    def marked(match: re.Match[str]) -> str:
        code, name, sign = match.groups()
        return code or (f"`{name}`" if name else f"\\{sign}")

    line = re.sub(r"(`[^`]+`)|(--\w+|\b\w+_\w+(?:\(\))?)|([\\*_<\[~`$])", marked, " ".join(text.split()))
    return line.replace("|", "\\|") if cell else line


def escaped(text: str) -> str:
    """Text as Markdown on one line, also in a cell, that shows each sign of it as it is."""
    return re.sub(r"([\\*<\[~`$|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
