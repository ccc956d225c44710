"""Compare a run with its manifest: what was changed, added or removed since the run ended."""

from __future__ import annotations

from collections.abc import Mapping

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.tracking.manifest import MANIFEST, Manifest, file_digest, points_in_words
from lethe.tracking.record import Record
from lethe.tracking.stored_run import RUN_NAME_TAG

ADDED = "none when the run ended"


def check_manifest(run: RecordedRun, done: Verification) -> bool:
    """Compare artifacts, params, tags, metrics and images with the manifest. Returns whether there is one.

    A run of an earlier version has none.
    """
    if not run.has(MANIFEST):
        return False
    try:
        manifest = Manifest.of_json(run.content(MANIFEST))
    except ValueError as error:
        done.check(MANIFEST, "the manifest of a run", str(error))
        return True
    record = run.record
    done.check("run that the manifest is of", record.run_id, manifest.run_id)
    if RUN_NAME_TAG in manifest.tags:
        done.check("name of the run, since the run ended", manifest.tags[RUN_NAME_TAG], record.name)
    _compare(done, "artifact", manifest.artifacts, _digests(run))
    _compare(done, "param", manifest.params, record.params)
    _compare(done, "tag", manifest.tags, record.tags)
    points = {name: points_in_words(found) for name, found in record.points.items()}
    _compare(done, "metric", manifest.metrics, points)
    _check_latest(done, record)
    _compare(done, "image set", manifest.images, record.images)
    return True


def _check_latest(done: Verification, record: Record) -> None:
    """Check the latest value of each metric: a store keeps it a second time, beside all values."""
    for name, value in sorted(record.metrics.items()):
        points = record.points.get(name, [])
        last = max((step for step, _ in points), default=0)
        latest = [found for step, found in points if step == last]
        if latest and value not in latest:
            done.check(f"metric {name}, its latest value", repr(latest[-1]), repr(value))


def _digests(run: RecordedRun) -> dict[str, str]:
    return {name: _digest(run, name) for name in run.artifacts()}


def _digest(run: RecordedRun, name: str) -> str:
    """Return an artifact's digest, or what is wrong with it: a link out of the run, no regular file."""
    try:
        return file_digest(run.artifact(name))
    except (ValueError, OSError) as error:
        return str(error)


def _compare(done: Verification, what: str, named: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Add one check for all equal ones, and one for each that was changed, added or removed."""
    same = [name for name in named if found.get(name) == named[name]]
    if same:
        done.check(f"{len(same)} {what}s, as when the run ended", "equal", "equal")
    for name in sorted(named.keys() - set(same)):
        done.check(f"{what} {name}, since the run ended", named[name], found.get(name))
    for name in sorted(found.keys() - named.keys()):
        done.check(f"{what} {name}, since the run ended", ADDED, found[name])
