"""Runs side by side as pictures: planes with a label for each method, curves over kappa, ranks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lethe.evaluation import names_in
from lethe.evaluation.over_seeds import OverSeeds
from lethe.report.comparison import (
    KappaLine,
    Plane,
    Point,
    finite,
    forget_against_retain,
    images_of,
    kappa_lines,
    labelled,
    measured,
    of_base_model,
    seconds_of_ideal,
    time_against_gap,
)
from lethe.report.palette import FORGET, IDEAL, LIGHT, LINES, MARKERS, RETAIN, ROLES, TEST, UNLEARNED
from lethe.report.seeds_summary import RANKED_BY, Task, unit_of

INK, FAINT = LIGHT["ink"], LIGHT["faint"]
STYLE: Any = {
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
SMALL = 7.0  # points: the size of a method's name
GAP = 9.5  # points from one name to the next
WIDTH, PLANE_WIDTH = 7.2, 4.4  # inches: of a picture, and of the part with points in it
LONGEST = 46  # characters of a name's line
MOST_LINES = 16  # over kappa: as many as there are pairs of a colour and a dash
COLOURS = (UNLEARNED, FORGET, RETAIN, TEST)  # with a dash of its own for each line of a colour
BASE_MODELS: tuple[Literal["initial", "ideal"], ...] = ("ideal", "initial")
DASHES = ("-", "--", ":", "-.")
ABREAST = 3  # panels of the picture over kappa


@rc_context(STYLE)
def forget_retain_picture(task: Task) -> Figure:
    """Draw the forget against the retain score: means, standard deviations, the front, base models."""
    plane = forget_against_retain(task)
    figure, axes = plane_axes(plane)
    others = []
    for model in BASE_MODELS:
        x, y = (of_base_model(task, model, metric) for metric in (plane.x_name, plane.y_name))
        if x is not None and y is not None and x.mean is not None and y.mean is not None:
            style: dict[str, Any] = {"color": ROLES[model], "markersize": 9, "zorder": 2}
            axes.plot(x.mean, y.mean, MARKERS[model], label=f"{model} model", **style)
            others.append(y.mean)
    draw_points(axes, plane)
    within(axes, plane, others)
    images = f"percent of {images_of(task)} predicted right"
    axes.set(xlabel=f"forget score ({images})", ylabel="retain score (percent)")
    label_beside(axes, plane.points)
    legend_below(axes)
    return figure


@rc_context(STYLE)
def time_picture(task: Task) -> Figure:
    """Draw the seconds against avg_gap; dashed: training the ideal model."""
    plane = time_against_gap(task)
    figure, axes = plane_axes(plane)
    ideal = seconds_of_ideal(task)
    if ideal is not None and ideal.mean:
        axes.axvline(ideal.mean, color=IDEAL, linestyle="--", linewidth=1, label="training the ideal model")
    draw_points(axes, plane)
    logarithmic(axes)
    within(axes, plane)
    axes.set(xlabel="seconds of unlearning (logarithmic)", ylabel="avg_gap (points from the ideal model)")
    label_beside(axes, plane.points)
    legend_below(axes)
    return figure


def logarithmic(axes: Axes) -> None:
    """Make the x axis logarithmic, with a few plain numbers, also over part of a decade. Draw first."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plane_axes(plane: Plane) -> tuple[Figure, Axes]:
    """Return axes with room on the right for a line of text for each point."""
    height = max(3.4, (len(plane.points) + 1) * gap_of(point.label for point in plane.points) / 72)
    return axes_in_inches(left=0.6, below=0.9, width=PLANE_WIDTH, height=height, above=0.3)


def axes_in_inches(
    *, left: float, below: float, width: float, height: float, above: float
) -> tuple[Figure, Axes]:
    whole = below + height + above
    figure = Figure(figsize=(WIDTH, whole))
    return figure, figure.add_axes((left / WIDTH, below / whole, width / WIDTH, height / whole))


def wrapped(label: str) -> str:
    """Wrap a name; never cut it: methods may differ in their last setting alone."""
    return "\n".join(textwrap.wrap(label, LONGEST, break_on_hyphens=False)) or label


def gap_of(labels: Iterable[str]) -> float:
    """Return the points from one name to the next, for the name of most lines."""
    return GAP * max((wrapped(label).count("\n") + 1 for label in labels), default=1)


def draw_points(axes: Axes, plane: Plane) -> None:
    styles: tuple[tuple[bool, dict[str, Any]], ...] = (
        (True, {"color": UNLEARNED, "label": "on the Pareto front"}),
        (False, {"color": FAINT, "label": "method", "fillstyle": "none"}),
    )
    for front, style in styles:
        points = [point for point in plane.points if point.front == front]
        if points:
            x, y = zip(*(point.at for point in points), strict=True)
            wide, high = [point.x.sd or 0.0 for point in points], [point.y.sd or 0.0 for point in points]
            bars: dict[str, Any] = {"ecolor": FAINT, "alpha": 0.4, "elinewidth": 0.8, "zorder": 1}
            axes.errorbar(x, y, xerr=wide, yerr=high, fmt="none", **bars)
            axes.plot(x, y, "o", markersize=5, zorder=4 if front else 3, **style)
    front_points = sorted(point.at for point in plane.points if point.front)
    if len(front_points) > 1:
        axes.plot(*zip(*front_points, strict=True), "-", color=UNLEARNED, linewidth=0.8, zorder=3)


def within(axes: Axes, plane: Plane, others: Sequence[float] = ()) -> None:
    """Fit the y axis to the means and to `others`; longer bars are cut at its ends."""
    heights = [*(point.at[1] for point in plane.points), *others]
    room = 0.06 * (max(heights) - min(heights)) or 1.0
    axes.set_ylim(min(heights) - room, max(heights) + room)


def label_beside(axes: Axes, points: Sequence[Point]) -> None:
    """Write the names in a column on the right, by height, each with a thin line to its point."""
    low, high = axes.get_ylim()
    height = 72 * inches_high(axes)
    ordered = sorted(points, key=lambda point: (-point.at[1], point.at[0], point.label))
    wanted = [(point.at[1] - low) / (high - low) * height for point in ordered]
    places = spread_out(wanted, gap_of(point.label for point in points), height)
    arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": FAINT, "alpha": 0.5}
    arrow |= {"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
    for point, place in zip(ordered, places, strict=True):
        axes.annotate(
            wrapped(point.label),
            point.at,
            xytext=(1.05, place / height),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            color=INK if point.front else FAINT,
            arrowprops=arrow,
        )


def spread_out(wanted: Sequence[float], gap: float, height: float) -> list[float]:
    """Return places at least `gap` apart near the wanted, descending ones; in 0 to `height` if they fit."""
    places: list[float] = []
    for want in wanted:
        places.append(min(want, places[-1] - gap) if places else min(want, height))
    floor = 0.0
    for number in reversed(range(len(places))):
        places[number] = max(places[number], floor)
        floor = places[number] + gap
    return places


def legend_below(axes: Axes) -> None:
    handles, below = handles_of([axes]), (0.5, -0.5 / inches_high(axes))
    axes.legend(handles.values(), handles, loc="upper center", bbox_to_anchor=below, ncols=2, fontsize=8)


def handles_of(panels: Iterable[Axes]) -> dict[str, Artist]:
    """Return the lines and markers of some axes by label, each once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return found


def inches_high(axes: Axes) -> float:
    figure = axes.figure
    return figure.bbox.height / figure.dpi * axes.get_position().height


@rc_context(STYLE)
def kappa_picture(task: Task) -> Figure | None:
    """Draw each metric of the group "kappa" over the number of weights switched off; None without two of a
    method.

    Lines join the means over the seeds, bands reach from the smallest to the largest seed.
    """
    lines = kappa_lines(task)
    if not lines:
        return None
    names = [wrapped(line.label) for line in lines[:MOST_LINES]]
    legend = (sum(name.count("\n") + 1 for name in names) + len(BASE_MODELS)) * GAP / 72  # inches
    metrics = sorted(names_in("kappa"), key=lambda name: name.partition("_")[0])  # forget, then retain
    rows = len(metrics) // ABREAST + 1  # with a place for the legend
    height = rows * max(2.7, legend + 0.7)
    figure = Figure(figsize=(WIDTH + 1.6, height), layout="constrained")
    panels = list(figure.subplots(rows, ABREAST).flat)
    for axes, name in zip(panels, metrics, strict=False):
        metric = measured(task, name)
        for line, colour, dash in styled(lines):
            draw_line(axes, line.over(metric), colour, dash, line.label)
        for model in BASE_MODELS:
            over = of_base_model(task, model, metric)
            if over is not None and over.mean is not None:
                style: dict[str, Any] = {"color": ROLES[model], "linestyle": LINES[model], "linewidth": 1.6}
                axes.axhline(over.mean, label=f"{model} model", **style)
        part, _, what = name.partition("_")
        axes.set(xlabel="weights switched off", ylabel=f"{what} ({unit_of(name)})", title=part)
        counts = [count for line in lines for count in line.counts]
        if max(counts) >= 10 * min(counts):
            logarithmic(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles = handles_of(panels)
    for axes in panels[len(metrics) :]:
        axes.axis("off")
    panels[-1].legend(handles.values(), map(wrapped, handles), loc="center", fontsize=SMALL)
    return figure


def styled(lines: Sequence[KappaLine]) -> list[tuple[KappaLine, str, str]]:
    """Return at most MOST_LINES lines, each with a colour and a dash of its own."""
    return [
        (line, COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)])
        for n, line in enumerate(lines[:MOST_LINES])
    ]


def draw_line(
    axes: Axes, points: Sequence[tuple[int, OverSeeds]], colour: str, dash: str, label: str
) -> None:
    if not points:
        return
    counts, overs = zip(*points, strict=True)
    lowest, highest = [min(over.values) for over in overs], [max(over.values) for over in overs]
    means = [finite(over) for over in overs]
    axes.fill_between(counts, lowest, highest, color=colour, alpha=0.2, linewidth=0)
    axes.plot(counts, means, dash, marker="o", markersize=3, color=colour, label=label)


@rc_context(STYLE)
def rank_picture(task: Task) -> Figure | None:
    """Draw avg_gap of each method, nearest first, with the 95 % interval of its mean; None without any."""
    gaps = [(label, group.gap) for label, group in labelled(task).items()]
    found = [(label, gap) for label, gap in gaps if gap is not None and gap.mean is not None]
    if not found:
        return None
    height = max(1.5, len(found) * (gap_of(label for label, _ in found) + GAP / 2) / 72)
    figure, axes = axes_in_inches(left=2.6, below=0.95, width=WIDTH - 2.8, height=height, above=0.15)
    means = [finite(over) for _, over in found]
    for place, (_, over) in enumerate(found):
        if over.interval is not None:
            line: dict[str, Any] = {"color": UNLEARNED, "linewidth": 1.4, "alpha": 0.6}
            axes.plot(over.interval, (place, place), "-", label="95 % interval", **line)
        label, style = ("mean over the seeds", "full") if over.interval else ("one seed", "none")
        axes.plot(finite(over), place, "o", color=UNLEARNED, markersize=5, fillstyle=style, label=label)
    axes.axvline(0, color=IDEAL, linestyle=LINES["ideal"], linewidth=1, label="ideal model")
    edge = max(means) * 1.15 or 1.0
    axes.set(xlim=(-0.06 * edge, edge), ylim=(len(found) - 0.5, -0.5))
    axes.set(xlabel=f"{RANKED_BY} (points from the ideal model)", ylabel="method, nearest first")
    axes.set_yticks(range(len(found)), [wrapped(label) for label, _ in found], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    legend_below(axes)
    return figure
