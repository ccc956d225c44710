"""Verify a run: recompute its numbers, and check the digests of its models, forget list and images."""

from __future__ import annotations

from collections.abc import Callable

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.audits.verified_many import verify_klom, verify_ulira
from lethe.audits.verified_model import verify_model
from lethe.tracking.record import Record
from lethe.training import Progress, silent

KINDS: dict[str | None, Callable[[RecordedRun, Progress], Verification]] = {
    None: verify_model,
    "evaluate": verify_model,
    "klom": verify_klom,
    "ulira": verify_ulira,
}
UNSIGNED = (
    "who made it (nothing in a run is signed: whoever can write to its store and artifacts can replace both)"
)


def verify(record: Record, *, progress: Progress = silent, trust_code: bool = False) -> Verification:
    """Recompute a run's numbers from its artifacts, the dataset and the base models' checkpoints.

    Runs the code that the run names only with `trust_code`. Raises ValueError or FileNotFoundError if nothing
    can be recomputed: for a run of another kind, one that needs code, a missing artifact or dataset.
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
