"""The page's pictures of losses: of forget and test images, and an attack by them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lethe.evaluation import Outputs
from lethe.report.svg import Key, Panel, Picture, axes, line, outline, rule, ticks

LEAST, MOST = 1e-8, 1e2  # nats; what is beyond is counted at the ends
BINS = 36


def loss_histogram(model: str, forget: Outputs, test: Outputs) -> Picture:
    """Draw histograms of the losses of forget images and of all test images, on a log scale."""
    edges, heights = _edges(), {"forget": _percent(forget), "test": _percent(test)}
    top = 1.05 * max(float(values.max()) for values in heights.values())
    panel = Panel((np.log10(LEAST), np.log10(MOST)), (0, top), height=150)
    decades = [(float(d), _power(d)) for d in range(-8, 3, 2)]
    labels = {"xlabel": "loss, -log p of the true class (nats)", "ylabel": "images (percent)"}
    parts = [axes(panel, decades, ticks(0, top, 4), **labels)]
    parts += [outline(panel, np.log10(edges), values, role) for role, values in heights.items()]
    sets = {"forget": forget, "test": test}
    beyond = sum(int(((own.losses < LEAST) | (own.losses > MOST)).sum()) for own in sets.values())
    medians = ", ".join(f"{role} {float(own.losses.median()):.3g}" for role, own in sets.items())
    alt = f"Histograms of the losses of forget and of test images, {model} model. Medians in nats: {medians}."
    note = f"{beyond:,} images beyond the ends are counted in the outermost bins." if beyond else ""
    keys = tuple(Key(role, f"{role} ({len(own):,})") for role, own in sets.items())
    return Picture(f"losses_{model}", f"Losses: {model} model", alt, parts, panel.bottom + 38, keys, note)


def attack_roc(sets: Mapping[str, tuple[Outputs, Outputs]]) -> Picture:
    """Draw each model's ROC curve of a threshold on the loss, forget images against all test images."""
    panel = Panel((0, 1), (0, 1), height=300)
    xlabel, ylabel = "test images called trained on (fraction)", "forget images called so (fraction)"
    parts = [axes(panel, ticks(0, 1), ticks(0, 1), xlabel=xlabel, ylabel=ylabel)]
    parts.append(rule(panel.across(0), panel.up(0), panel.across(1), panel.up(1), role="faint", dash="2 4"))
    keys = []
    for model, (forget, test) in sets.items():
        false, true = roc(forget, test)
        parts.append(line(panel, false, true, model))
        keys.append(Key(model, f"{model}: AUC {area(false, true):.3f}"))
    alt = "ROC curves of a threshold on the loss. " + "; ".join(key.text for key in keys) + "."
    note = "Dotted: chance. Like the ideal model is the aim; "
    note += "a curve below chance tells the images apart as well as one above."
    title = "A membership attack by the loss"
    return Picture("attack_roc", title, alt, parts, panel.bottom + 38, tuple(keys), note)


def roc(forget: Outputs, test: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of test and forget images with a loss <= t, for every t: from (0, 0) to (1, 1)."""
    own, other = np.sort(forget.losses.numpy()), np.sort(test.losses.numpy())
    thresholds = np.unique(np.concatenate([own, other]))
    false, true = (np.searchsorted(losses, thresholds, side="right") / len(losses) for losses in (other, own))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def area(false: np.ndarray, true: np.ndarray) -> float:
    return float((np.diff(false) * (true[1:] + true[:-1]) / 2).sum())


def _edges() -> np.ndarray:
    return np.geomspace(LEAST, MOST, BINS + 1)


def _percent(outputs: Outputs) -> np.ndarray:
    counts, _ = np.histogram(outputs.losses.numpy().clip(LEAST, MOST), _edges())
    percent: np.ndarray = 100 * counts / max(1, len(outputs))
    return percent


def _power(decade: int) -> str:
    return f"{10.0**decade:g}"
