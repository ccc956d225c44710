"""A finished run as data: what its artifacts and its report are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from base_models import Trained
from identity import CheckedConfig
from intermediate_models import Intermediate
from measurement import Measured
from reporter.run_warning import RunWarning
from unlearn import Unlearned


@dataclass(frozen=True)
class RunRecord:
    """What was asked for, the models, what was measured of them, the seconds of each stage so far, and what
    to warn of.
    """

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
    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        base, initial = self.checked.base, self.initial
        notes = [] if self.ideal else [f"no ideal model to compare with. Make it: {base.ideal_command()}"]
        if initial.metadata and initial.metadata.seed != base.config.seed:
            notes.append(
                f"the initial model in {initial.path} was trained with seed {initial.metadata.seed}, not "
                f"{base.config.seed}"
            )
        return notes
