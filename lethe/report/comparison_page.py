"""The comparison of runs as one HTML page, without network or scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from lethe.report.comparison import (
    Plane,
    forget_against_retain,
    images_of,
    kappa_lines,
    measured,
    of_base_model,
    time_against_gap,
)
from lethe.report.comparison_pictures import (
    MOST_LINES,
    forget_retain_picture,
    kappa_picture,
    rank_picture,
    time_picture,
)
from lethe.report.figure_files import svg_of
from lethe.report.html_report import page, style_sheet
from lethe.report.seeds_summary import Task, heading_of
from lethe.report.seeds_tables import LEGEND, marked, table_of
from lethe.report.seeds_text import spread
from lethe.version import __version__

SEE_TABLE = "The table below has the numbers"
DAGGER = " †"


@dataclass(frozen=True)
class Drawn:
    """A figure of a task. name: the end of its file's name. note: how to read it. alt: its description."""

    name: str
    title: str
    note: str
    figure: Figure
    alt: str


def figures_of(task: Task) -> list[Drawn]:
    """Draw the figures of a task, those that its runs have numbers for."""
    figures = (forget_retain_figure(task), kappa_figure(task), rank_figure(task), time_figure(task))
    return [drawn for drawn in figures if drawn is not None]


def forget_retain_figure(task: Task) -> Drawn | None:
    plane = forget_against_retain(task)
    if not plane.points:
        return None
    title = "Forget score against retain score"
    note = f"{front_note(plane)} Means over the seeds on {images_of(task)}, bars: standard deviation."
    points = []
    for point in plane.points:
        front = ", on the front" if point.front else ""
        points.append(f"{point.label} {point.x.mean:.1f} and {point.y.mean:.1f}{front}")
    alt = f"{title}, percent. {'; '.join(points)}"
    return Drawn("forget_retain", title, note + left_out(plane), forget_retain_picture(task), alt)


def kappa_figure(task: Task) -> Drawn | None:
    figure, lines = kappa_picture(task), kappa_lines(task)
    if figure is None:
        return None
    title = "Over kappa, the number of weights switched off"
    note = "Lines join the means over the seeds, bands reach from the smallest to the largest seed; "
    note += f"{images_of(task)}."
    if len(lines) > MOST_LINES:
        note += f" {MOST_LINES} of {len(lines)} lines are shown."
    return Drawn("kappa", title, note, figure, f"{title}: {', '.join(line.label for line in lines)}")


def rank_figure(task: Task) -> Drawn | None:
    figure = rank_picture(task)
    if figure is None:
        return None
    note = "Lines: 95 % t-interval of the mean over the seeds, cut at the edges. "
    note += "Hollow: a single seed, which has no interval."
    title = "Mean distance from the ideal model"
    return Drawn("ranks", title, note, figure, f"{title}. {SEE_TABLE}")


def time_figure(task: Task) -> Drawn | None:
    plane = time_against_gap(task)
    if not plane.points:
        return None
    note = "Joined: nothing else is both faster and nearer to the ideal model. Bars: standard deviation."
    title = "Time against distance from the ideal model"
    return Drawn("time", title, note + left_out(plane), time_picture(task), f"{title}. {SEE_TABLE}")


def front_note(plane: Plane) -> str:
    if plane.front_reason:
        return f"No Pareto front: {plane.front_reason}."
    note = (
        "Joined: the Pareto front. No other method has both a forget score as near to the ideal model's of "
        "the same seed, in the mean over the seeds, and a retain score as high. It is one of means: points "
        "within each other's bars are not told apart."
    )
    if plane.unjudged:
        note += f" Not judged, for want of an ideal model beside them: {', '.join(plane.unjudged)}."
    return note


def left_out(plane: Plane) -> str:
    return f" Without a finite value and not shown: {', '.join(plane.left_out)}." if plane.left_out else ""


def comparison_page(
    tasks: Sequence[Task], drawn: Mapping[int, Sequence[Drawn]], *, origin: str, command: str
) -> str:
    """Return the page of all tasks. drawn: their figures, by place. origin: a sentence about the runs."""
    return page(
        "comparison.html",
        styles=(style_sheet("page.css"), style_sheet("comparison.css")),
        title="Unlearning methods side by side",
        origin=origin,
        parts=[_part(task, tasks, place, drawn[place]) for place, task in enumerate(tasks)],
        legend=f"{LEGEND}.",
        command=command,
        version=__version__,
    )


def _part(task: Task, tasks: Sequence[Task], place: int, figures: Sequence[Drawn]) -> dict[str, object]:
    pictures = []
    for one in figures:
        svg = Markup(svg_of(one.figure, f"t{place}-{one.name}", one.alt))
        pictures.append({"title": one.title, "note": one.note, "svg": svg})
    return {
        "heading": heading_of(task, tasks),
        "notes": notes_of(task),
        "pictures": pictures,
        "header": list(table_of(task)),
        "rows": rows_of(task),
    }


def notes_of(task: Task) -> list[str]:
    """Return the ideal model's scores, or that there is none, and the limit of a single seed."""
    scores = {
        part: of_base_model(task, "ideal", measured(task, f"{part}_score")) for part in ("forget", "retain")
    }
    said = [f"{name} score {spread(over)} percent" for name, over in scores.items() if over is not None]
    notes = [
        f"The ideal model: {', '.join(said)}."
        if said
        else "No run here has an ideal model: there is no avg_gap and no rank."
    ]
    if len(task.seeds) == 1:
        notes.append("One seed: no interval, and no telling how far another seed would be.")
    return notes


def rows_of(task: Task) -> list[dict[str, object]]:
    rows = marked(task, table_of(task), "{}", "{}" + DAGGER).values.tolist()
    return [{"mark": ranked.mark, "cells": cells} for ranked, cells in zip(task.ranking, rows, strict=True)]
