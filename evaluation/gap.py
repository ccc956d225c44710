"""How far a model is from the ideal one, in points."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.evidence import Evidence
from evaluation.impl import register


def mean_gap(values: Sequence[float], ideals: Sequence[float]) -> float:
    """The mean of the absolute differences, in the unit of both.

        sum_k |v_k - i_k| / K

    Raises ValueError if they differ in length or are empty.
    """
    if len(values) != len(ideals) or not values:
        raise ValueError(f"expected as many ideal values as values, at least 1, got {len(ideals)} and {len(values)}. Give both.")
    return sum(abs(value - ideal) for value, ideal in zip(values, ideals, strict=True)) / len(values)


def ua_ra_ta_mia(model: Evidence) -> tuple[float, float, float, float]:
    """UA, RA, TA and MIA, percent.

    UA = 100 - forget_score, RA = retain_score, MIA = mia, TA = test_score, or test_retain_score where a whole class was forgotten.
    """
    ta = "test_retain_score" if model.forget_classes else "test_score"
    return 100 - model.metric("forget_score"), model.metric("retain_score"), model.metric(ta), model.metric("mia")


@register("avg_gap", unit="points", better="lower", source="Fan et al. 2024, arXiv:2310.12508")
def avg_gap(model: Evidence, ideal: Evidence) -> float:
    """Mean absolute difference to the ideal in UA, RA, TA and mia.

    Raises ValueError if the two forgot different classes, or the sets are too small for mia.
    """
    if set(model.forget_classes) != set(ideal.forget_classes):
        raise ValueError(
            f"expected an ideal model without the classes {model.forget_classes}, got one without {ideal.forget_classes}. "
            "Train the ideal model for the same forget request."
        )
    return mean_gap(ua_ra_ta_mia(model), ua_ra_ta_mia(ideal))


@register("rUA", unit="points", better="near 0", source="Dine et al.")
def rua(model: Evidence, ideal: Evidence) -> float:
    """Signed difference of the forget scores.

    forget_score(model) - forget_score(ideal) = -(UA - UA_ideal): positive where the model still knows more than the ideal.
    """
    return model.metric("forget_score") - ideal.metric("forget_score")
