"""The picture of a sweep over kappa: forget and retain score over the weights switched off."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from lethe.report.svg import Key, Panel, Picture, axes, box, line, rule, text, ticks

MARK = 5  # units of a point's side


def kappa_curve(
    points: Sequence[tuple[int, float, float]],
    initial: tuple[float, float],
    *,
    title: str,
    size: int,
    note: str = "A point is a run; the lines join the means.",
    chosen: tuple[int, float, float] | None = None,
) -> Picture:
    """Draw forget and retain score over kappa.

    points: (weights switched off, forget score, retain score), several of one kappa for several seeds.
    initial: the two scores of the initial model. size: the layer's number of weights. note: what a point is.
    chosen: the point that was chosen, where one was.
    """
    kappas = sorted({kappa for kappa, _, _ in points})
    shares = [100 * kappa / size for kappa in kappas]
    room = (shares[-1] - shares[0]) * 0.04 or 0.5
    panel = Panel((max(0.0, shares[0] - room), min(100.0, shares[-1] + room)), (-3, 103))
    across, up = ticks(*panel.x, 8), ticks(0, 100)
    xlabel = "weights of the masked layer switched off (percent)"
    parts = [axes(panel, across, up, xlabel=xlabel, ylabel="score (percent correct)")]
    keys, ends = [], []
    for column, role in ((1, "forget"), (2, "retain")):
        own = [(point[0], point[column]) for point in points]
        means = [mean(score for at, score in own if at == kappa) for kappa in kappas]
        parts += [_mark(panel, 100 * kappa / size, score, role) for kappa, score in own]
        parts.append(line(panel, shares, means, role))
        level = panel.up(initial[column - 1])
        parts.append(rule(panel.left, level, panel.right, level, role=role, dash="2 4"))
        keys.append(Key(role, f"{role} score"))
        ends.append(f"{role} from {means[0]:.4g} to {means[-1]:.4g}, initial model {initial[column - 1]:.4g}")
    alt = f"Scores in percent over {len(kappas)} values of kappa: {'; '.join(ends)}."
    note = f"{note} Dotted, thin: the initial model."
    if chosen is not None:
        parts += _chosen(panel, 100 * chosen[0] / size, chosen)
        note = f"{note} Upright: the chosen mask, with its scores, perhaps refined, as large squares."
        alt = f"{alt[:-1]}; chosen: {chosen[0]:,}, forget {chosen[1]:.4g}, retain {chosen[2]:.4g}."
    return Picture("forget_and_retain_over_kappa", title, alt, parts, panel.bottom + 38, tuple(keys), note)


def _chosen(panel: Panel, share: float, point: tuple[int, float, float]) -> list[str]:
    """Return the rule of the chosen mask, its size beside it, and its two scores."""
    at, middle = panel.across(share), panel.left + panel.width / 2
    anchor, beside = ("start", at + 5) if at < middle else ("end", at - 5)
    kappa, forget, retain = point
    return [
        rule(at, panel.top, at, panel.bottom, role="faint", dash="5 3"),
        text(beside, panel.up(50), f"chosen: {kappa:,} weights", anchor=anchor, kind="tick"),
        _mark(panel, share, forget, "forget", side=1.6 * MARK, opacity=1),
        _mark(panel, share, retain, "retain", side=1.6 * MARK, opacity=1),
    ]


def _mark(
    panel: Panel, share: float, score: float, role: str, *, side: float = MARK, opacity: float = 0.5
) -> str:
    x, y = panel.across(share) - side / 2, panel.up(score) - side / 2
    return box(x, y, side, side, role, opacity=opacity)
