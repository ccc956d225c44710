"""Memorisation of training images: how much the answer on an image depends on training on that image."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lethe.evaluation.population import check_margins

LIMIT = 100.0  # nats; larger margins, and infinite ones, count as this
FEWEST = 2  # models with an image, and without it: one has no spread


@dataclass(frozen=True, eq=False)
class Memorisation:
    """The memorisation of N images, measured by models that were trained on random parts of them.

        scores = p_in - p_out                                             in [-1, 1]
        standard_errors = sqrt(p_in (1 - p_in) / n_in + p_out (1 - p_out) / n_out)
        margin_scores = mean_in m - mean_out m                            nats
        margin_errors = sqrt(s_in^2 / n_in + s_out^2 / n_out)             nats
        out_losses = mean_out log(1 + exp(-m)) = mean_out -log p_y        nats

    p_in and p_out are the shares of the models trained with the image, and without it, that predict its
    label. m is the margin log(p_y / (1 - p_y)), s its standard deviation over these models. All have the
    shape (N,), float64; n_in and n_out are the numbers of models, int64.

    shadows: the number of models. share: the part of the images that each is trained on. Scores of different
    shares are not comparable.

    Source: Feldman and Zhang 2020, arXiv:2008.03703. They train on 70 % of the images.
    """

    scores: Tensor
    standard_errors: Tensor
    margin_scores: Tensor
    margin_errors: Tensor
    n_in: Tensor
    n_out: Tensor
    shadows: int
    share: float
    out_losses: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def ranks(self) -> Tensor:
        """(N,) int64, 0 for the least memorised image. Of equal scores the margin form decides."""
        by_margin = self.margin_scores.argsort(stable=True)
        order = by_margin[self.scores[by_margin].argsort(stable=True)]
        return order.argsort()

    def subset(self, rows: Tensor) -> Memorisation:
        """Select images by their positions."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {
            name: value[rows] for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **chosen)


def memorisation(correct: Tensor, margins: Tensor, member: Tensor) -> Memorisation:
    """Return the memorisation of each image. See `Memorisation` for the formulas.

    correct (K, N) bool: whether model k predicts the label of image i. margins (K, N) floats, nats.
    member (K, N) bool: whether model k was trained on image i. Raises ValueError for other shapes and types,
    NaN, and images with fewer than 2 models of a kind.
    """
    check_margins(margins, "margins of the shadow models", minimum=2 * FEWEST)
    _check(correct, margins, "correct")
    _check(member, margins, "member")
    short = too_few(member)
    if short:
        raise ValueError(f"{short}. Train more shadow models")
    right, margins = correct.double(), margins.double().clamp(-LIMIT, LIMIT)
    n_in, n_out = member.sum(0), (~member).sum(0)
    p_in, p_out = _mean(right, member), _mean(right, ~member)
    of_shares = p_in * (1 - p_in) / n_in + p_out * (1 - p_out) / n_out
    of_margins = _variance(margins, member) / n_in + _variance(margins, ~member) / n_out
    return Memorisation(
        scores=p_in - p_out,
        standard_errors=of_shares.sqrt(),
        margin_scores=_mean(margins, member) - _mean(margins, ~member),
        margin_errors=of_margins.sqrt(),
        n_in=n_in,
        n_out=n_out,
        shadows=len(member),
        share=float(member.double().mean()),
        out_losses=_mean(torch.nn.functional.softplus(-margins), ~member),
    )


def reliability(correct: Tensor, member: Tensor) -> float:
    """Return the split-half reliability of the scores.

        Spearman's correlation of the scores by one half of the models with those by the other half

    correct, member (K, N) bool, as in `memorisation`. Models come in pairs of complementary parts: every
    second pair is in the second half. Leaves out images without a model of a kind in one half. Raises
    ValueError for fewer than 4 models, and where the scores of a half are all the same.
    """
    if len(member) < 2 * FEWEST:
        raise ValueError(
            f"expected at least {2 * FEWEST} shadow models to split in two, got {len(member)}. Train more"
        )
    second = torch.arange(len(member)) // 2 % 2 == 1
    halves = [_scores(correct[rows].double(), member[rows]) for rows in (~second, second)]
    known = halves[0].isfinite() & halves[1].isfinite()
    return spearman(halves[0][known], halves[1][known])


def spearman(one: Tensor, other: Tensor) -> float:
    """Return the correlation of the ranks of two (N,), equal values with the mean of their ranks.

    Raises ValueError where all values of a side are the same.
    """
    ranks = torch.stack([_mean_ranks(one), _mean_ranks(other)])
    ranks -= ranks.mean(1, keepdim=True)
    lengths = ranks.norm(dim=1)
    if not lengths.prod() > 0:
        raise ValueError("all images have the same score, so that none comes before another")
    return float(ranks[0] @ ranks[1] / lengths.prod())


def too_few(member: Tensor) -> str:
    """Return a message if an image has fewer than 2 models with it, or without it; "" otherwise.

    member (K, N) is bool, as in `memorisation`.
    """
    for side, words in ((member, "trained on it"), (~member, "not trained on it")):
        fewest = int(side.sum(0).min())
        if fewest < FEWEST:
            return f"expected for each image at least {FEWEST} shadow models {words}, got {fewest}"
    return ""


def _check(value: Tensor, margins: Tensor, name: str) -> None:
    if value.dtype != torch.bool or value.shape != margins.shape:
        raise ValueError(
            f"{name}: expected bool {tuple(margins.shape)}, got {value.dtype} {tuple(value.shape)}. Give one "
            "entry per model and image"
        )


def _scores(right: Tensor, member: Tensor) -> Tensor:
    return _mean(right, member) - _mean(right, ~member)


def _mean_ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum(0) / chosen.sum(0)


def _variance(values: Tensor, chosen: Tensor) -> Tensor:
    squares = ((values - _mean(values, chosen)).square() * chosen).sum(0)
    return squares / (chosen.sum(0) - 1)
