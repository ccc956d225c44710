"""The page's pictures of predictions: for the forget images, and the confusion of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lethe.evaluation import Outputs
from lethe.report.palette import UNLEARNED, rgb
from lethe.report.short_names import shortened
from lethe.report.svg import CHARACTER, WIDTH, Key, Panel, Picture, apart, box, image, rule, text, ticks

MOST_BARS = 20
MOST_CELLS = 20  # classes that each get a row and a column
NUMBERED = 12  # with so many cells a side a number has room
BLOCKS = 100  # beyond, several classes share one
LONGEST_NAME = 14


def class_bars(models: Mapping[str, Outputs], names: Sequence[str]) -> Picture:
    """Draw the mean probability of each class on the forget images, by model; at most 20 classes."""
    means = {model: outputs.probabilities.mean(0).numpy() for model, outputs in models.items()}
    order = list(range(len(names)))
    if len(names) > MOST_BARS:
        largest = np.max(list(means.values()), axis=0)
        order = sorted(sorted(order, key=lambda c: -largest[c])[:MOST_BARS])
    short = shortened(names, LONGEST_NAME)
    rows = [(short[c], {model: float(values[c]) for model, values in means.items()}) for c in order]
    if len(names) > len(order):
        rest = {model: max(0.0, 1 - sum(float(values[c]) for c in order)) for model, values in means.items()}
        rows.append((f"{len(names) - len(order):,} others", rest))
    left = 22 + CHARACTER * max(len(name) for name, _ in rows) + 6
    row, bar = 8 * len(models) + 6, 8
    panel = Panel((0, 1), (0, 1), left=left, width=WIDTH - left - 14, height=row * len(rows))
    parts = []
    for at, words in apart([(panel.across(at), words) for at, words in ticks(0, 1)]):
        parts += [rule(at, panel.top, at, panel.bottom), text(at, panel.bottom + 15, words, kind="tick")]
    for number, (name, values) in enumerate(rows):
        top = panel.top + number * row + 3
        parts.append(text(left - 6, top + bar * len(models) / 2 + 4, name, anchor="end", kind="tick"))
        parts += [
            box(left, top + bar * k, panel.across(v) - left, bar - 1, model)
            for k, (model, v) in enumerate(values.items())
        ]
    parts.append(
        text(panel.left + panel.width / 2, panel.bottom + 31, "mean predicted probability (fraction)")
    )
    parts.append(text(11, panel.top + panel.height / 2, "class", turned=True))
    tops = ", ".join(f"{m}: {short[int(v.argmax())]} {v.max():.2f}" for m, v in means.items())
    alt = f"Bars of the mean probability of each class on the forget images. Most probable: {tops}."
    note, keys = "", tuple(Key(model, model, filled=True) for model in models)
    if len(names) > MOST_BARS:
        note = f"The {MOST_BARS} of {len(names):,} classes with the longest bars, and all others together."
    title = "What the forget images are taken for"
    return Picture("class_probabilities", title, alt, parts, panel.bottom + 38, keys, note)


def confusion(model: str, outputs: Outputs, names: Sequence[str]) -> Picture:
    """Draw predicted against true class, percent of the true class; beyond 20 classes in blocks."""
    counts = confusion_counts(outputs)
    name, title = f"confusion_{model}", f"Confusion of test images: {model} model"
    right = 100 * counts.diagonal().sum() / max(1, counts.sum())
    alt = f"Matrix of true against predicted class on the test images, {model} model: "
    alt += f"{right:.2f} percent on the diagonal."
    if len(names) <= MOST_CELLS:
        parts, height = _cells(counts, names)
        return Picture(name, title, alt, parts, height, note="Percent of the true class's test images.")
    blocks = min(BLOCKS, len(names))
    edges = np.linspace(0, len(names), blocks + 1).astype(int)
    grouped = np.add.reduceat(np.add.reduceat(counts, edges[:-1], axis=0), edges[:-1], axis=1)
    parts, height = _blocks(shares(grouped), len(names))
    return Picture(name, title, alt, parts, height, note=_block_note(len(names), blocks, right))


def confusion_counts(outputs: Outputs) -> np.ndarray:
    """Return the number of images by true class (row) and predicted class (column), (C, C)."""
    classes = outputs.classes
    pairs = outputs.labels * classes + outputs.logits.argmax(1)
    return np.bincount(pairs.cpu().numpy(), minlength=classes**2).reshape(classes, classes)


def shares(counts: np.ndarray) -> np.ndarray:
    """Return each row as fractions of its sum; a row without images stays 0."""
    fractions: np.ndarray = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return fractions


def _cells(counts: np.ndarray, names: Sequence[str]) -> tuple[list[str], float]:
    """The matrix and its height."""
    fractions, own = shares(counts), shortened(names, LONGEST_NAME)
    left, classes = 24 + CHARACTER * max(map(len, own)) + 4, (0, len(own))
    width = WIDTH - left - 8
    panel = Panel(classes, classes, left=left, width=width, height=min(width, 26 * len(own)))
    wide, high = panel.width / len(own), panel.height / len(own)
    parts = [box(panel.left, panel.top, panel.width, panel.height, "ground")]
    for row, line in enumerate(fractions):
        y = panel.top + row * high
        parts.append(text(left - 5, y + high / 2 + 4, own[row], anchor="end", kind="tick"))
        for column, share in enumerate(line):
            if counts[row, column]:
                x, opacity = panel.left + column * wide, max(0.08, float(share))
                parts.append(box(x + 0.5, y + 0.5, wide - 1, high - 1, "unlearned", opacity=opacity))
                if len(own) <= NUMBERED:
                    percent = f"{100 * share:.0f}" if round(100 * share) else "·"
                    kind = "on" if share > 0.5 else "in"
                    parts.append(text(x + wide / 2, y + high / 2 + 4, percent, kind=kind))
    turned = max(map(len, own)) * CHARACTER > wide
    for column, name in enumerate(own):
        x = panel.left + (column + 0.5) * wide
        at = (x + 4, panel.bottom + 6) if turned else (x, panel.bottom + 15)
        parts.append(text(*at, name, anchor="end" if turned else "middle", kind="tick", turned=turned))
    below = panel.bottom + (10 + CHARACTER * max(map(len, own)) if turned else 20)
    parts.append(text(panel.left + panel.width / 2, below + 12, "predicted class"))
    parts.append(text(11, panel.top + panel.height / 2, "true class", turned=True))
    return parts, below + 20


def _blocks(fractions: np.ndarray, classes: int) -> tuple[list[str], float]:
    """The matrix and its height."""
    panel = Panel((0, classes), (0, classes), left=52, width=WIDTH - 52 - 14, height=WIDTH - 52 - 14)
    pixels = np.empty((*fractions.shape, 4), dtype=np.uint8)
    pixels[..., :3] = rgb(UNLEARNED)
    pixels[..., 3] = np.round(255 * np.sqrt(fractions))
    parts = [box(panel.left, panel.top, panel.width, panel.height, "ground")]
    parts.append(image(panel.left, panel.top, panel.width, panel.height, pixels))
    for at, words in ticks(0, classes - 1, whole=True):
        parts.append(text(panel.across(at), panel.bottom + 15, words, kind="tick"))
        y = panel.top + panel.height * at / classes + 4
        parts.append(text(panel.left - 5, y, words, anchor="end", kind="tick"))
    parts.append(text(panel.left + panel.width / 2, panel.bottom + 31, "predicted class"))
    parts.append(text(11, panel.top + panel.height / 2, "true class", turned=True))
    return parts, panel.bottom + 38


def _block_note(classes: int, blocks: int, right: float) -> str:
    each = f", {classes / blocks:.3g} classes a block" if classes > blocks else ""
    share = f"Share of the true class's test images{each}, darker for more (square root)."
    return f"{share} On the diagonal of single classes: {right:.2f} %."
