"""The page of a search for hyperparameters: its history, the flags' importance, and a slice for each flag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lethe.report.html_report import page, style_sheet
from lethe.report.svg import CSS, Panel, Picture, axes, box, line, room_for, rule, text, ticks

MARK = 5  # units of a point's side
ROW = 22  # units of a bar's row


@dataclass(frozen=True)
class Point:
    """A trial with a value. settings: by flag, those that were drawn."""

    number: int
    value: float
    settings: Mapping[str, object]


@dataclass(frozen=True)
class SearchFacts:
    """A search. scales: "log" or "linear" by flag, for flags that are numbers. best: numbers of trials.

    about: lines of text. rows: cells by column, of all trials. warnings: of the search.
    """

    title: str
    objective: str
    points: Sequence[Point]
    best: Sequence[int]
    scales: Mapping[str, str]
    importances: Mapping[str, float]
    about: Sequence[str]
    warnings: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    command: str


def tuning_page(facts: SearchFacts) -> str:
    return page(
        "tuning.html",
        styles=(CSS, style_sheet("page.css")),
        facts=facts,
        pictures=tuning_pictures(facts),
    )


def tuning_pictures(facts: SearchFacts) -> list[Picture]:
    """Return the history, the importances, and a slice for each flag that is a number."""
    if not facts.points:
        return []
    pictures = [_history(facts)]
    if facts.importances:
        pictures.append(_importances(facts.importances))
    slices = (_slice(facts, flag, scale) for flag, scale in facts.scales.items())
    return [*pictures, *(picture for picture in slices if picture is not None)]


def _history(facts: SearchFacts) -> Picture:
    numbers = [point.number for point in facts.points]
    values = [point.value for point in facts.points]
    least = [min(values[: place + 1]) for place in range(len(values))]
    panel, up = _panel((-0.5, max(numbers) + 0.5), values)
    across = ticks(0, max(1, *numbers), whole=True)
    parts = [axes(panel, across, up, xlabel="trial", ylabel=facts.objective)]
    parts.append(line(panel, numbers, least, "unlearned"))
    parts += [_mark(panel, n, value, facts, n) for n, value in zip(numbers, values, strict=True)]
    alt = f"{facts.objective} of {len(values)} trials, from {values[0]:.4g} to {min(values):.4g}."
    note = (
        "A square is a trial, trial 0 the default settings. The line is the least value so far. Less is "
        "better."
    )
    return Picture("search_history", "Search history", alt, parts, panel.bottom + 38, note=note)


def _importances(shares: Mapping[str, float]) -> Picture:
    left = room_for([(0, name) for name in shares])
    width = 320 - left
    parts = []
    for row, (name, share) in enumerate(shares.items()):
        top = 8 + ROW * row
        parts.append(text(left - 5, top + 12, name, anchor="end", kind="tick"))
        parts.append(box(left, top + 2, width * share, ROW - 8, "unlearned"))
        parts.append(
            text(left + width * share + 4, top + 12, f"{100 * share:.0f} %", anchor="start", kind="tick")
        )
    alt = "Importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    note = "Share of a flag in the variance of the objective (fANOVA). With few trials it is rough."
    return Picture("importance", "Importance of each flag", alt, parts, 16 + ROW * len(shares), note=note)


def _slice(facts: SearchFacts, flag: str, scale: str) -> Picture | None:
    """Draw the objective over the values of one flag; None for fewer than two trials on the axis."""
    log = scale == "log"
    drawn = [point for point in facts.points if _has_place(point.settings.get(flag), log)]
    if len(drawn) < 2:
        return None
    at = {point.number: float(str(point.settings[flag])) for point in drawn}
    places = {number: math.log10(value) if log else value for number, value in at.items()}
    low, high = min(places.values()), max(places.values())
    room = (high - low) * 0.04 or 0.5
    panel, up = _panel((low - room, high + room), [point.value for point in facts.points])
    across = [(place, f"{10**place:.3g}" if log else words) for place, words in ticks(*panel.x, 4)]
    parts = [axes(panel, across, up, xlabel=f"{flag} ({scale})", ylabel=facts.objective)]
    parts += [_mark(panel, places[point.number], point.value, facts, point.number) for point in drawn]
    alt = f"{facts.objective} over {flag}, {len(drawn)} trials."
    return Picture(f"slice_{flag}", f"Slice: {flag}", alt, parts, panel.bottom + 38)


def _has_place(value: object, log: bool) -> bool:
    """Whether a value has a place on the axis: not None, a word, nor 0 on a log scale."""
    return isinstance(value, int | float) and not (log and value <= 0)


def _panel(x: tuple[float, float], values: Sequence[float]) -> tuple[Panel, list[tuple[float, str]]]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    up = ticks(low - room, high + room, 4)
    left = room_for(up)
    return Panel(x, (low - room, high + room), left=left, width=346 - left, height=130), up


def _mark(panel: Panel, x: float, y: float, facts: SearchFacts, number: int) -> str:
    """A trial: filled and ringed if it is the best, or one of the front."""
    role = "forget" if number in facts.best else "faint"
    place = panel.across(x), panel.up(y)
    mark = box(place[0] - MARK / 2, place[1] - MARK / 2, MARK, MARK, role)
    if number not in facts.best:
        return mark
    return mark + rule(place[0], place[1] - 8, place[0], place[1] - 4, role="forget")
