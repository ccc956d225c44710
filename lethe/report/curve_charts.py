"""The page's curves over epochs and steps: one for each number of a history."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lethe.evaluation import METRICS
from lethe.report.svg import Panel, Picture, axes, line, room_for, text, ticks
from lethe.training.storage import LONGEST_NAME, shortened

MOST_CURVES = 12
UNITS = {"loss": "nats", "score": "percent"}  # by a name's last word, of what is no metric of the registry
OTHER_UNITS = {"matching_loss": "squared nats"}  # of logits


def curves(title: str, steps: Sequence[Mapping[str, float]], *, role: str, step: str) -> list[Picture]:
    """Draw the first 12 numbers of a history over its steps, counted from 1; a note names the others."""
    names = list(dict.fromkeys(name for values in steps for name in values))
    shown, others = names[:MOST_CURVES], names[MOST_CURVES:]
    pictures = []
    for name in shown:
        points = [(n, float(values[name])) for n, values in enumerate(steps, 1) if name in values]
        pictures.append(_curve(title, name, points, role, step))
    if others:
        note = f"{len(others)} more of this history are not drawn: {', '.join(map(readable, others))}."
        pictures[-1] = replace(pictures[-1], note=f"{pictures[-1].note} {note}".strip())
    return pictures


def _curve(title: str, name: str, points: Sequence[tuple[int, float]], role: str, step: str) -> Picture:
    finite = [(n, value) for n, value in points if math.isfinite(value)]
    broken = len(points) - len(finite)
    steep = bool(finite) and 0 < 100 * min(v for _, v in finite) < max(v for _, v in finite)
    values = [math.log10(v) if steep else v for _, v in finite]
    low, high = (min(values), max(values)) if finite else (0.0, 1.0)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    up = (low - room, high + room) if steep else _inside(low, high, room, unit_of(name))
    sides = _decades(*up) if steep else ticks(*up, 4)
    left = room_for(sides)
    first, last = points[0][0], points[-1][0]
    panel = Panel((first, max(last, first + 1)), up, left=left, width=346 - left, height=110)
    whole = ticks(*panel.x, whole=True)
    parts = [axes(panel, whole, sides, xlabel=step, ylabel=_with_unit(name, log=steep))]
    if len(finite) == 1:
        x, y = panel.across(finite[0][0]), panel.up(values[0])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--{role})"/>')
    elif finite:
        parts.append(line(panel, [n for n, _ in finite], values, role))
    else:
        parts.append(text(panel.left + panel.width / 2, panel.top + panel.height / 2, "no finite value"))
    ends = f"from {finite[0][1]:.4g} to {finite[-1][1]:.4g}" if finite else "no finite value"
    alt = f"{title}, {_with_unit(name)} over {len(points)} {step}s: {ends}."
    note = f"{broken} values that are not finite are left out." if broken else ""
    heading = f"{title}: {readable(name)}"
    return Picture(file_name(title, name), heading, alt, parts, panel.bottom + 38, note=note)


def _inside(low: float, high: float, room: float, unit: str) -> tuple[float, float]:
    """Return the values' ends with some room, but none below 0 or above 100 percent."""
    bottom = max(0.0, low - room) if low >= 0 else low - room
    is_share = unit == "percent" and bottom < high <= 100
    return bottom, min(100.0, high + room) if is_share else high + room


def unit_of(name: str) -> str:
    """Return the unit of a number of a history; empty for one without."""
    if name in METRICS:
        return METRICS[name].facts.unit
    return OTHER_UNITS.get(name, UNITS.get(name.rsplit("_", 1)[-1], ""))


def _with_unit(name: str, *, log: bool = False) -> str:
    facts = ", ".join(filter(None, (unit_of(name), "log scale" if log else "")))
    return readable(name) + (f" ({facts})" if facts else "")


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return powers of ten between two logarithms, at most about 4."""
    inside = range(math.ceil(low), math.floor(high) + 1)
    return [(float(power), f"{10.0**power:g}") for power in inside[:: max(1, -(-len(inside) // 4))]]


def file_name(title: str, name: str) -> str:
    """Return "after_each_epoch_forget_loss": one name for each number, whatever signs its name has."""
    own = re.sub(r"[^\w.-]", "_", name)
    if own != name:
        own += f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return shortened(f"{title.lower().replace(' ', '_')}_{own}", LONGEST_NAME)


def readable(name: str) -> str:
    return name.replace("_", " ")
