"""U-LiRA: a per-image attack with shadow models on unlearned images against never-seen images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lethe.evaluation.impl import register
from lethe.evaluation.population import check_margins
from lethe.training import generator_for

SOURCE = "Hayes et al. 2024, arXiv:2403.01218"
LIMIT = 100.0
LEAST_SIDE = 4  # models with an image, and without it, to fit its Gaussians; as many to attack
LEAST_DEVIATION = 1e-6
LEAST_FOR_TPR = 100
RESAMPLES = 1000


class Rates(NamedTuple):
    """Success of an attack on membership: fractions."""

    accuracy: float
    auc: float
    tpr_at_1_fpr: float


@dataclass(frozen=True, eq=False)
class Shadows:
    """The margins of K models after unlearning, and the images that each unlearned.

    margins (K, n) floats, nats. member (K, n) bool: True where model k was trained on image i and unlearned
    it, False where it never saw it. attacked (K,) bool: the attacked models; the others fit the Gaussians.
    Raises ValueError for wrong shapes, NaN, and images with fewer than 4 models of a kind.
    """

    margins: Tensor
    member: Tensor
    attacked: Tensor

    def __post_init__(self) -> None:
        check_margins(self.margins, "shadow margins", minimum=4 * LEAST_SIDE)
        models = len(self.margins)
        for name, value, shape in (
            ("member", self.member, self.margins.shape),
            ("attacked", self.attacked, (models,)),
        ):
            if value.dtype != torch.bool or value.shape != shape:
                raise ValueError(
                    f"{name}: expected bool {tuple(shape)}, got {value.dtype} {tuple(value.shape)}. Give one "
                    "entry per model" + " and image" * (name == "member")
                )
        short = too_few(self.member, self.attacked)
        if short:
            raise ValueError(f"{short}. Train more shadow models")

    @cached_property
    def log_odds(self) -> Tensor:
        """log N_u(m) - log N_r(m) of each attacked model and image, (attacked, n) float64; member above 0."""
        margins = self.margins.double().clamp(-LIMIT, LIMIT)
        fit, member = margins[~self.attacked], self.member[~self.attacked]
        targets = margins[self.attacked]
        return _log_density(targets, fit, member) - _log_density(targets, fit, ~member)

    @cached_property
    def rates(self) -> Rates:
        """The rates over all attacked models and images."""
        weights = torch.ones(int(self.attacked.sum()), dtype=torch.float64)
        return self._ranks.rates(weights)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the rates, by name, within [0, 1].

            rate -+ t(0.975, K - 1) sqrt(K / (K - 1)) sd    sd: over 1,000 resamples of K models of a kind

        Resamples models, not images: the margins of one model are not independent. The Gaussians are not
        refitted, so the interval is that of attacking more models with the same shadow models.
        """
        from scipy.special import stdtrit

        member = self.member[self.attacked]
        strata = [torch.arange(len(member))]
        if (
            member == member[:, :1]
        ).all():  # a model has all images or none: each kind is resampled by itself
            strata = [rows.nonzero().flatten() for rows in (member[:, 0], ~member[:, 0])]
        draw = generator_for(0, "evaluation", "ulira", "interval")
        found = []
        for _ in range(RESAMPLES):
            drawn = torch.cat(
                [rows[torch.randint(len(rows), (len(rows),), generator=draw)] for rows in strata]
            )
            found.append(self._ranks.rates(torch.bincount(drawn, minlength=len(member)).double()))
        rarest = min(map(len, strata))
        halves = (
            torch.tensor(found, dtype=torch.float64).std(0)
            * (rarest / (rarest - 1)) ** 0.5
            * float(stdtrit(rarest - 1, 0.975))
        )
        ends = zip(Rates._fields, self.rates, halves.tolist(), strict=True)
        return {name: (max(0.0, rate - half), min(1.0, rate + half)) for name, rate, half in ends}

    @cached_property
    def _ranks(self) -> _Ranks:
        return _Ranks.of(self.log_odds, self.member[self.attacked])


def too_few(member: Tensor, attacked: Tensor) -> str:
    """Return a message if an image has fewer than 4 models of a kind, to fit or to attack; "" otherwise.

    member (K, n) and attacked (K,) are bool, as in `Shadows`.
    """
    for rows, what in ((~attacked, "fit the Gaussians"), (attacked, "are attacked")):
        for side, words in ((member, "trained on it"), (~member, "not trained on it")):
            fewest = int(side[rows].sum(0).min())
            if fewest < LEAST_SIDE:
                return (
                    f"expected for each image at least {LEAST_SIDE} models {words} that {what}, got {fewest}"
                )
    return ""


def _log_density(at: Tensor, margins: Tensor, chosen: Tensor) -> Tensor:
    """Return the log-density at other margins of each image's Gaussian, fitted to the chosen margins."""
    count = chosen.sum(0)
    center = (margins * chosen).sum(0) / count
    variance = ((margins - center).square() * chosen).sum(0) / (count - 1)
    deviation = variance.sqrt().clamp(min=LEAST_DEVIATION)
    return -0.5 * ((at - center) / deviation).square() - deviation.log()


@dataclass(frozen=True)
class _Ranks:
    """All decisions by the rank of their score, highest first; equal scores share a rank."""

    rank: Tensor
    row: Tensor
    member: Tensor
    above: Tensor  # by rank: 1 for a score above 0, 1/2 for 0, else 0

    @classmethod
    def of(cls, scores: Tensor, member: Tensor) -> _Ranks:
        values, rank = (-scores).flatten().unique(return_inverse=True)
        row = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
        return cls(rank, row, member.flatten(), (1 - values.sign()) / 2)

    def rates(self, weights: Tensor) -> Rates:
        """Return the rates with one weight per model."""
        own = weights[self.row]
        members, others = (self._shares(own * side.double()) for side in (self.member, ~self.member))
        accuracy = ((members * self.above).sum() + (others * (1 - self.above)).sum()) / 2
        not_yet = 1 - others.cumsum(0)
        auc = (members * (not_yet + others / 2)).sum()
        allowed = others.cumsum(0) <= 0.01 + 1e-9
        return Rates(float(accuracy), float(auc), float(members[allowed].sum()))

    def _shares(self, weights: Tensor) -> Tensor:
        counts = torch.bincount(self.rank, weights=weights, minlength=len(self.above))
        return counts / counts.sum()


@register("ulira_accuracy", unit="fraction", better="near 0.5", source=SOURCE)
def ulira_accuracy(shadows: Shadows) -> float:
    """Accuracy of a per-image attack: was the image trained on and unlearned, or never seen?

        p(x) = N_u(m) / (N_u(m) + N_r(m))    m = log(p_y / (1 - p_y)),  member where p > 1/2

    For each forget image, N_u is a Gaussian fitted to the margins of shadow models that were trained with it
    and unlearned it, N_r to those of shadow models that were never trained on it and unlearned something else
    (`--ulira_out retrained`: of retrained models). Half of the models fit the Gaussians, the other half is
    attacked. Members and non-members have equal weight. 0.5 is chance, as for retrained models.
    `ulira_shadows` and an interval are logged with it.

    Trap: unlike the other attacks it fits each image separately: a method may pass `mia` and fail here.

    Raises ValueError for fewer than 4 models a side to fit, or to attack.
    """
    return shadows.rates.accuracy


@register("ulira_auc", unit="fraction", better="near 0.5", source=SOURCE)
def ulira_auc(shadows: Shadows) -> float:
    """AUC of U-LiRA's attack on each image over all attacked models and forget images.

        P(s_member > s_other) + P(s_member = s_other) / 2    s = log N_u(m) - log N_r(m)

    As ulira_accuracy; 0.5 is chance.
    """
    return shadows.rates.auc


@register("ulira_tpr_at_1_fpr", unit="fraction", better="near 0.01", source=SOURCE)
def ulira_tpr_at_1_fpr(shadows: Shadows) -> float:
    """Share of the members that U-LiRA finds at a false-positive rate of 1 %.

        mean over members of 1[s > t]    s = log N_u(m) - log N_r(m)
        t: the smallest with mean over others of 1[s > t] <= 0.01

    As ulira_accuracy; 0.01 is chance. Needs attacks on at least 100 non-members, else raises ValueError.
    """
    others = int((~shadows.member[shadows.attacked]).sum())
    if others < LEAST_FOR_TPR:
        raise ValueError(
            f"expected at least {LEAST_FOR_TPR} attacks on non-members, got {others}. Train more shadow "
            "models"
        )
    return shadows.rates.tpr_at_1_fpr
