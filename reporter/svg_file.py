"""A picture as an SVG file of its own: what the page says around it is drawn, in the light colours, on white."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape

from reporter.palette import DASHES, LIGHT, LINES
from reporter.svg import CHARACTER, CSS, WIDTH, Key, Picture, box, text

SCALE = 2  # pixels a unit
MARGIN = 12
LINE_HEIGHT = 15
LETTERS = int((WIDTH - 2 * MARGIN) / CHARACTER)  # of a line
SAMPLE = 18  # units of a line in the legend
FONT = "svg { font-family: system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif; } svg .title { font-weight: 600; }"


def svg_file(picture: Picture, about: str) -> str:
    """The file's text: the title, `about` below it, the picture, its legend and its note, each below the one
    before.
    """
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
    """How the key's role is drawn: as a box, or as its line."""
    if key.filled:
        return box(x + SAMPLE - 10, y - 5, 10, 10, key.role)
    dash = DASHES[LINES[key.role]]
    dashes = "" if dash == "none" else f' stroke-dasharray="{dash}"'
    return f'<path d="M{x:g} {y:g}h{SAMPLE}" stroke="var(--{key.role})" stroke-width="2"{dashes}/>'


def _light(svg: str) -> str:
    """The page's variables as colours: many programs that show SVG know no variables."""
    return re.sub(r"var\(--(\w+)\)", lambda match: LIGHT.get(match[1], match[0]), svg)
