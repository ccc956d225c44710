"""The memorisation audit: how much each training image's prediction depends on training on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lethe.audits.many_models import AuditResult, begun, log_kept, log_margins, log_result, origin
from lethe.data import DATASETS
from lethe.evaluation import Missing
from lethe.evaluation.memorisation import Memorisation, memorisation, reliability
from lethe.experiment.artifacts import PICTURES
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.identity import base_params, code_tags
from lethe.experiment.memorised import (
    MEMORISATION_FILE,
    SHADOWS,
    Answers,
    answers_of,
    checked_shadows,
    memorisation_csv,
)
from lethe.experiment.model_sets import train_set
from lethe.experiment.warnings import unreliable
from lethe.report.memorised_images import memorised_pictures
from lethe.report.run_facts import ForgetImages
from lethe.report.run_warning import in_one_line
from lethe.report.svg_file import svg_file
from lethe.system.timed import timed
from lethe.tracking.run import TrackedRun
from lethe.tracking.store import check_store
from lethe.tracking.stored_run import WARNING_TAG
from lethe.training import Progress, silent

CORRECT, MARGINS, MEMBER = "shadow_correct.npy", "shadow_margins.npy", "member.npy"
RELIABILITY = "memorisation_reliability"


@dataclass(frozen=True)
class MemorisationConfig:
    """The recipe of the shadow models, and their number. The forget request of `base` does not matter."""

    base: BaseConfig = field(default_factory=BaseConfig)
    shadows: int = SHADOWS
    experiment: str | None = None


class MemorisationAudit:
    """Trains the shadow models that are missing, and scores every training image.

    Raises ValueError or FileNotFoundError for a user's mistake, before anything is trained.
    """

    def __init__(self, config: MemorisationConfig, *, progress: Progress = silent) -> None:
        self.config = config
        self.base = BaseModels(config.base, progress=progress)
        self.specs = checked_shadows(self.base, config.shadows)
        self.experiment = config.experiment or f"{self.base.splits.dataset}-{self.base.architecture.name}"
        check_store(self.experiment)
        self.stages: dict[str, float] = {}

    @property
    def name(self) -> str:
        return f"memorisation {self.config.shadows} shadows seed{self.config.base.seed}"

    def run(self) -> AuditResult:
        """Run the audit in one MLflow run."""
        started = time.perf_counter()
        self.stages = {}
        base, entries = self.base, [self.base.architecture, DATASETS[self.config.base.dataset]]
        own = {"shadows": self.config.shadows, "split": base.splits.digest, "experiment": self.experiment}
        params = base_params(base) | own
        with begun(base, "memorisation", self.name, params, self.experiment, code_tags(), entries) as run:
            with timed(self.stages, "shadows"):
                train_set(base, "shadows", self.config.shadows)
            with timed(self.stages, "evaluate"):
                answers = answers_of(base, self.specs)
                found = memorisation(answers.correct, answers.margins, answers.member)
                values, undefined = values_of(answers.correct, answers.member)
            warnings = unreliable(values.get(RELIABILITY), self.config.shadows)
            run.tags({WARNING_TAG: in_one_line(warnings)} if warnings else {})
            rows = self._log(run, answers, found)
            self.stages["total"] = time.perf_counter() - started
            result = AuditResult(
                run.run_id,
                self.name,
                values,
                beside_of(found),
                undefined,
                [*self._notes(), *(f"warning: {warning.text}" for warning in warnings)],
                self.stages,
                models=rows,
            )
            log_result(run, result)
        return result

    def _log(self, run: TrackedRun, answers: Answers, found: Memorisation) -> list[dict[str, Any]]:
        """Log the table of images, the answers, the models and the pictures; return a row for each model."""
        base, train = self.base, self.base.splits.train
        rows = [{"trained_on": spec.trained_on, **origin(spec)} for spec in self.specs]
        arrays = {
            CORRECT: answers.correct.numpy(),
            MARGINS: answers.margins.numpy(),
            MEMBER: answers.member.numpy(),
        }
        log_margins(run, base, {"train": train}, rows, arrays)
        content = memorisation_csv(found, train, base.splits.class_names).encode()
        log_kept(run, {MEMORISATION_FILE: content})
        images = ForgetImages(train.images, train.normalisation.white, train.indexes)
        pictures = memorised_pictures(found, images, train.labels, base.splits.class_names)
        about = f"{base.splits.dataset}, {base.architecture.name}, {self.name}"
        for picture in pictures:
            run.text(svg_file(picture, about), f"{PICTURES}/{picture.name}.svg")
        return rows

    def _notes(self) -> list[str]:
        half = self.config.shadows // 2
        return [
            f"for each training image about {half} models that were trained on it, beside {half} that were "
            "not; the scores are those of models trained on half of the images"
        ]


def values_of(correct: Tensor, member: Tensor) -> tuple[dict[str, float], dict[str, Missing]]:
    """Return the split-half reliability of the scores, or why there is none."""
    try:
        return {RELIABILITY: reliability(correct, member)}, {}
    except ValueError as error:
        return {}, {RELIABILITY: Missing(str(error))}


def beside_of(found: Memorisation) -> dict[str, float]:
    """Return the number and the share of the shadow models, the mean score, and the largest error."""
    return {
        "memorisation_shadows": float(found.shadows),
        "memorisation_share": found.share,
        "memorisation_mean_score": float(found.scores.mean()),
        "memorisation_largest_error": float(found.standard_errors.max()),
    }
