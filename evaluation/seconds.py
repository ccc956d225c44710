"""The duration of unlearning, compared with training the ideal model."""

from __future__ import annotations

from lethe.evaluation.impl import register
from lethe.evaluation.model_outputs import ModelOutputs, Times


@register("unlearn_seconds", unit="seconds", better="lower")
def unlearn_seconds(times: Times) -> float:
    """Wall time of the method alone.

        end - start of the method's call, without loading, evaluation and tracking

    Trap: depends on the machine and its load.
    """
    return times.unlearn


@register("ideal_seconds", unit="seconds", better="lower")
def ideal_seconds(times: Times, ideal: ModelOutputs) -> float:
    """Wall time of the ideal model's training, from its checkpoint.

        end - start of the training loop

    Trap: depends on the machine, its load and the number of epochs: a shorter recipe may be as good.

    Raises ValueError if the checkpoint has no duration.
    """
    if times.ideal is None:
        raise ValueError(
            "expected an ideal model with the duration of its training, got one without. Train it anew"
        )
    return times.ideal


@register("speedup", unit="ratio", better="higher")
def speedup(times: Times, ideal: ModelOutputs) -> float:
    """Speed of the method relative to training the ideal model.

        ideal_seconds / unlearn_seconds

    Above 1 the method is faster than training the ideal model.

    Trap: the two may be measured on different machines, or under different load.

    Raises ValueError where ideal_seconds does, or if the method took no measurable time.
    """
    if not times.unlearn > 0:
        raise ValueError(
            f"expected unlearn_seconds above 0, got {times.unlearn}. Measure a method that does something"
        )
    return ideal_seconds(times, ideal) / times.unlearn
