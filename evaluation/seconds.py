"""What unlearning costs in time, beside training the ideal model."""

from __future__ import annotations

from evaluation.impl import register
from evaluation.model_outputs import ModelOutputs, Times


@register("unlearn_seconds", unit="seconds", better="lower")
def unlearn_seconds(times: Times) -> float:
    """Wall time of the method alone.

        end - start of the method's call; loading, evaluation and tracking are not in it

    Trap: of this machine, as busy as it was.
    """
    return times.unlearn


@register("ideal_seconds", unit="seconds", better="lower")
def ideal_seconds(times: Times, ideal: ModelOutputs) -> float:
    """Wall time of the ideal model's training, as its checkpoint says.

        end - start of the training loop

    Trap: of the machine that trained it, as busy as it was then, and of all its epochs: a shorter recipe may be as good.

    Raises ValueError where the checkpoint does not say it.
    """
    if times.ideal is None:
        raise ValueError("expected an ideal model that knows how long its training took, got one that does not. Train it anew")
    return times.ideal


@register("speedup", unit="ratio", better="higher")
def speedup(times: Times, ideal: ModelOutputs) -> float:
    """How many times faster than retraining the method was.

        ideal_seconds / unlearn_seconds

    Above 1 the method is faster than training the ideal model.

    Trap: the two may have been measured on different machines, or beside other work.

    Raises ValueError where ideal_seconds does, or the method took no time that can be measured.
    """
    if not times.unlearn > 0:
        raise ValueError(f"expected unlearn_seconds above 0, got {times.unlearn}. Measure a method that does something")
    return ideal_seconds(times, ideal) / times.unlearn
