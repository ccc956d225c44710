"""Pictures of a run, drawn without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reporter.palette import FORGET, IDEAL, INITIAL, RETAIN, UNLEARNED
from reporter.short_names import shortened

BEFORE, AFTER, REFERENCE = INITIAL, UNLEARNED, IDEAL
MOST_CLASSES = 40
LONGEST_NAME = 24
DPI = 120
PLAIN: Any = {"text.parse_math": False}  # a dollar in a name is a dollar


@rc_context(PLAIN)
def class_probabilities(models: Mapping[str, Sequence[float]], names: Sequence[str], *, title: str) -> Figure:
    """Mean softmax probability of every class on the forget images, a bar for each of up to three models.

    Where there are more than 40 classes, the 40 with the largest bars are shown.
    """
    order = list(range(len(names)))
    if len(names) > MOST_CLASSES:
        order = sorted(sorted(order, key=lambda c: -max(values[c] for values in models.values()))[:MOST_CLASSES])
        title += f" ({MOST_CLASSES} of {len(names)} classes)"
    short = shortened(names, LONGEST_NAME)
    shown = [short[c] for c in order]
    crowded = sum(len(name) + 2 for name in shown) > 60
    below = 0.07 * max(map(len, shown)) if crowded else 0  # inches that turned names take
    figure = Figure(figsize=(max(6.4, 0.3 * len(order) + 2), 4.8 + below), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for number, ((model, values), colour) in enumerate(zip(models.items(), (BEFORE, AFTER, REFERENCE), strict=False)):
        places = [place + (number - (len(models) - 1) / 2) * width for place in range(len(order))]
        axes.bar(places, [values[c] for c in order], width, label=model, color=colour)
    turned: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(order)), shown, **turned)
    axes.set(ylim=(0, 1.02), xlabel="class", ylabel="mean predicted probability (fraction)", title=title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


@rc_context(PLAIN)
def curves_over(points: Sequence[tuple[int, float, float]], initial: Sequence[float], *, title: str, size: int) -> Figure:
    """Forget and retain score over kappa: points (weights switched off, forget score, retain score); dashed: the initial model.

    Several points of one kappa (seeds) are all shown; the lines join their means. `size` is the layer's number of weights.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for column, name, colour, marker in ((1, "forget", FORGET, "o"), (2, "retain", RETAIN, "s")):
        kappas = sorted({point[0] for point in points})
        shares = [100 * kappa / size for kappa in kappas]
        means = []
        for kappa, share in zip(kappas, shares, strict=True):
            values = [point[column] for point in points if point[0] == kappa]
            axes.plot([share] * len(values), values, marker, color=colour, alpha=0.5)
            means.append(sum(values) / len(values))
        axes.plot(shares, means, "-", color=colour, label=f"{name} score")
        axes.axhline(initial[column - 1], linestyle="--", linewidth=1, color=colour, label=f"{name}, initial model")
    axes.set(ylim=(-3, 103), xlabel="weights of the masked layer switched off (percent)", ylabel="score (percent correct)", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
