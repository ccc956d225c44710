"""Metrics of the least, the middle and the most memorised third of the forget images."""

from __future__ import annotations

from torch import Tensor

from lethe.evaluation.classification import percent
from lethe.evaluation.impl import register
from lethe.evaluation.membership import attacked, called_non_member
from lethe.evaluation.memorisation import Memorisation
from lethe.evaluation.model_outputs import ModelOutputs
from lethe.evaluation.ulira import Shadows

SOURCE = "strata: Zhao et al. 2024, arXiv:2406.01257; scores: Feldman, Zhang 2020, arXiv:2008.03703"
STRATA = ("low", "middle", "high")


def rows_of(stratum: str, memorisation: Memorisation, images: int) -> Tensor:
    """Return the positions of a third of the forget images, by the ranks of their memorisation.

    The sizes of the thirds differ by at most one. Raises ValueError for scores of another number of images,
    and for fewer than 3 images.
    """
    if len(memorisation) != images:
        raise ValueError(
            f"expected the memorisation of the {images} forget images, got that of {len(memorisation)} "
            "images. Give their subset"
        )
    if images < len(STRATA):
        raise ValueError(f"expected at least {len(STRATA)} forget images to divide in thirds, got {images}")
    return memorisation.ranks.argsort().tensor_split(len(STRATA))[STRATA.index(stratum)]


def shadows_of(stratum: str, shadows: Shadows, memorisation: Memorisation) -> Shadows:
    """Return the shadow models with their margins on a third of the forget images. Raises as `rows_of`."""
    rows = rows_of(stratum, memorisation, shadows.margins.shape[1])
    return Shadows(shadows.margins[:, rows], shadows.member[:, rows], shadows.attacked)


def _score(model: ModelOutputs, memorisation: Memorisation, stratum: str) -> float:
    return percent(model.forget.correct[rows_of(stratum, memorisation, len(model.forget))])


def _mia(model: ModelOutputs, memorisation: Memorisation, stratum: str) -> float:
    rows = rows_of(stratum, memorisation, len(model.forget))
    attacked(model, "mia_confidence", lambda outputs: outputs.true_probabilities)  # raises if it is undecided
    return called_non_member(model.attacks["mia_confidence"].scores[rows])


@register(
    "forget_score_memorised_low",
    unit="percent",
    better="near the ideal's",
    source=SOURCE,
    costly=True,
)
def forget_score_memorised_low(model: ModelOutputs, memorisation: Memorisation) -> float:
    """forget_score of the least memorised third of the forget images.

        100 |{(x, y) in low : argmax f(x) = y}| / |low|
        low, middle, high: the thirds of forget by the rank of mem(x); of equal ones the margin form decides
        mem(x) = P(right on x | x in training) - P(right on x | x not in training), over shadow models

    The shadow models are those of `lethe audit memorisation`, if they are there.

    Trap: a model that was retrained is right on these images too: the others explain them. A method that
    drives this score down unlearns too much.

    Raises ValueError for fewer than 3 forget images.
    """
    return _score(model, memorisation, "low")


@register(
    "forget_score_memorised_middle",
    unit="percent",
    better="near the ideal's",
    source=SOURCE,
    costly=True,
)
def forget_score_memorised_middle(model: ModelOutputs, memorisation: Memorisation) -> float:
    """forget_score of the middle third of the forget images, by memorisation.

        100 |{(x, y) in middle : argmax f(x) = y}| / |middle|

    Thirds as for forget_score_memorised_low. Raises ValueError for fewer than 3 forget images.
    """
    return _score(model, memorisation, "middle")


@register(
    "forget_score_memorised_high",
    unit="percent",
    better="near the ideal's",
    source=SOURCE,
    costly=True,
)
def forget_score_memorised_high(model: ModelOutputs, memorisation: Memorisation) -> float:
    """forget_score of the most memorised third of the forget images: those that unlearning has to change.

        100 |{(x, y) in high : argmax f(x) = y}| / |high|

    Thirds as for forget_score_memorised_low. Raises ValueError for fewer than 3 forget images.
    """
    return _score(model, memorisation, "high")


@register("mia_memorised_low", unit="percent", better="near the ideal's", source=SOURCE, costly=True)
def mia_memorised_low(model: ModelOutputs, memorisation: Memorisation) -> float:
    """Percent of the least memorised third of forget that mia_confidence calls non-member.

        100 |{x in low : svc(p_y) = non-member}| / |low|

    The attack is that of mia_confidence. Thirds as for forget_score_memorised_low.

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Raises ValueError as mia_confidence, and for fewer than 3 forget images.
    """
    return _mia(model, memorisation, "low")


@register("mia_memorised_middle", unit="percent", better="near the ideal's", source=SOURCE, costly=True)
def mia_memorised_middle(model: ModelOutputs, memorisation: Memorisation) -> float:
    """Percent of the middle third of forget, by memorisation, that mia_confidence calls non-member.

        100 |{x in middle : svc(p_y) = non-member}| / |middle|

    As mia_memorised_low.
    """
    return _mia(model, memorisation, "middle")


@register("mia_memorised_high", unit="percent", better="near the ideal's", source=SOURCE, costly=True)
def mia_memorised_high(model: ModelOutputs, memorisation: Memorisation) -> float:
    """Percent of the most memorised third of forget that mia_confidence calls non-member.

        100 |{x in high : svc(p_y) = non-member}| / |high|

    As mia_memorised_low.
    """
    return _mia(model, memorisation, "high")


@register("ulira_auc_memorised_low", unit="fraction", better="near 0.5", source=SOURCE)
def ulira_auc_memorised_low(shadows: Shadows, memorisation: Memorisation) -> float:
    """ulira_auc of the least memorised third of the forget images; 0.5 is chance.

        P(s_member > s_other) + P(s_member = s_other) / 2    x in low,  s = log N_u(m) - log N_r(m)

    Thirds as for forget_score_memorised_low, by the memorisation of the shadow models that are not attacked,
    before they unlearn. Raises ValueError for fewer than 3 forget images.
    """
    return shadows_of("low", shadows, memorisation).rates.auc


@register("ulira_auc_memorised_middle", unit="fraction", better="near 0.5", source=SOURCE)
def ulira_auc_memorised_middle(shadows: Shadows, memorisation: Memorisation) -> float:
    """ulira_auc of the middle third of the forget images, by memorisation; 0.5 is chance.

        P(s_member > s_other) + P(s_member = s_other) / 2    x in middle,  s = log N_u(m) - log N_r(m)

    As ulira_auc_memorised_low.
    """
    return shadows_of("middle", shadows, memorisation).rates.auc


@register("ulira_auc_memorised_high", unit="fraction", better="near 0.5", source=SOURCE)
def ulira_auc_memorised_high(shadows: Shadows, memorisation: Memorisation) -> float:
    """ulira_auc of the most memorised third of the forget images; 0.5 is chance.

        P(s_member > s_other) + P(s_member = s_other) / 2    x in high,  s = log N_u(m) - log N_r(m)

    As ulira_auc_memorised_low.
    """
    return shadows_of("high", shadows, memorisation).rates.auc
