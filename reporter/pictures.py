"""Pictures of a run, drawn without a window."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by people with any kind of colour vision.
BEFORE, AFTER, REFERENCE = "#E69F00", "#0072B2", "#7F7F7F"
MOST_CLASSES = 40
DPI = 120


def class_probabilities(after: Sequence[float], before: Sequence[float], names: Sequence[str], *, title: str) -> Figure:
    """Mean softmax probability of every class on the forget images, before and after; the 40 largest where there are more."""
    order = range(len(names))
    if len(names) > MOST_CLASSES:
        order = sorted(sorted(order, key=lambda c: -max(after[c], before[c]))[:MOST_CLASSES])  # type: ignore[assignment]
        title += f" ({MOST_CLASSES} of {len(names)} classes)"
    figure = Figure(figsize=(max(6.4, 0.3 * len(order) + 2), 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(order))
    axes.bar([p - 0.2 for p in places], [before[c] for c in order], 0.4, label="before (initial model)", color=BEFORE)
    axes.bar([p + 0.2 for p in places], [after[c] for c in order], 0.4, label="after (unlearned model)", color=AFTER)
    longest = max(len(names[c]) for c in order)
    axes.set_xticks(
        list(places),
        [names[c] for c in order],
        rotation=0 if longest * len(order) < 60 else 60,
        ha="center" if longest * len(order) < 60 else "right",
    )
    axes.set(ylim=(0, 1.02), xlabel="class", ylabel="mean predicted probability (fraction)", title=title)
    axes.legend()
    return figure


def curves_over(points: Sequence[tuple[int, float, float]], initial: tuple[float, float], *, title: str, size: int) -> Figure:
    """Forget and retain score over kappa: points (weights switched off, forget score, retain score); dashed: the initial model.

    Several points of one kappa (seeds) are all shown; the lines join their means. `size` is the layer's number of weights.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for column, name, colour, marker in ((1, "forget", BEFORE, "o"), (2, "retain", AFTER, "s")):
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
    axes.legend()
    return figure
