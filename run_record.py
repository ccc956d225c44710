"""A finished run as data, for its artifacts and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from base_models import Trained
from evaluation import Missing
from identity import CheckedConfig
from intermediate_models import Intermediate
from measurement import Measured
from reporter.run_warning import RunWarning
from unlearn import Unlearned


@dataclass(frozen=True)
class RunRecord:
    """The config, the models, their measurements, the seconds of each stage so far, and the warnings."""

    run_id: str
    checked: CheckedConfig
    initial: Trained
    ideal: Trained | None
    unlearned: Unlearned
    measured: Measured
    intermediate: Intermediate
    stages: Mapping[str, float]
    warnings: Sequence[RunWarning]

    @property
    def notes(self) -> list[str | Missing]:
        """Remarks for a reader of the numbers."""
        base, initial = self.checked.base, self.initial
        notes: list[str | Missing] = []
        if self.ideal is None:
            notes.append(Missing("no ideal model to compare with", base.ideal_command()))
        if initial.metadata and initial.metadata.seed != base.config.seed:
            notes.append(
                f"the initial model in {initial.path} was trained with seed {initial.metadata.seed}, not "
                f"{base.config.seed}"
            )
        return notes
