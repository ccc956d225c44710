"""How far the scores of a model are from those of the ideal one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lethe.evaluation.impl import Undecided, register
from lethe.evaluation.model_outputs import ModelOutputs


def mean_gap(values: Sequence[float], ideals: Sequence[float]) -> float:
    """Return the mean absolute difference of two lists.

        sum_k |v_k - i_k| / K

    Raises ValueError if they differ in length or are empty.
    """
    if len(values) != len(ideals) or not values:
        raise ValueError(
            f"expected as many ideal values as values, at least 1, got {len(ideals)} and {len(values)}. Give "
            "both."
        )
    return sum(abs(value - ideal) for value, ideal in zip(values, ideals, strict=True)) / len(values)


def ua_ra_ta(model: ModelOutputs) -> tuple[float, float, float]:
    """Return UA, RA and TA, percent.

    UA = 100 - forget_score, RA = retain_score, TA = test_score, or test_retain_score where a whole class was
    forgotten.
    """
    ta = "test_retain_score" if model.forget_classes else "test_score"
    return 100 - model.metric("forget_score"), model.metric("retain_score"), model.metric(ta)


def ua_ra_ta_mia(model: ModelOutputs) -> tuple[float, float, float, float]:
    """Return UA, RA, TA and MIA = mia, percent. See `ua_ra_ta`."""
    return *ua_ra_ta(model), model.metric("mia")


@register(
    "avg_gap",
    unit="points",
    better="lower",
    source="Fan et al. 2024, arXiv:2310.12508",
    groups=("headline", "summary", "overview"),
)
def avg_gap(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Mean absolute difference to the ideal in UA, RA, TA and mia.

        (|UA - UA_ideal| + |RA - RA_ideal| + |TA - TA_ideal| + |MIA - MIA_ideal|) / 4

    UA = 100 - forget_score, RA = retain_score, MIA = mia, TA = test_score, or test_retain_score where a whole
    class was forgotten.

    Raises ValueError if the models forgot different classes, the sets are too small for mia, or mia is
    undecided for one of the models. Use avg_gap_without_mia then.
    """
    _check_same_request(model, ideal)
    try:
        return mean_gap(ua_ra_ta_mia(model), ua_ra_ta_mia(ideal))
    except Undecided as error:
        raise Undecided("mia is. See avg_gap_without_mia") from error


@register(
    "avg_gap_without_mia",
    unit="points",
    better="lower",
    source="Fan et al. 2024, arXiv:2310.12508, without its fourth term",
    groups=("headline", "summary", "overview"),
)
def avg_gap_without_mia(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Mean absolute difference to the ideal in UA, RA and TA: avg_gap where mia is undecided.

        (|UA - UA_ideal| + |RA - RA_ideal| + |TA - TA_ideal|) / 3

    UA, RA and TA as in avg_gap.

    Trap: do not compare it with avg_gap.

    Raises ValueError if the two forgot different classes.
    """
    _check_same_request(model, ideal)
    return mean_gap(ua_ra_ta(model), ua_ra_ta(ideal))


@register("tow", unit="fraction", better="higher", source="Zhao et al. 2024, arXiv:2406.01257")
def tow(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Tug of war: closeness of forget, retain and test accuracy to the ideal's.

        (1 - |dA_forget|) (1 - |dA_retain|) (1 - |dA_test|)    dA = accuracy - the ideal's, as fractions

    In [0, 1], 1 where all three are equal. The accuracies are forget_score, retain_score and TA, which is
    test_score, or test_retain_score where a whole class was forgotten.

    Raises ValueError if the two forgot different classes.
    """
    _check_same_request(model, ideal)
    return math.prod(
        1 - abs(ours - ideals) / 100 for ours, ideals in zip(ua_ra_ta(model), ua_ra_ta(ideal), strict=True)
    )


def _check_same_request(model: ModelOutputs, ideal: ModelOutputs) -> None:
    if set(model.forget_classes) != set(ideal.forget_classes):
        raise ValueError(
            f"expected an ideal model without the classes {model.forget_classes}, got one without "
            f"{ideal.forget_classes}. Train the ideal model for the same forget request."
        )


@register("rUA", unit="points", better="near 0", source="Dine et al.", groups=("headline",))
def rua(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Signed difference of the forget scores.

        forget_score(model) - forget_score(ideal) = -(UA - UA_ideal)

    Positive where the model still knows more than the ideal, negative where it knows less.

    Trap: a mean over seeds may be 0 though no seed is. Look at the spread too.
    """
    return model.metric("forget_score") - ideal.metric("forget_score")
