"""A metric's cell in the tables of the console."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.impl import UNDECIDED, Missing, is_undecided
from reporter.text_table import number


def metric_cell(
    metric: str, values: Mapping[str, float], reasons: Mapping[str, Missing], digits: int = 2
) -> str:
    """A metric of a model in a table: its value, "undecided", or nothing. reasons: why metrics of that model
    have no value, by name.
    """
    return UNDECIDED if is_undecided(metric, reasons) else number(values.get(metric), digits)
