"""Compare the raw metrics JSON of a run with the record in its store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.experiment.identity import OF_FILE, hash_of
from lethe.report.run_warning import RunWarning, in_one_line
from lethe.tracking.manifest import MANIFEST, SIGNATURE
from lethe.tracking.run import LONGEST_PARAM, LONGEST_TAG

SHOWN = 3  # of the values that differ
OTHER_JSON = ("checkpoints.json", "over_seeds.json", MANIFEST, SIGNATURE)
NOT_IN_RAW = ("stage_", "unlearn_", "initial_train_", "epoch_")  # prefixes of seconds and histories


@dataclass(frozen=True)
class RawMetrics:
    """The content of the file; missing parts are empty."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    sides: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    decisive: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    undefined: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[RunWarning, ...] = ()
    run_id: str = ""
    config_hash: str = ""
    version: str = ""


def raw_metrics(run: RecordedRun, done: Verification) -> RawMetrics | None:
    """Return the run's raw metrics; None, with a failed check, if they are missing or unreadable."""
    files = sorted(path.name for path in run.record.folder.glob("*.json") if path.name not in OTHER_JSON)
    if len(files) != 1:
        done.check("raw metrics JSON", "one file", f"{len(files)} files" if files else None)
        return None
    try:
        return _parts(json.loads(run.content(files[0])))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        done.check(f"raw metrics JSON, {files[0]}", "one that can be read", reason)
        return None


def _parts(found: Any) -> RawMetrics:
    """Return the parts of the file. Raises TypeError, ValueError, KeyError or AttributeError for others."""
    sides = {"unlearned": found["metrics"], "initial": found["initial"], "ideal": found["ideal"]}
    sides = {side: {name: float(value) for name, value in values.items()} for side, values in sides.items()}
    prefixes = {"unlearned": "", "initial": "initial_", "ideal": "ideal_"}
    numbers = {
        prefixes[side] + name: value for side, values in sides.items() for name, value in values.items()
    }
    facts, stages = dict(found["facts"]), dict(found["stages"])
    numbers |= {name: float(value) for name, value in facts.items() if not isinstance(value, str)}
    numbers |= {f"stage_{name}_seconds": float(seconds) for name, seconds in stages.items()}
    numbers |= {"unlearn_seconds": float(stages["unlearn"])}
    decisive = dict(found.get("decisive", {}))
    settings = dict(decisive.get("settings", {}))  # tuples are lists in JSON
    return RawMetrics(
        numbers={name: value for name, value in numbers.items() if not math.isnan(value)},
        sides=sides,
        params=dict(found["params"]),
        decisive=decisive,
        settings={name: tuple(own) if isinstance(own, list) else own for name, own in settings.items()},
        undefined=dict(found["undefined"]),
        facts=facts,
        warnings=tuple(map(RunWarning.of_json, found["warnings"])),
        run_id=str(found["run_id"]),
        config_hash=str(found["config_hash"]),
        version=str(found["versions"]["lethe"]),
    )


def compare_records(run: RecordedRun, done: Verification, raw: RawMetrics) -> None:
    """Check the store's numbers, settings, warnings and reasons against the raw metrics."""
    record = run.record
    stored, metrics = _texts(record.metrics), _texts(raw.numbers)
    check_same(done, "metrics in the raw metrics JSON", metrics, stored)
    invented = sorted(name for name in stored.keys() - metrics.keys() if not name.startswith(NOT_IN_RAW))
    done.check("metrics that the raw metrics JSON has not", "none", ", ".join(invented) or "none")
    params = {name: str(value)[:LONGEST_PARAM] for name, value in raw.params.items()}
    check_same(done, "params in the raw metrics JSON", params, record.params)
    run.params_seen |= params.keys()
    tags = {"config_hash": raw.config_hash, "lethe_version": raw.version}
    tags |= {name: value for name, value in raw.facts.items() if isinstance(value, str)}
    tags |= {f"undefined.{name}": str(reason) for name, reason in raw.undefined.items()}
    tags |= {"warning": in_one_line(raw.warnings)} if raw.warnings else {}
    tags = {name: text[:LONGEST_TAG] for name, text in tags.items()}
    check_same(done, "tags in the raw metrics JSON", tags, record.tags)
    run.tags_seen |= tags.keys() | {"warning"}
    if not raw.warnings and "warning" in record.tags:
        done.check("warning", "none", record.tags["warning"])
    done.check("run that the raw metrics JSON is of", record.run_id, raw.run_id)


def compare_decisive(
    run: RecordedRun, done: Verification, raw: RawMetrics, expected: Mapping[str, Any]
) -> None:
    """Check the parts of config_hash, by name, against `expected`, and its given settings against the params.

    A setting of None may stand for a default that is resolved: see `verified_model`.
    """
    if not raw.decisive:
        done.unchecked.append("config_hash (an older run, without its parts in the raw metrics JSON)")
        return
    done.check("config_hash", run.record.tags.get("config_hash", "none"), hash_of(raw.decisive))
    texts = {name: str(value) for name, value in raw.settings.items() if value is not None}
    stored = {
        name: run.record.params.get(f"{name}{OF_FILE}", value) for name, value in run.record.params.items()
    }
    check_same(done, "settings of the method in config_hash", texts, stored)
    found = {name: json.dumps(value, sort_keys=True) for name, value in expected.items()}
    named = {name: json.dumps(raw.decisive.get(name), sort_keys=True) for name in expected}
    check_same(done, "other parts of config_hash", named, found)
    rest = sorted(raw.decisive.keys() - expected.keys() - {"settings"})
    if rest:
        done.only_logged.append(f"in config_hash: {', '.join(rest)}")


def check_same(done: Verification, what: str, named: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Add one check of many values, which names the first different ones."""
    wrong = sorted(name for name, value in named.items() if found.get(name) != value)
    if not wrong:
        done.check(f"{what} ({len(named)})", "equal", "equal")
        return
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    expected = ", ".join(f"{name} {named[name]}" for name in wrong[:SHOWN])
    got = ", ".join(f"{name} {found.get(name, 'missing')}" for name in wrong[:SHOWN])
    done.check(what, expected + more, got + more)


def _texts(numbers: Mapping[str, float]) -> dict[str, str]:
    return {name: repr(value) for name, value in numbers.items()}
