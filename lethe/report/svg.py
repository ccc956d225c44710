"""Pieces of SVG for a run's pictures: scales, axes, lines, bars, in the page's CSS variables as colours.

A picture is 360 units wide, as a phone is, and a wide page sets several side by side. Titles, legends and
notes are the page's own text, which wraps; `svg_file` draws them into a file.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from lethe.report.palette import DASHES, LINES

WIDTH = 360
CHARACTER = 6.2  # how wide one of 11 units' height is, on the safe side
LARGE, COLOURS = 20_000, 64  # pixels beyond which a picture gets by with fewer colours
MOST_POINTS = 300  # more than that on 300 units can't be seen
STEPS = (1.0, 2.0, 2.5, 5.0)  # from tick to tick, times a power of ten
CSS = """
svg { font-size: 11px; }
svg text { fill: var(--ink); }
svg .tick { font-size: 10px; fill: var(--faint); }
svg .in { font-size: 10px; }
svg .on { font-size: 10px; fill: var(--paper); }
svg .pixels { image-rendering: pixelated; }
"""


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a role of the palette, drawn as its line or as a filled box, and what it is."""

    role: str
    text: str
    filled: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture. name: of its file. alt: a description in words. parts: SVG elements. keys: the legend."""

    name: str
    title: str
    alt: str
    parts: Sequence[str]
    height: float
    keys: tuple[Key, ...] = ()
    note: str = ""

    @property
    def svg(self) -> str:
        """The element, for a page that has `CSS` and palette.css_variables."""
        label = escape(self.alt)
        size = f'viewBox="0 0 {WIDTH} {self.height:g}"'
        return f'<svg {size} role="img" aria-label="{label}">{"".join(self.parts)}</svg>'


@dataclass(frozen=True)
class Panel:
    """The rectangle that data is drawn in, in units, and what its sides stand for."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46
    top: float = 8
    width: float = 300
    height: float = 190

    def across(self, value: float) -> float:
        return self.left + self.width * (value - self.x[0]) / ((self.x[1] - self.x[0]) or 1)

    def up(self, value: float) -> float:
        return self.top + self.height * (1 - (value - self.y[0]) / ((self.y[1] - self.y[0]) or 1))

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width


def text(
    x: float, y: float, words: str, *, anchor: str = "middle", kind: str = "", turned: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    called = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{called}{turn}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, role: str, *, opacity: float = 1) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    faint = "" if opacity == 1 else f' fill-opacity="{opacity:.2f}"'
    return f'<rect {place} fill="var(--{role})"{faint}/>'


def _dashed(dash: str) -> str:
    """Return the attribute of a line's dashes."""
    return "" if dash == "none" else f' stroke-dasharray="{dash}"'


def dashes_of(role: str) -> str:
    """Return the attribute of the dashes that a role is drawn with."""
    return _dashed(DASHES[LINES[role]])


def rule(x1: float, y1: float, x2: float, y2: float, *, role: str = "line", dash: str = "none") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="var(--{role})"{_dashed(dash)}/>'


def line(panel: Panel, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray, role: str) -> str:
    """Return a line through the points, as the role is drawn. Leaves out points that can't be seen."""
    places = np.column_stack([[panel.across(x) for x in xs], [panel.up(y) for y in ys]])
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in thinned(places))
    stroke = f'stroke="var(--{role})" stroke-width="1.8"{dashes_of(role)}'
    return f'<polyline points="{points}" fill="none" {stroke}/>'


def outline(panel: Panel, edges: np.ndarray, heights: np.ndarray, role: str, *, base: float = 0.0) -> str:
    """A histogram: its outline down to `base`, faintly filled."""
    xs = np.repeat(edges, 2)
    ys = np.concatenate([[base], np.repeat(heights, 2), [base]])
    points = " ".join(f"{panel.across(x):.1f},{panel.up(y):.1f}" for x, y in zip(xs, ys, strict=True))
    inside = f'fill="var(--{role})" fill-opacity="0.22"'
    return (
        f'<polyline points="{points}" {inside} stroke="var(--{role})" stroke-width="1.6"{dashes_of(role)}/>'
    )


def axes(
    panel: Panel,
    across: Sequence[tuple[float, str]],
    up: Sequence[tuple[float, str]],
    *,
    xlabel: str,
    ylabel: str,
) -> str:
    """Return grid lines with their numbers, without those that would touch, and the names of both sides."""
    parts = [rule(panel.left, panel.up(at), panel.right, panel.up(at)) for at, _ in up]
    parts += [text(panel.left - 5, panel.up(at) + 3.5, words, anchor="end", kind="tick") for at, words in up]
    for at, words in apart([(panel.across(at), words) for at, words in across]):
        parts.append(rule(at, panel.bottom, at, panel.bottom + 4, role="faint"))
        parts.append(text(at, panel.bottom + 15, words, kind="tick"))
    parts.append(rule(panel.left, panel.bottom, panel.right, panel.bottom, role="faint"))
    parts.append(text(panel.left + panel.width / 2, panel.bottom + 31, xlabel))
    parts.append(text(11, panel.top + panel.height / 2, ylabel, turned=True))
    return "".join(parts)


def apart(labels: Sequence[tuple[float, str]], gap: float = 6) -> list[tuple[float, str]]:
    """Leave out labels (x, text), centred at x, that would touch the one before or leave the picture."""
    kept: list[tuple[float, str]] = []
    for at, words in labels:
        half = CHARACTER * len(words) / 2
        end = kept[-1][0] + CHARACTER * len(kept[-1][1]) / 2 + gap if kept else 0
        if at - half >= end and at + half <= WIDTH:
            kept.append((at, words))
    return kept


def room_for(labels: Sequence[tuple[float, str]]) -> float:
    """Return where a panel begins, so that the numbers at its left have room."""
    return max(46.0, 24 + CHARACTER * max((len(words) for _, words in labels), default=0))


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[tuple[float, str]]:
    """Return round numbers between two ends with their texts, at most `most` steps; whole: integers."""
    step = _step((high - low) / most, whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    inside = [n * step for n in range(first, last + 1)]
    digits = next((d for d in range(8) if abs(round(step, d) - step) < 1e-6 * step), 8)
    large = max(map(abs, inside), default=0)
    return [(at, f"{at:.0e}" if large >= 1e6 or digits > 4 else f"{at:,.{digits}f}") for at in inside]


def _step(least: float, whole: bool) -> float:
    """Return the smallest round number >= least."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    steps = [factor * power for factor in (*STEPS, 10.0)]
    if whole:
        steps = [max(1.0, step) for step in steps if max(1.0, step).is_integer()]
    return next(step for step in steps if step >= least * (1 - 1e-9))


def thinned(places: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Return about `most` of the points (n, 2): of each stretch its first, lowest, highest and last."""
    if len(places) <= most:
        return places
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(places)), max(1, most // 4)):
        ys = places[stretch, 1]
        lowest, highest = stretch[ys.argmin()], stretch[ys.argmax()]
        kept += sorted({int(stretch[0]), int(lowest), int(highest), int(stretch[-1])})
    return places[kept]


def png(pixels: np.ndarray) -> str:
    """Return pixels (height, width, 3 or 4) uint8 as a data URI; a large opaque picture has 64 colours."""
    from PIL import Image

    picture, content = Image.fromarray(pixels), io.BytesIO()
    if pixels.shape[2] == 3 and pixels.shape[0] * pixels.shape[1] > LARGE:
        picture = picture.quantize(COLOURS)
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def image(x: float, y: float, width: float, height: float, pixels: np.ndarray) -> str:
    """Return an image of the pixels, enlarged without blurring or scaled down by the browser."""
    crisp = ' class="pixels"' if pixels.shape[1] <= 1.5 * width else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none"'
    return f'<image {place}{crisp} href="{png(pixels)}"/>'
