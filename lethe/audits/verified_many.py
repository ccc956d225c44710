"""Verify an audit of many models: recompute its numbers from its margins."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import torch
from torch import Tensor

from lethe.audits.klom import ORACLES, UNLEARNED, compared, floor_of, means_of
from lethe.audits.many_models import MODELS, ends_of
from lethe.audits.margin_files import (
    COLUMNS,
    KEPT_FILE,
    columns,
    read_array,
    read_margins,
    sets_of,
    table,
)
from lethe.audits.memorisation import CORRECT, beside_of, values_of
from lethe.audits.memorisation import MARGINS as MARGINS_OF_ALL
from lethe.audits.recorded_run import RecordedRun
from lethe.audits.ulira import MARGINS, MEMBER, evaluated, sizes_of
from lethe.audits.verified import Number, Verification, digest_at
from lethe.audits.verified_images import check_images, check_request, read_data, read_splits
from lethe.data import ImageSet
from lethe.evaluation import Population, Shadows
from lethe.evaluation.memorisation import Memorisation, memorisation
from lethe.experiment.memorised import MEMORISATION_FILE, memorisation_csv, read_memorisation
from lethe.experiment.model_sets import shadow_rows
from lethe.training import Progress, checkpoint_header_digest

OF_A_MODEL = {
    "side",
    "seed",
    "trained_on",
    "checkpoint",
    "checkpoint_digest",
    "header_digest",
    "digest",
    "retain_score",
    "ta",
    "attacked",
}  # columns of the table of models; further ones are metrics
UNLEARNED_MODELS = "the unlearned models (an audit keeps their margins and digests alone)"


def verify_klom(run: RecordedRun, progress: Progress) -> Verification:
    done = Verification()
    splits, data = read_data(run, done, progress)
    check_request(run, done, splits, data)
    sets = sets_of(data)
    check_images(
        run, done, {name: images.digest for name, images in sets.items()} | {"test": splits.test.digest}
    )
    rows = _check_kept(run, done, (UNLEARNED, ORACLES), table(columns(sets)), progress)
    sizes = {name: len(images) for name, images in sets.items()}
    models, oracles = (
        Population(read_margins(run.artifact(file), sizes), _scores(rows, who))
        for file, who in ((UNLEARNED, "unlearned"), (ORACLES, "oracle"))
    )
    direction = run.param("klom_direction", "unlearned_oracle")  # older audits know only this one
    values, _ = compared(models, oracles, direction)
    also = [name for name in rows[0] if name not in OF_A_MODEL]
    _compare(run, done, values | floor_of(len(models)) | means_of(rows, also))
    done.outside.append(UNLEARNED_MODELS)
    return done


def verify_ulira(run: RecordedRun, progress: Progress) -> Verification:
    done = Verification()
    splits, data = read_data(run, done, progress)
    check_request(run, done, splits, data)
    check_images(run, done, {"forget": data.forget.digest, "test": splits.test.digest})
    rows = _check_kept(run, done, (MARGINS, MEMBER), table(columns({"forget": data.forget})), progress)
    margins, member = (torch.from_numpy(read_array(run.artifact(name))) for name in (MARGINS, MEMBER))
    shadows = Shadows(margins, member, torch.tensor([row["attacked"] == "True" for row in rows]))
    values, _, intervals = evaluated(shadows, _memorised(run, done, data.forget))
    _compare(run, done, values | sizes_of(shadows) | ends_of(intervals))
    done.outside.append(UNLEARNED_MODELS)
    return done


def _memorised(run: RecordedRun, done: Verification, forget: ImageSet) -> Memorisation | None:
    """Return the memorisation of the forget images as the run logged it; None if it has none."""
    named = run.recorded(KEPT_FILE + MEMORISATION_FILE)
    if named is None:  # an older run, or one whose shadow models were not there
        return None
    content = run.content(MEMORISATION_FILE)
    done.check(MEMORISATION_FILE, named, _sha256(content))
    done.only_logged.append(f"memorisation of the forget images ({MEMORISATION_FILE})")
    try:
        return read_memorisation(content.decode(), forget)
    except ValueError as error:
        done.check(f"images of {MEMORISATION_FILE}", "the forget images", str(error))
        return None


def verify_memorisation(run: RecordedRun, progress: Progress) -> Verification:
    """Recompute the scores from the shadow models' answers, and check the models' checkpoints."""
    done = Verification()
    splits = read_splits(run, done)
    done.check("split", run.param("split"), splits.digest)
    check_images(run, done, {"train": splits.train.digest, "test": splits.test.digest})
    files = (CORRECT, MARGINS_OF_ALL, MEMBER)
    images = table(columns({"train": splits.train}))
    _check_kept(run, done, (*files, MEMORISATION_FILE), images, progress)
    correct, margins, member = (torch.from_numpy(read_array(run.artifact(name))) for name in files)
    done.check("training images of the shadow models", "equal", _drawn_again(run, member))
    found = memorisation(correct, margins, member)
    _check_scores(run, done, memorisation_csv(found, splits.train, splits.class_names))
    values, _ = values_of(correct, member)
    _compare(run, done, values | beside_of(found))
    done.outside.append("the answers of the shadow models (they are not evaluated again)")
    return done


def _drawn_again(run: RecordedRun, member: Tensor) -> str:
    """Return "equal" if member (K, N) is as the seeds draw it, else the first other model."""
    seed, split_seed = run.whole_number("seed"), run.whole_number("split_seed")
    if member.ndim != 2 or len(member) != run.whole_number("shadows"):
        return f"an array of shape {tuple(member.shape)}"
    for number, trained_on in enumerate(member, 1):
        rows = shadow_rows(len(trained_on), seed, split_seed, number)
        if not torch.equal(trained_on.nonzero().flatten(), rows):
            return f"others of shadow model {number}"
    return "equal"


def _check_scores(run: RecordedRun, done: Verification, expected: str) -> None:
    """Add one check of the table of scores, which names the first row that differs."""
    rows = list(csv.reader(io.StringIO(run.content(MEMORISATION_FILE).decode(errors="replace"))))
    others = list(csv.reader(io.StringIO(expected)))
    what = f"scores in {MEMORISATION_FILE}"
    if len(rows) != len(others):
        done.check(what, f"{len(others)} lines", f"{len(rows)} lines")
        return
    wrong = [line for line, pair in enumerate(zip(others, rows, strict=True), 1) if not _same_row(*pair)]
    done.check(what, "equal", f"others from line {wrong[0]} on" if wrong else "equal")


def _same_row(expected: list[str], found: list[str]) -> bool:
    return len(expected) == len(found) and all(map(_same_cell, expected, found))


def _same_cell(expected: str, found: str) -> bool:
    """Whether two cells are equal, as text or as numbers within the tolerance."""
    if expected == found:
        return True
    try:
        return Number("", float(found), float(expected)).same
    except ValueError:
        return False


def _check_kept(
    run: RecordedRun, done: Verification, arrays: tuple[str, ...], images: str, progress: Progress
) -> list[dict[str, str]]:
    """Check the files, the params and the models of an audit; return the rows of its table of models.

    images: the expected table of the columns.
    """
    for name in (*arrays, COLUMNS, MODELS):
        done.check(name, run.param(KEPT_FILE + name), _sha256(run.content(name)))
    done.check("images of the columns", _sha256(run.content(COLUMNS)), _sha256(images.encode()))
    _check_hash(run, done)
    rows = list(csv.DictReader(io.StringIO(run.content(MODELS).decode())))
    needed = {"checkpoint", "checkpoint_digest"}
    if not rows or not needed <= rows[0].keys():
        raise ValueError(
            f"{run.artifact(MODELS)}: expected a row per model with {', '.join(sorted(needed))}. Restore the "
            "file"
        )
    _check_models(done, rows, progress)
    return rows


def _check_hash(run: RecordedRun, done: Verification) -> None:
    """Check the tag config_hash: a hash of all params except the digests of artifacts."""
    names = [name for name in run.record.params if not name.startswith(KEPT_FILE)]
    settings = {"audit": run.record.tags["audit"], **{name: run.param(name) for name in names}}
    found = _sha256(json.dumps(settings, sort_keys=True).encode())
    done.check("config_hash, of all params", run.record.tags.get("config_hash", "none"), found)
    run.tags_seen |= {"audit", "config_hash"}


def _compare(run: RecordedRun, done: Verification, found: dict[str, float]) -> None:
    """Compare the numbers, and check that the run has no metric that no audit logs."""
    done.compare(run.record.metrics, found)
    invented = [name for name in done.left_out if not name.startswith("stage_")]
    done.check("metrics that no audit has", "none", ", ".join(invented) or "none")


def _scores(rows: list[dict[str, str]], side: str) -> dict[str, Tensor]:
    """Return retain_score and ta of the models of one side; {} if the audit has none of that side."""
    own = [row for row in rows if row["side"] == side]
    names = ("retain_score", "ta") if own else ()
    return {name: torch.tensor([float(row[name]) for row in own], dtype=torch.float64) for name in names}


def _check_models(done: Verification, rows: list[dict[str, str]], progress: Progress) -> None:
    """Check the checkpoints that the audit started from: one check for all equal ones, one per other."""
    named = {row["checkpoint"]: _words(row["checkpoint_digest"], row.get("header_digest")) for row in rows}
    headers = "header_digest" in rows[0]
    found = {
        path: _found(Path(path), headers=headers) for path in progress(list(named), "digests of the models")
    }
    there = [path for path in named if found[path] is not None]
    changed = [path for path in there if found[path] != named[path]]
    for path in changed:
        done.check(path, named[path], found[path])
    if len(there) > len(changed):
        done.check(f"{len(there) - len(changed)} checkpoints", "as they were", "as they were")
    if len(there) < len(named):
        done.gone.append(f"{len(named) - len(there)} of {len(named)} checkpoints that the audit started from")
    if not headers:
        done.unchecked.append("whether the headers of those checkpoints were edited (an older run)")


def _found(path: Path, *, headers: bool) -> str | None:
    """Return the digests of a checkpoint, or what is wrong with it; None if there is none."""
    digest, wrong = digest_at(path)
    if digest is None:
        return wrong or None
    return _words(digest, (checkpoint_header_digest(path) or "") if headers else None)


def _words(weights: str, header: str | None) -> str:
    return weights if header is None else f"{weights}, header {header}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
