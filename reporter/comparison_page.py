"""The comparison of runs as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from registry import __version__
from reporter.comparison import (
    WHOLE_CLASS,
    Plane,
    forget_against_retain,
    kappa_lines,
    measured,
    of_base_model,
    request_kind,
    time_against_gap,
)
from reporter.comparison_pictures import (
    MOST_LINES,
    forget_retain_picture,
    kappa_picture,
    rank_picture,
    time_picture,
)
from reporter.figure_files import svg_of
from reporter.palette import css_variables
from reporter.seeds_summary import Task, heading_of
from reporter.seeds_tables import LEGEND, marked, table_of
from reporter.seeds_text import spread

TEMPLATES = Path(__file__).resolve().parent / "templates"
DAGGER = " †"


@dataclass(frozen=True)
class Drawn:
    """A figure of a task: its file name's last part, what it shows, and how to read it."""

    name: str
    title: str
    note: str
    figure: Figure


def figures_of(task: Task) -> list[Drawn]:
    """The pictures of a task, those that its runs have something for."""
    plane, times = forget_against_retain(task), time_against_gap(task)
    images = "test images" if request_kind(task) == WHOLE_CLASS else "training images"
    found = []
    if plane.points:
        note = f"{front_note(plane)} Means over the seeds on {images}, bars: standard deviation.{left_out(plane)}"
        found.append(
            Drawn("forget_retain", "Forget score against retain score", note, forget_retain_picture(task))
        )
    lines, over_kappa = kappa_lines(task), kappa_picture(task)
    if over_kappa is not None:
        more = f" {MOST_LINES} of {len(lines)} lines are shown." if len(lines) > MOST_LINES else ""
        note = f"Lines join the means over the seeds, bands reach from the smallest to the largest seed; {images}.{more}"
        found.append(Drawn("kappa", "Over kappa, the number of weights switched off", note, over_kappa))
    ranks = rank_picture(task)
    if ranks is not None:
        note = "Lines: 95 % t-interval of the mean over the seeds, cut at the edges. Hollow: a single seed, which has no interval."
        found.append(Drawn("ranks", "Mean distance from the ideal model", note, ranks))
    if times.points:
        note = f"Joined: nothing else is both faster and nearer to the ideal model. Bars: standard deviation.{left_out(times)}"
        found.append(Drawn("time", "Time against distance from the ideal model", note, time_picture(task)))
    return found


def front_note(plane: Plane) -> str:
    if plane.front_reason:
        return f"No Pareto front: {plane.front_reason}."
    return (
        "Joined: the Pareto front, the methods of which no other has both a forget score as near to the "
        "ideal model's of the same seed, "
        "in the mean over the seeds, and a retain score as high. It is one of means: points within each "
        "other's bars are not told apart."
        + (
            f" Not judged, for want of an ideal model beside them: {', '.join(plane.unjudged)}."
            if plane.unjudged
            else ""
        )
    )


def left_out(plane: Plane) -> str:
    return f" Without a finite value and not shown: {', '.join(plane.left_out)}." if plane.left_out else ""


def alt_of(drawn: Drawn, task: Task) -> str:
    """What the picture shows, in words."""
    if drawn.name == "forget_retain":
        plane = forget_against_retain(task)
        points = "; ".join(
            f"{p.label} {p.x.mean:.1f} and {p.y.mean:.1f}{', on the front' if p.front else ''}"
            for p in plane.points
        )
        return f"{drawn.title}, percent. {points}"
    if drawn.name == "kappa":
        return f"{drawn.title}: {', '.join(line.label for line in kappa_lines(task))}"
    return f"{drawn.title}. The table below has the numbers"


def comparison_page(
    tasks: Sequence[Task], drawn: Mapping[int, Sequence[Drawn]], *, origin: str, command: str
) -> str:
    """The page of all tasks. drawn: the figures by a task's place; origin: where the runs are from, in a
    sentence.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    parts = [
        {
            "heading": heading_of(task, tasks),
            "notes": notes_of(task),
            "pictures": [
                {
                    "title": one.title,
                    "note": one.note,
                    "svg": Markup(svg_of(one.figure, f"t{place}-{one.name}", alt_of(one, task))),
                }
                for one in drawn[place]
            ],
            "header": list(table_of(task)),
            "rows": rows_of(task),
        }
        for place, task in enumerate(tasks)
    ]
    title = "Unlearning methods side by side"
    style = Markup(
        css_variables()
        + "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "comparison.css"))
    )
    return environment.get_template("comparison.html").render(
        title=title,
        origin=origin,
        parts=parts,
        legend=f"{LEGEND}.",
        style=style,
        command=command,
        version=__version__,
    )


def notes_of(task: Task) -> list[str]:
    """The ideal model's scores, or that there is none, and what can't be told of a single seed."""
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
