"""The page's pictures of a masked layer: the weights that are switched off, by neuron and by size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lethe.report.palette import rgb
from lethe.report.svg import WIDTH, Key, Panel, Picture, axes, image, outline, room_for, text, ticks

MOST_PIXELS = 480  # of the layer's picture along one side; a larger layer is scaled down to it
MOST_RINGS = 100
BINS = 48
PERCENTILE = 99.5  # of |w|, where the colours end: a few large weights don't pale the others
# Okabe and Ito's sky blue and orange: as light as each other, so that black stands out against both.
NEGATIVE, ZERO, POSITIVE = rgb("#56B4E9"), rgb("#FFFFFF"), rgb("#E69F00")


@dataclass(frozen=True)
class Layer:
    """A masked linear layer: its weights (m, n) before the mask, and the mask `keep` (m, n), bool."""

    name: str
    weight: Tensor
    keep: Tensor

    @property
    def switched_off(self) -> str:
        """ "819 of 8,192 weights of linear2 are switched off (10 %)"."""
        off, size = int((~self.keep).sum()), self.keep.numel()
        return f"{off:,} of {size:,} weights of {self.name} are switched off ({100 * off / size:.3g} %)"


def layer_map(layer: Layer) -> Picture:
    """Draw each weight as a pixel, black if switched off, and bars of the weights that each neuron loses."""
    values, off = checked_layer(layer.weight, layer.keep)
    rows, columns = off.shape
    height = float(np.clip(246 * rows / columns, 90, 300))
    panel = Panel((-0.5, columns - 0.5), (rows - 0.5, -0.5), left=46, top=54, width=246, height=height)
    parts = [image(panel.left, panel.top, panel.width, panel.height, _pixels(values, off))]
    if 0 < off.sum() <= MOST_RINGS and max(off.shape) > 100:
        parts += [_ring(panel.across(column), panel.up(row)) for row, column in np.argwhere(off)]
    for at, words in _neurons(columns):
        parts.append(text(panel.across(at), panel.bottom + 15, words, kind="tick"))
    for at, words in _neurons(rows):
        parts.append(text(panel.left - 5, panel.up(at) + 3.5, words, anchor="end", kind="tick"))
    parts.append(text(panel.left + panel.width / 2, panel.bottom + 31, "input neuron"))
    parts.append(text(11, panel.top + panel.height / 2, "output neuron", turned=True))
    parts += _losses(panel, off)
    lost = off.sum(1)
    most = [neuron for neuron in np.argsort(-lost, kind="stable")[:5] if lost[neuron]]
    worst = ", ".join(f"{neuron} ({lost[neuron]:,})" for neuron in most) or "none"
    alt = f"The weights of {layer.name}, {rows} x {columns}, those switched off in black. "
    alt += f"{layer.switched_off}. Most at: {worst}."
    note = "Blue: negative, orange: positive, black: switched off. Bars: switched off at each neuron. "
    note = f"{note}Most at the output neurons {worst}." if most else "The mask switches off no weight."
    return Picture("layer", f"Where the mask is: {layer.name}", alt, parts, panel.bottom + 38, note=note)


def weight_sizes(layer: Layer) -> Picture:
    """Draw histograms of all weights and of those switched off, with counts on a log scale."""
    values, off = checked_layer(layer.weight, layer.keep)
    edges, counts = weight_counts(values, off)
    reach = edges[-1]
    heights = {role: np.log10(np.maximum(own, 0.7)) for role, own in counts.items()}
    low, high = np.log10(0.7), max(1.0, float(heights["initial"].max()) * 1.05)
    powers = [(float(power), f"{10**power:,}") for power in range(int(high) + 1)]
    left = room_for(powers)
    panel = Panel((-reach, reach), (low, high), left=left, width=346 - left, height=170)
    parts = [
        axes(panel, ticks(-reach, reach), powers, xlabel="weight", ylabel="weights in a bin (log scale)")
    ]
    parts += [outline(panel, edges, np.maximum(own, low), role, base=low) for role, own in heights.items()]
    keys = (Key("initial", f"all {off.size:,}"), Key("unlearned", f"switched off: {int(off.sum()):,}"))
    kinds = [some for some in (values, values[off]) if some.size]
    medians = "; ".join(f"median size {np.median(abs(some)):.3g} of {some.size:,}" for some in kinds)
    alt = f"Histogram of the weights of {layer.name}, and of those switched off. {medians}"
    beyond, note = int((abs(values) > reach).sum()), ""
    if beyond:
        weights = "weight" if beyond == 1 else "weights"
        note = f"{beyond:,} {weights} beyond ±{reach:.3g} counted in the outermost bins."
    title = f"How large they were: {layer.name}"
    return Picture("layer_weights", title, alt, parts, panel.bottom + 38, keys, note)


def weight_counts(values: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the edges of 48 bins and the counts of all weights ("initial") and those off ("unlearned").

    Larger weights than three times the 99.5th percentile of |w| count in the outermost bins.
    """
    reach = min(float(abs(values).max()), 3 * float(np.percentile(abs(values), PERCENTILE))) or 1.0
    edges = np.linspace(-reach, reach, BINS + 1)
    counted = {"initial": values, "unlearned": values[off]}
    return edges, {role: np.histogram(some.clip(-reach, reach), edges)[0] for role, some in counted.items()}


def checked_layer(weight: Tensor, keep: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and which are switched off, as arrays (m, n). Raises ValueError for other shapes."""
    if weight.ndim != 2 or not weight.numel() or not weight.is_floating_point():
        got = f"{weight.dtype} {tuple(weight.shape)}"
        raise ValueError(f"expected weights (m, n), got {got}. Give the weight matrix of a linear layer.")
    if keep.shape != weight.shape or keep.dtype != torch.bool:
        shape, got = tuple(weight.shape), f"{keep.dtype} {tuple(keep.shape)}"
        raise ValueError(
            f"expected a bool mask of the weights' shape {shape}, got {got}. Give the mask of this layer."
        )
    broken = int((~weight.isfinite()).sum())
    if broken:
        got = f"NaN or infinity for {broken} of {weight.numel()}"
        raise ValueError(f"expected finite weights, got {got}. Lower the learning rate.")
    return weight.detach().double().cpu().numpy(), ~keep.cpu().numpy()


def _pixels(values: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Return the layer in colours that end at the 99.5th percentile of |w|, scaled to 480 pixels a side."""
    reach = float(np.percentile(abs(values), PERCENTILE)) or 1.0
    shares = np.clip(values / reach, -1, 1)
    colours = [np.interp(shares, (-1, 0, 1), levels) for levels in zip(NEGATIVE, ZERO, POSITIVE, strict=True)]
    pixels = np.stack(colours, axis=-1).round().astype(np.uint8)
    pixels[off] = 0
    edges = [np.unique(np.linspace(0, n, min(n, MOST_PIXELS) + 1).astype(int)) for n in off.shape]
    if any(len(edge) - 1 < n for edge, n in zip(edges, off.shape, strict=True)):
        sums = pixels.astype(float)
        for axis, edge in enumerate(edges):
            sums = np.add.reduceat(sums, edge[:-1], axis=axis)
        sizes = np.outer(np.diff(edges[0]), np.diff(edges[1]))
        pixels = np.round(sums / sizes[:, :, None]).astype(np.uint8)
    scaled: np.ndarray = pixels
    return scaled


def _losses(panel: Panel, off: np.ndarray) -> list[str]:
    """Draw bars above the layer for the input neurons, to its right for the output neurons.

    One of many bars is the most of several neurons.
    """
    parts = []
    for axis, room in ((0, 34), (1, 40)):
        counts = off.sum(axis)
        stretches = np.array_split(counts, min(len(counts), 123))
        tallest = max(1, int(counts.max()))
        along = (panel.width if axis == 0 else panel.height) / len(stretches)
        sizes = [room * int(stretch.max()) / tallest for stretch in stretches]
        for k, size in enumerate(sizes):
            if size and axis == 0:
                parts.append(_bar(panel.left + k * along, panel.top - 6 - size, along, size))
            elif size:
                parts.append(_bar(panel.right + 6, panel.top + k * along, size, along))
        if axis == 0:
            most = f"most at an input: {counts.max():,}"
            parts.append(text(panel.left, panel.top - 6 - room - 5, most, anchor="start", kind="tick"))
        else:
            most = f"most: {counts.max():,}"
            parts.append(text(WIDTH - 4, panel.bottom + 15, most, anchor="end", kind="tick"))
    return parts


def _bar(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="var(--ink)"/>'


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#000000"/>'


def _neurons(count: int) -> list[tuple[float, str]]:
    return ticks(0, count - 1, 4, whole=True)
