"""Pictures of a masked layer: where the weights are that a mask switches off, and how large they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from reporter.pictures import AFTER, BEFORE, DPI, PLAIN

OFF = "#000000"
# Okabe and Ito's sky blue and orange: as light as each other, so that black stands out against both.
COLOURS = LinearSegmentedColormap.from_list("weights", ("#56B4E9", "#FFFFFF", "#E69F00")).with_extremes(bad=OFF)
PERCENTILE = 99.5
BINS = 60
MOST_PIXELS = 1100
LEAST_PIXELS, MOST_RINGS = 6, 100  # few marks smaller than that get a ring


@rc_context(PLAIN)
def masked_layer_image(weight: Tensor, keep: Tensor, *, title: str) -> Figure:
    """The layer's weights (m, n) in colours, those that `keep` (m, n) bool switches off in black, and how many each neuron loses.

    A row is an output neuron, a column an input neuron. Few marks in a large layer are ringed. The colours end at the 99.5th
    percentile of |w|, so that a few large weights don't pale the others. Raises ValueError for another shape or type, NaN
    and infinities.
    """
    values, off = checked_layer(weight, keep)
    panels = _panels(*off.shape)
    reach = float(np.percentile(abs(values), PERCENTILE)) or 1.0
    image = panels.layer.imshow(
        np.ma.masked_array(values, off),
        cmap=COLOURS,
        norm=Normalize(-reach, reach),
        aspect="auto",
        interpolation="antialiased" if max(off.shape) > MOST_PIXELS else "nearest",
        interpolation_stage="rgba",
    )
    panels.layer.set(xlabel="input neuron", ylabel="output neuron")
    ringed = 0 < off.sum() <= MOST_RINGS and max(off.shape) > MOST_PIXELS // LEAST_PIXELS
    if ringed:
        rows, columns = off.nonzero()
        panels.layer.autoscale(False)
        panels.layer.scatter(columns, rows, s=60, facecolors="none", edgecolors=OFF, clip_on=False)
    _draw_counts(panels.inputs, off.sum(0), "vertical")
    _draw_counts(panels.outputs, off.sum(1), "horizontal")
    clipped = bool((abs(values) > reach).any())
    bar = panels.figure.colorbar(image, cax=panels.colours, extend="both" if clipped else "neither")
    bar.set_label("weight" + (f"; colours end at the\n{PERCENTILE}th percentile of |w|" if clipped else ""))
    plain = title.replace("$", r"\$")  # matplotlib reads formulas where it wraps a text, whatever `PLAIN` says
    panels.figure.suptitle(plain, y=1 - 12 / (DPI * panels.figure.get_figheight()), wrap=True, parse_math=True)
    marked = f"switched off{' (ringed)' if ringed else ''}: {_share(off)}"
    panels.figure.legend(handles=[Patch(color=OFF, label=marked)], loc="lower center", frameon=False)
    return panels.figure


@rc_context(PLAIN)
def weight_histogram(weight: Tensor, keep: Tensor, *, title: str) -> Figure:
    """How large the weights (m, n) of a layer were before, and those among them that `keep` (m, n) bool switches off.

    Counts on a log scale, in the same 60 bins. Weights beyond three times the 99.5th percentile of |w| are counted in the
    outermost bins, and the axis says so. Raises ValueError as masked_layer_image.
    """
    values, off = checked_layer(weight, keep)
    most = float(abs(values).max())
    reach = min(most, 3 * float(np.percentile(abs(values), PERCENTILE)) or most) or 1.0
    edges = np.linspace(-reach, reach, BINS + 1)
    figure = Figure(figsize=(6.4, 4.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    everything, gone = (values.ravel(), f"all: {off.size:,} weights", BEFORE), (values[off], f"switched off: {_share(off)}", AFTER)
    for some, label, colour in (everything, gone):
        counts, _ = np.histogram(some.clip(-reach, reach), edges)
        median = f", median |w| {np.median(abs(some)):.3g}" if some.size else ""
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(counts, edges, color=colour, linewidth=1.5, label=label + median)
    beyond = int((abs(values) > reach).sum())
    axes.set(xlabel="weight" + (f" ({beyond:,} beyond ±{reach:.3g} counted in the outermost bins)" if beyond else ""))
    axes.set(ylabel="weights in a bin (count, log scale)", title=title, yscale="log")
    axes.set_ylim(bottom=0.7)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


@dataclass(frozen=True)
class _Panels:
    """The layer, above it what the input neurons lose, to its right what the output neurons lose, and the colour bar."""

    figure: Figure
    layer: Axes
    inputs: Axes
    outputs: Axes
    colours: Axes


def _panels(rows: int, columns: int) -> _Panels:
    """Every weight gets a whole number of pixels, square where that is neither tiny nor flat; a layer beyond 1100 is scaled down."""
    square = min(MOST_PIXELS // rows, MOST_PIXELS // columns, 30)
    height, width = (MOST_PIXELS if n > MOST_PIXELS else n * max(square, -(-least // n)) for n, least in ((rows, 300), (columns, 400)))
    left, below, above, gap, bars = 110, 140, 60, 12, 90
    colours = left + width + gap + bars + 3 * gap
    size = colours + 140, below + height + gap + bars + above
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)

    def panel(x: int, y: int, wide: int, high: int, **shared: Axes) -> Axes:
        return figure.add_axes((x / size[0], y / size[1], wide / size[0], high / size[1]), **shared)  # type: ignore[call-overload]

    layer = panel(left, below, width, height)
    inputs = panel(left, below + height + gap, width, bars, sharex=layer)
    outputs = panel(left + width + gap, below, bars, height, sharey=layer)
    inputs.tick_params(bottom=False, labelbottom=False)
    outputs.tick_params(left=False, labelleft=False)
    for axis in (layer.xaxis, layer.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    return _Panels(figure, layer, inputs, outputs, panel(colours, below, 20, height))


def _draw_counts(axes: Axes, counts: np.ndarray, orientation: Literal["vertical", "horizontal"]) -> None:
    """A bar for each neuron; the largest count is the axis' only number, since 0 would run into those of the layer."""
    axes.stairs(counts, np.arange(len(counts) + 1) - 0.5, fill=True, color=OFF, orientation=orientation)
    most = int(counts.max())
    axes.spines[["top", "right"]].set_visible(False)
    along = "y" if orientation == "vertical" else "x"
    axes.set(**{f"{along}label": "switched off\n(weights)", f"{along}lim": (0, 1.05 * most or 1), f"{along}ticks": [most] if most else []})


def checked_layer(weight: Tensor, keep: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The weights, and which of them are switched off, as arrays (m, n). ValueError for what is no masked layer."""
    if weight.ndim != 2 or not weight.numel() or not weight.is_floating_point():
        raise ValueError(f"expected weights (m, n), got {weight.dtype} {tuple(weight.shape)}. Give the weight matrix of a linear layer.")
    if keep.shape != weight.shape or keep.dtype != torch.bool:
        raise ValueError(
            f"expected a bool mask of the weights' shape {tuple(weight.shape)}, got {keep.dtype} {tuple(keep.shape)}. "
            "Give the mask that was made for this layer."
        )
    broken = int((~weight.isfinite()).sum())
    if broken:
        raise ValueError(f"expected finite weights, got NaN or infinity for {broken} of {weight.numel()}. Lower the learning rate.")
    return weight.detach().double().cpu().numpy(), ~keep.cpu().numpy()


def _share(off: np.ndarray) -> str:
    return f"{off.sum():,} of {off.size:,} weights ({100 * off.mean():.3g} %)"
