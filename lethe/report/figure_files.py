"""Figures as files: PDF with embedded fonts, and SVG in the colours of its page."""

from __future__ import annotations

import contextlib
import html
import io
import re
import textwrap
from collections.abc import Iterator

from matplotlib import rc_context
from matplotlib.figure import Figure

from lethe.report.palette import LIGHT

LONGEST_LINE = 90  # characters of a title, at a figure's width
NO_DATE = {"CreationDate": None}  # the same figure is the same file


@contextlib.contextmanager
def titled(figure: Figure, title: str) -> Iterator[None]:
    """Give the figure a title for as long as its file is written; on a page it has the page's heading."""
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, LONGEST_LINE)]
    heading = figure.text(
        0.5,
        1 + 0.08 / figure.get_figheight(),
        "\n".join(lines),
        ha="center",
        va="bottom",
        fontsize=10,
        parse_math=False,
    )
    try:
        yield
    finally:
        heading.remove()


def pdf_of(figure: Figure, title: str) -> bytes:
    """Return a vector PDF with searchable text and embedded TrueType fonts (type 42), as publishers ask."""
    content = io.BytesIO()
    with titled(figure, title), rc_context({"pdf.fonttype": 42}):
        figure.savefig(content, format="pdf", bbox_inches="tight", metadata=NO_DATE)
    return content.getvalue()


def svg_of(figure: Figure, name: str, about: str) -> str:
    """Return an `<svg>` element for a page that defines palette.css_variables. Letters are outlines.

    name: unlike that of every other figure of the page. about: the description for screen readers.
    """
    content = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    svg = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    for role, colour in LIGHT.items():
        if role != "paper":
            svg = re.sub(re.escape(colour), f"var(--{role})", svg, flags=re.IGNORECASE)
    return with_label(svg, html.escape(about))


def with_label(svg: str, label: str) -> str:
    """Add the description, and fit the width to the page."""
    opening, rest = svg.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    sized = re.sub(r'\b(width|height)="[\d.]+pt"\s*', "", opening)
    style = f' style="max-width: {width[1]}pt"' if width else ""
    return f'{sized} role="img" aria-label="{label}"{style}>{rest}'
