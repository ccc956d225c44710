"""Compare the raw metrics JSON of a run with the record in its store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audits.recorded_run import RecordedRun
from audits.verified import Check, Verification
from identity import hash_of
from reporter.run_warning import RunWarning, in_one_line
from tracking.run import LONGEST_PARAM, LONGEST_TAG

SHOWN = 3  # of the values that differ
OTHER_JSON = ("checkpoints.json", "over_seeds.json")
NOT_IN_RAW = ("stage_", "unlearn_", "initial_train_", "epoch_")  # prefixes of seconds and histories


@dataclass(frozen=True)
class RawMetrics:
    """The content of the file; missing parts are empty."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    sides: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    decisive: Mapping[str, Any] = field(default_factory=dict)
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
        done.checks.append(Check("raw metrics JSON", "one file", f"{len(files)} files" if files else None))
        return None
    try:
        found = json.loads(run.content(files[0]))
        return _parts(found)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        done.checks.append(
            Check(f"raw metrics JSON, {files[0]}", "one that can be read", f"{type(error).__name__}: {error}")
        )
        return None


def _parts(found: Any) -> RawMetrics:
    """Return the parts of the file. Raises TypeError, ValueError or AttributeError for wrong types."""
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
    return RawMetrics(
        numbers={name: value for name, value in numbers.items() if not math.isnan(value)},
        sides=sides,
        params=dict(found["params"]),
        decisive=dict(found.get("decisive", {})),
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
    metrics = {name: repr(value) for name, value in record.metrics.items()}
    _same(
        done,
        "metrics in the raw metrics JSON",
        {name: repr(value) for name, value in raw.numbers.items()},
        metrics,
    )
    invented = sorted(name for name in metrics.keys() - raw.numbers.keys() if not name.startswith(NOT_IN_RAW))
    done.checks.append(
        Check("metrics that the raw metrics JSON has not", "none", ", ".join(invented) or "none")
    )
    params = {name: str(value)[:LONGEST_PARAM] for name, value in raw.params.items()}
    _same(done, "params in the raw metrics JSON", params, record.params)
    run.params_seen |= params.keys()
    tags = {"config_hash": raw.config_hash, "lethe_version": raw.version}
    tags |= {name: value for name, value in raw.facts.items() if isinstance(value, str)}
    tags |= {f"undefined.{name}": str(reason) for name, reason in raw.undefined.items()}
    tags |= {"warning": in_one_line(raw.warnings)} if raw.warnings else {}
    _same(
        done,
        "tags in the raw metrics JSON",
        {name: text[:LONGEST_TAG] for name, text in tags.items()},
        record.tags,
    )
    run.tags_seen |= tags.keys()
    if not raw.warnings and "warning" in record.tags:
        done.checks.append(Check("warning", "none", record.tags["warning"]))
        run.tags_seen.add("warning")
    done.checks.append(Check("run that the raw metrics JSON is of", record.run_id, raw.run_id))


def compare_decisive(
    run: RecordedRun, done: Verification, raw: RawMetrics, expected: Mapping[str, Any]
) -> None:
    """Check the parts of config_hash against `expected`, by name, from params, images and models.

    The method's settings are compared as the text of their params, but for those of None, which are resolved.
    """
    if not raw.decisive:
        done.unchecked.append(
            "config_hash (the run is from before its parts were kept in the raw metrics JSON)"
        )
        return
    done.checks.append(
        Check("config_hash", run.record.tags.get("config_hash", "none"), hash_of(raw.decisive))
    )
    parts = dict(raw.decisive)
    settings = parts.pop("settings", {})
    texts = {
        name: str(tuple(value) if isinstance(value, list) else value)
        for name, value in dict(settings).items()
        if value is not None
    }
    _same(done, "settings of the method in config_hash", texts, run.record.params)
    found = {name: json.dumps(value, sort_keys=True) for name, value in expected.items()}
    named = {name: json.dumps(parts.get(name), sort_keys=True) for name in expected}
    _same(done, "what else config_hash is made of", named, found)
    rest = sorted(parts.keys() - expected.keys())
    if rest:
        done.unchecked.append(f"in config_hash: {', '.join(rest)}")


def _same(done: Verification, what: str, named: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Add one check of many values, which names the first that differ."""
    wrong = sorted(name for name, value in named.items() if found.get(name) != value)
    if not wrong:
        done.checks.append(Check(f"{what} ({len(named)})", "equal", "equal"))
        return
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    expected = ", ".join(f"{name} {named[name]}" for name in wrong[:SHOWN])
    got = ", ".join(f"{name} {found.get(name, 'missing')}" for name in wrong[:SHOWN])
    done.checks.append(Check(what, expected + more, got + more))
