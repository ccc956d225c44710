"""A metric's cell in the tables of the console."""

from __future__ import annotations

from collections.abc import Mapping

from lethe.evaluation.impl import UNDECIDED, Missing, is_undecided, reasons_of
from lethe.report.text_table import number


def metric_cell(
    metric: str,
    values: Mapping[str, float],
    undefined: Mapping[str, Missing],
    model: str = "unlearned",
    digits: int = 2,
) -> str:
    """Return a model's metric for a table: its value, "undecided", or "".

    values: of the model. undefined: the reasons of missing metrics, by logged name.
    """
    if is_undecided(metric, reasons_of(model, undefined)):
        return UNDECIDED
    return number(values.get(metric), digits)
