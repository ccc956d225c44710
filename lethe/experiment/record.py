"""A finished run as data, for its artifacts and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lethe.evaluation import Missing
from lethe.experiment.base_models import Trained
from lethe.experiment.identity import CheckedConfig
from lethe.experiment.intermediate_models import Intermediate
from lethe.experiment.measure import Measured
from lethe.report.run_warning import RunWarning
from lethe.unlearn import Unlearned


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
