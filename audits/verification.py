"""A run, recomputed: do its numbers follow from its artifacts, and are models, forget list and images the
ones that it names?
"""

from __future__ import annotations

from collections.abc import Callable

from audits.recorded_run import RecordedRun
from audits.verified import Verification
from audits.verified_many import verify_klom, verify_ulira
from audits.verified_model import verify_model
from tracking.record import Record
from training import Progress, silent

KINDS: dict[str | None, Callable[[RecordedRun, Progress], Verification]] = {
    None: verify_model,
    "evaluate": verify_model,
    "klom": verify_klom,
    "ulira": verify_ulira,
}
UNSIGNED = "who made it (nothing in a run is signed: whoever can write to its store and artifacts can make them anew together)"


def verify(record: Record, *, progress: Progress = silent, trust_code: bool = False) -> Verification:
    """Recompute a run's numbers from its artifacts and from what it names: the dataset, the base models'
    checkpoints.

    Runs no code that the run names, unless it is told to trust it. Raises ValueError or FileNotFoundError
    where nothing can be
    recomputed: a run of another kind, one that needs code, an artifact or a dataset that is gone.
    """
    kind = record.tags.get("audit")
    if kind not in KINDS or "dataset" not in record.params:
        raise ValueError(
            f"run {record.run_id}: expected a run of mlflow_forget.py or audit.py, got {kind or 'another'}. "
            "Verify one of those"
        )
    run = RecordedRun(record, trust_code=trust_code)
    done = KINDS[kind](run, progress)
    unseen = [f"{what} {', '.join(names)}" for what, names in run.unseen().items() if names]
    done.unchecked = [*unseen, *done.unchecked, UNSIGNED]
    return done
