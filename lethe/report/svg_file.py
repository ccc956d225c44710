"""A picture as an SVG file: with its title, legend and note, in the light colours, on white."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape

from lethe.report.palette import LIGHT
from lethe.report.svg import CHARACTER, CSS, WIDTH, Key, Picture, box, dashes_of, text

SCALE = 2  # pixels a unit
MARGIN = 12
LINE_HEIGHT = 15
LETTERS = int((WIDTH - 2 * MARGIN) / CHARACTER)  # of a line
SAMPLE = 18  # units of a line in the legend
FONT = """svg { font-family: system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif; }
svg .title { font-weight: 600; }"""


def svg_file(picture: Picture, about: str) -> str:
    """Return the file's text: from top to bottom the title, `about`, the picture, its legend and its note."""
    column = _Column()
    column.words(picture.title, "title")
    column.words(about, "tick")
    column.drawing(picture.parts, picture.height)
    column.legend(picture.keys)
    column.words(picture.note, "tick")
    return _light(column.document(picture.alt))


class _Column:
    """Parts from top to bottom; `y` is where the next one begins."""

    def __init__(self) -> None:
        self.y: float = MARGIN
        self.parts: list[str] = []

    def words(self, words: str, kind: str) -> None:
        for line in textwrap.wrap(words, LETTERS):
            self.y += LINE_HEIGHT
            self.parts.append(text(MARGIN, self.y - 4, line, anchor="start", kind=kind))

    def drawing(self, parts: Sequence[str], height: float) -> None:
        self.y += MARGIN / 2
        self.parts += [f'<g transform="translate(0 {self.y:g})">', *parts, "</g>"]
        self.y += height

    def legend(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self.y += LINE_HEIGHT
            self.parts.append(_sample(key, MARGIN, self.y - 8))
            self.parts.append(text(MARGIN + SAMPLE + 6, self.y - 4, key.text, anchor="start"))

    def document(self, alt: str) -> str:
        height = self.y + MARGIN
        size = f'viewBox="0 0 {WIDTH} {height:g}" width="{SCALE * WIDTH}" height="{SCALE * height:g}"'
        ground = box(0, 0, WIDTH, height, "paper")
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(alt)}">'
        return f"{head}<style>{CSS}{FONT}</style>{ground}{''.join(self.parts)}</svg>\n"


def _sample(key: Key, x: float, y: float) -> str:
    """Draw the sample of a legend's entry: a box or a line."""
    if key.filled:
        return box(x + SAMPLE - 10, y - 5, 10, 10, key.role)
    stroke = f'stroke="var(--{key.role})" stroke-width="2"{dashes_of(key.role)}'
    return f'<path d="M{x:g} {y:g}h{SAMPLE}" {stroke}/>'


def _light(svg: str) -> str:
    """Replace the page's variables by colours, for programs that know no variables."""
    return re.sub(r"var\(--(\w+)\)", lambda match: LIGHT.get(match[1], match[0]), svg)
