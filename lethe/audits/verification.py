"""Verify a run: recompute its numbers, and check the digests of its models, forget list and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.seal import check_signature, public_key
from lethe.audits.verified import Verification
from lethe.audits.verified_manifest import check_manifest
from lethe.audits.verified_many import verify_klom, verify_memorisation, verify_ulira
from lethe.audits.verified_model import verify_model
from lethe.commands import named
from lethe.tracking.record import Record
from lethe.training import Progress, silent

KINDS: dict[str | None, Callable[[RecordedRun, Progress], Verification]] = {
    None: verify_model,
    "evaluate": verify_model,
    "klom": verify_klom,
    "ulira": verify_ulira,
    "memorisation": verify_memorisation,
}
UNSIGNED = "who made it (its manifest is not signed, or was not checked with --key)"
NO_MANIFEST = "whether anything was changed since the run ended (an older run, without a manifest)"


def verify(
    record: Record, *, progress: Progress = silent, trust_code: bool = False, key: Path | None = None
) -> Verification:
    """Recompute a run's numbers from its artifacts, the dataset and the base models' checkpoints.

    Compares all that the run logged with its manifest, and the manifest's signature with the public `key`.
    Runs the code that the run names only with `trust_code`. Raises ValueError or FileNotFoundError if nothing
    can be recomputed, for a run of another kind, one that needs code, a missing artifact or dataset; but not
    if the run was changed since it ended: then the changes are the result.
    """
    kind = record.tags.get("audit")
    if kind not in KINDS or "dataset" not in record.params:
        raise ValueError(
            f"run {record.run_id}: expected a run of {named('forget')} or {named('audit')}, got "
            f"{kind or 'another'}. Verify one of those"
        )
    public = None if key is None else public_key(key)
    run = RecordedRun(record, trust_code=trust_code)
    try:
        done = KINDS[kind](run, progress)
    except (ValueError, FileNotFoundError) as error:
        done = _of_manifest_alone(run, error)
    unseen = [f"{what} {', '.join(names)}" for what, names in run.unseen().items() if names]
    done.only_logged = [*unseen, *done.only_logged]
    if not check_manifest(run, done):
        done.unchecked = [*done.only_logged, *done.unchecked, NO_MANIFEST]
        done.only_logged = []
    if public is None:
        done.outside.append(UNSIGNED)
    else:
        check_signature(run, done, public)
    return done


def _of_manifest_alone(run: RecordedRun, error: Exception) -> Verification:
    """Return that a run was not recomputed because of `error`, if it was changed; else raise the error."""
    changed = Verification()
    if not check_manifest(run, changed) or changed.holds:
        raise error
    return Verification(unchecked=[f"its numbers ({error})"])
