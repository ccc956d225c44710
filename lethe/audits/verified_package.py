"""Check that an installed plugin is the one that a run was made with."""

from __future__ import annotations

from typing import Any

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.registry import Registry


def check_package(
    run: RecordedRun, done: Verification, flag: str, registry: Registry[Any], name: str
) -> None:
    """Compare the package that a run recorded with the installed one. Nothing to do for Lethe's own names.

    Raises ValueError if it is not installed.
    """
    wanted = run.recorded(f"{flag}_package")
    if wanted is None:
        return
    if name not in registry:
        raise ValueError(
            f"run {run.record.run_id}: expected {wanted}, which has the {registry.kind} {name!r}, and it is "
            "not installed. Install it"
        )
    done.check(f"package of the {registry.kind}", wanted, registry[name].package)
