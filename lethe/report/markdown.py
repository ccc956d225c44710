"""Docstrings and registries as Markdown, for the generated pages of docs/."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from lethe.registry import Entry

# Signs that GitHub reads as Markdown or mathematics, and that other readers do not let a backslash escape.
ENTITIES = {"<": "&lt;", "~": "&#126;", "$": "&#36;"}


def by_name(entries: Iterable[Entry[Any]]) -> list[Entry[Any]]:
    return sorted(entries, key=lambda entry: entry.name.casefold())


def paragraphs_of(function: Any, label: str = "Departures?") -> tuple[list[str], list[str]]:
    """Return the docstring's paragraphs after the first, without the flags: the plain and the labelled ones.

    The label is cut off.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(function) or "")[1:]
    rest = [text for text in paragraphs if not text.startswith("Flags:")]
    labelled = [text for text in rest if re.match(f"{label}:", text)]
    return [text for text in rest if text not in labelled], [
        re.sub(rf"^{label}:\s+", "", text) for text in labelled
    ]


def paragraph(text: str) -> str:
    """Return a paragraph as Markdown: an indented one is a formula, another one is prose."""
    if all(line.startswith("    ") for line in text.splitlines()):
        return f"```text\n{textwrap.dedent(text)}\n```"
    return prose(text)


def prose(text: str, *, cell: bool = False) -> str:
    """Return text as Markdown on one line: names and flags as code, other signs escaped."""

    def marked(match: re.Match[str]) -> str:
        code, name, sign = match.groups()
        if sign:
            return ENTITIES.get(sign, f"\\{sign}")
        return code or f"`{name}`"

    line = re.sub(
        r"(`[^`]+`)|(--\w+|\b\w+_\w+(?:\(\)|\.(?:py|csv|txt))?)|([\\*_<\[~`$])",
        marked,
        " ".join(text.split()),
    )
    return line.replace("|", "\\|") if cell else line


def escaped(text: str) -> str:
    """Return text as Markdown on one line, with every sign escaped, also for a table's cell."""
    return re.sub(r"([\\*<\[~`$|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def link(entry: Entry[Any]) -> str:
    """Return a link to the section of this name on the same page."""
    return f"[`{entry.name}`](#{entry.name.lower()})"


def heading(entry: Entry[Any]) -> list[str]:
    """Return the heading of an entry's section and its first paragraph."""
    also = f"Also {codes(entry.aliases)}. " if entry.aliases else ""
    return [f"### `{entry.name}`", also + prose(entry.summary)]


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
