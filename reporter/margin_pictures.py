"""Pictures of margins: how sure a model is of the true class, before and after unlearning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from reporter.pictures import AFTER, BEFORE, DPI, PLAIN, REFERENCE

MOST_NATS = 100.0  # as KLoM clips; a probability beyond is within 1e-43 of 0 or 1
BINS = 40

Margins = Mapping[str, Sequence[float] | Tensor]


@rc_context(PLAIN)
def margin_histograms(before: Margins, after: Margins, ideal: Margins | None, *, title: str) -> Figure:
    """Histograms of margins, percent of images in a bin: a panel for each set of images, all over the same bins.

        margin = logit_y - logsumexp of the other logits = log(p_y / (1 - p_y))    nats

    Each mapping is one model's: from the name of a set ("forget images") to the margins (N,) of its images. Margins beyond
    ±100, infinite ones too, are counted in the outermost bins, and the axis says so. Raises ValueError where the models
    differ in their sets or numbers of images, for an empty set, and for NaN.
    """
    named = {"initial model": before, "unlearned model": after} | ({} if ideal is None else {"ideal model": ideal})
    models = {model: {name: _values(model, name, margins) for name, margins in sets.items()} for model, sets in named.items()}
    _check_same_images({model: {name: len(margins) for name, margins in sets.items()} for model, sets in models.items()})
    edges = _bins(np.concatenate([margins for sets in models.values() for margins in sets.values()]))
    figure = Figure(figsize=(4.8 * len(before), 5), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(before), sharex=True, squeeze=False)[0]
    for axes, name in zip(panels, before, strict=True):
        for (model, sets), (colour, line) in zip(models.items(), ((BEFORE, "-"), (AFTER, "-"), (REFERENCE, "--")), strict=False):
            counts, _ = np.histogram(sets[name].clip(edges[0], edges[-1]), edges)
            percent = 100 * counts / len(sets[name])
            if colour != REFERENCE:
                axes.stairs(percent, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(percent, edges, color=colour, linestyle=line, linewidth=1.5, label=f"{model}: median {_median(sets[name])}")
        axes.axvline(0, color="black", linestyle=":", linewidth=1)
        axes.set(title=f"{name} ({len(models['initial model'][name]):,})", ylabel="images (percent)")
        axes.set_xlabel(_axis([sets[name] for sets in models.values()]))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.suptitle(title)
    return figure


def _values(model: str, name: str, margins: Sequence[float] | Tensor) -> np.ndarray:
    values = torch.as_tensor(margins, dtype=torch.float64).detach().cpu().numpy()
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected margins (N,) of {name}, {model}, got shape {values.shape}. Give one number for each image.")
    broken = int(np.isnan(values).sum())
    if broken:
        raise ValueError(f"expected margins of {name}, {model}, got NaN for {broken} of {len(values)}. Lower the learning rate.")
    return values


def _check_same_images(counts: Mapping[str, Mapping[str, int]]) -> None:
    expected = counts["initial model"]
    if not expected:
        raise ValueError("expected at least 1 set of images, got none. Give margins by the name of a set.")
    for model, own in counts.items():
        if own != expected:
            raise ValueError(
                f"expected margins of the same images, got {expected} for the initial and {own} for the {model}. Use one split."
            )


def _bins(margins: np.ndarray) -> np.ndarray:
    """The edges of about 40 bins over all margins, 0 among them."""
    least, most = min(-1.0, margins.min()), max(1.0, margins.max())
    least, most = max(least, -MOST_NATS), min(most, MOST_NATS)
    width = (most - least) / BINS
    return width * np.arange(np.floor(least / width), np.ceil(most / width) + 1)


def _axis(models: Sequence[np.ndarray]) -> str:
    beyond = sum(int((abs(margins) > MOST_NATS).sum()) for margins in models)
    note = f"; {beyond:,} beyond ±{MOST_NATS:.0f} counted at the ends" if beyond else ""
    return f"margin (nats{note})\ndotted: 0, the true class has probability 1/2"


def _median(margins: np.ndarray) -> str:
    # of the middle two the lower one: their mean is no number where they are infinite and differ in sign
    return f"{np.sort(margins)[(len(margins) - 1) // 2]:,.2f}"
