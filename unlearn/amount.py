"""Amounts, as of topk and kappa: a count, a fraction, or a percentage of a layer's weights."""

from __future__ import annotations

import math
from typing import Annotated

from lethe.flag_error import FlagError

AUTO = "auto"  # the method chooses the amount
Amount = Annotated[
    int | float | str, "a count (an integer >= 1), a fraction in (0, 1), or a percentage such as 50%"
]


def count_of(amount: int | float | str, total: int, name: str, also: str = "") -> int:
    """Return the number of weights, of `total`, that an amount means; `name` is its flag, for errors.

    n -> n for an integer 1 <= n <= total; x -> round(x total) for 0 < x < 1; "p%" -> round(p total / 100) for
    0 < p <= 100. Raises ValueError for anything else: 0, negatives, NaN, 1.0, more than there is, and less
    than one weight. also: what else the flag takes, for the message.
    """
    if isinstance(amount, bool):
        raise _refused(amount, total, name, also)
    if isinstance(amount, int):
        count = amount
    elif isinstance(amount, float):
        if not 0 < amount < 1:
            raise _refused(amount, total, name, also)
        count = round(amount * total)
    else:
        count = round(_percentage(amount, total, name, also) * total / 100)
    if not 1 <= count <= total:
        raise _refused(amount, total, name, also)
    return count


def _percentage(text: str, total: int, name: str, also: str) -> float:
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise _refused(text, total, name, also) from None
    if not text.strip().endswith("%") or not math.isfinite(value) or not 0 < value <= 100:
        raise _refused(text, total, name, also)
    return value


def _refused(amount: int | float | str, total: int, name: str, also: str) -> ValueError:
    if amount == 1 and isinstance(amount, float):
        return FlagError(name, f"1.0 could mean one weight or all {total}. Write 1 or 100%")
    return FlagError(
        name,
        f"expected a count from 1 to {total} (the layer's weights), a fraction in (0, 1) of at least "
        f"one weight, or a percentage up to 100%{also}, got {amount}. Correct the amount",
    )
