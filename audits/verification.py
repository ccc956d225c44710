"""A run, recomputed: do its numbers follow from its artifacts, and are models, forget list and images the ones that it names?"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from audits.klom import MODELS, ORACLES, UNLEARNED, floor_of, means_of
from audits.margin_files import COLUMNS, columns, read_array, read_margins, sets_of, table
from audits.ulira import MARGINS, MEMBER, ends_of, sizes_of
from base_models import device_named
from evaluation import OF_MANY, Population, Shadows, chosen, evaluate, needs_of
from measurement import INCOMPETENT, TIMES, Metric, measure
from models import ARCHITECTURES, build
from run_report import FORGET_LIST
from tracking.record import Record
from training import Metadata, Progress, checkpoint_digest, checkpoint_metadata, generator_for, load_checkpoint, silent
from training.storage import read_tensors
from unlearn import ForgetData
from vision_data import ForgetRequest, Splits, load_splits, read_indexes

TOLERANCE = 1e-6
UNLEARNED_MODEL = "unlearned.safetensors"
NO_REASONS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Check:
    """Something that a run names, and what was found: equal, different, or (found is None) not there any more."""

    what: str
    named: str
    found: str | None

    @property
    def holds(self) -> bool:
        return self.named == self.found


@dataclass(frozen=True)
class Number:
    """A metric as the run logged it and as its artifacts give it; None where it is missing on one side."""

    name: str
    logged: float | None
    recomputed: float | None

    @property
    def same(self) -> bool:
        """Within 1e-6, of 1 or of the value: another machine rounds otherwise."""
        if self.logged is None or self.recomputed is None:
            return False
        return math.isclose(self.logged, self.recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


@dataclass
class Verification:
    """What was checked, which numbers were recomputed, and which are not of the kind that can be.

    `lost`: numbers that could be, were all still there, and why they could not; they are among the numbers.
    """

    checks: list[Check] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks) and all(number.same for number in self.numbers)

    def compare(self, logged: Mapping[str, float], recomputed: Mapping[str, float], reasons: Mapping[str, str] = NO_REASONS) -> None:
        """Take the numbers of both sides. What the run alone has is lost where there is a reason, and else left out."""
        for name in recomputed.keys() | logged.keys():
            if name in recomputed or name in reasons:
                self.numbers.append(Number(name, logged.get(name), recomputed.get(name)))
                self.lost |= {} if name in recomputed else {name: reasons[name]}
            else:
                self.left_out.append(name)
        self.numbers.sort(key=lambda number: number.name)
        self.left_out.sort()


def verify(record: Record, *, progress: Progress = silent) -> Verification:
    """Recompute a run's numbers from its artifacts and from what it names: the dataset, the base models' checkpoints.

    Raises ValueError or FileNotFoundError where nothing can be recomputed: a run of another kind, an artifact or a dataset that is gone.
    """
    kinds: dict[str | None, Callable[..., Verification]] = {
        None: _of_a_method,
        "evaluate": _of_a_method,
        "klom": _of_klom,
        "ulira": _of_ulira,
    }
    kind = record.tags.get("audit")
    if kind not in kinds or "dataset" not in record.params:
        raise ValueError(
            f"run {record.run_id}: expected a run of mlflow_forget.py or audit.py, got {kind or 'another'}. Verify one of those"
        )
    return kinds[kind](record, progress)


# A run of one model


def _of_a_method(record: Record, progress: Progress) -> Verification:
    done = Verification()
    file = _artifact(record, UNLEARNED_MODEL)
    metadata = checkpoint_metadata(file)
    if metadata is None:
        raise ValueError(f"{file}: expected a checkpoint with metadata, got one without. Verify another run")
    splits, data = _data(record, done, seed=int(record.params["seed"]), progress=progress)
    done.checks.append(Check("split", metadata.split, splits.digest))
    _check_images(record, done, {"forget": data.forget.digest, "retain": data.retain.digest, "test": splits.test.digest})
    models = _base_models(record, done, metadata)
    unlearned = _unlearned(metadata, record, file)
    if "unlearned_digest" in record.params:
        done.checks.append(Check("unlearned model", record.params["unlearned_digest"], checkpoint_digest(file)))
    if "initial" not in models:
        raise ValueError("expected the initial model's checkpoint, without which nothing can be compared, and it is gone. Bring it back")
    names = [metric for metric in chosen(_words(record)) if not (OF_MANY | {TIMES}) & set(needs_of(metric.function))]
    measured = measure(unlearned, models, data, splits.test, metrics=names)
    found = measured.model | _named("initial", measured.initial) | _named("ideal", measured.ideal)
    ideal_gone = "ideal_digest" in record.params and "ideal" not in models
    done.compare(record.metrics, found, _reasons(names, measured.undefined, ideal_gone=ideal_gone))
    return done


def _reasons(metrics: Sequence[Metric], undefined: Mapping[str, str], *, ideal_gone: bool) -> dict[str, str]:
    """Why a metric of a model may have no value, though the run has one, by the names that a run gives it."""
    of_each = {f"{side}{metric.name}": metric for side in ("", "initial_", "ideal_") for metric in metrics}
    gone = {name for name, metric in of_each.items() if name.startswith("ideal_") or "ideal" in needs_of(metric.function)}
    return {
        name: "the ideal model is gone" if ideal_gone and name in gone else undefined.get(name, "these models do not give it")
        for name in of_each
    }


def _words(record: Record) -> tuple[str, ...]:
    return tuple(record.params.get("metrics", "default").split(","))


def _base_models(record: Record, done: Verification, metadata: Metadata) -> dict[str, nn.Module]:
    """The initial and the ideal model that the run names, found again by path and digest; the incompetent teacher anew."""
    models: dict[str, nn.Module] = {}
    for name in ("initial", "ideal"):
        if f"{name}_digest" not in record.params:
            continue
        kept, named = record.folder / f"{name}.safetensors", record.params[f"{name}_digest"]
        path = kept if kept.is_file() else Path(record.params[f"{name}_checkpoint"])
        found = _digest_at(path)
        done.checks.append(Check(f"{name} model, {path}", named, found))
        if found is None:
            done.gone.append(f"the {name} model ({path})")
        else:
            models[name] = _model(metadata, record, path)
    teacher = generator_for(int(record.params["seed"]), "evaluation", INCOMPETENT).initial_seed()
    models[INCOMPETENT] = _built(metadata, record, teacher)
    return models


def _built(metadata: Metadata, record: Record, seed: int) -> nn.Module:
    arch = _spec(record, "arch")
    defaults = ARCHITECTURES[arch].defaults
    options = {name: value for name, value in metadata.options.items() if name in defaults}
    return build(arch, metadata.image_shape, metadata.classes, seed=seed, options=options).to(device_named("auto"))


def _unlearned(metadata: Metadata, record: Record, path: Path) -> nn.Module:
    """The unlearned model. ValueError where the method returned a module around it."""
    try:
        return _model(metadata, record, path)
    except ValueError as error:
        if not {f"model.{name}" for name in _built(metadata, record, 0).state_dict()} <= read_tensors(path)[0].keys():
            raise
        name = record.params["unlearn"]
        raise ValueError(f"{name} returns a module, which its file alone does not give back; this run can't be recomputed") from error


def _model(metadata: Metadata, record: Record, path: Path) -> nn.Module:
    model = _built(metadata, record, 0)
    load_checkpoint(path, model)
    return model


# An audit of many


def _of_klom(record: Record, progress: Progress) -> Verification:
    done = Verification()
    splits, data = _data(record, done, seed=int(record.params["seed"]), progress=progress)
    sets = sets_of(data)
    _check_images(record, done, {name: images.digest for name, images in sets.items()} | {"test": splits.test.digest})
    _check_files(record, done, (UNLEARNED, ORACLES, COLUMNS, MODELS))
    done.checks.append(_columns_check(record, table(columns(sets))))
    rows = _rows(record, MODELS)
    _check_models(done, rows, progress)
    sizes = {name: len(images) for name, images in sets.items()}
    models, oracles = (
        Population(read_margins(_artifact(record, file), sizes), _scores(rows, who))
        for file, who in ((UNLEARNED, "unlearned"), (ORACLES, "oracle"))
    )
    values, _ = evaluate(models=models, oracles=oracles)
    also = [name for name in record.params["metrics"].split(",") if name]
    done.compare(record.metrics, values | floor_of(len(models)) | means_of(rows, also))
    return done


def _scores(rows: list[dict[str, str]], side: str) -> dict[str, Tensor]:
    own = [row for row in rows if row["side"] == side]
    return {name: torch.tensor([float(row[name]) for row in own], dtype=torch.float64) for name in ("retain_score", "ta")} if own else {}


def _of_ulira(record: Record, progress: Progress) -> Verification:
    done = Verification()
    splits, data = _data(record, done, seed=int(record.params["seed"]), progress=progress)
    sets = {"forget": data.forget}
    _check_images(record, done, {"forget": data.forget.digest, "test": splits.test.digest})
    _check_files(record, done, (MARGINS, MEMBER, COLUMNS, MODELS))
    done.checks.append(_columns_check(record, table(columns(sets))))
    rows = _rows(record, MODELS)
    _check_models(done, rows, progress)
    margins, member = (torch.from_numpy(read_array(_artifact(record, name))) for name in (MARGINS, MEMBER))
    shadows = Shadows(margins, member, torch.tensor([row["attacked"] == "True" for row in rows]))
    values, _ = evaluate(shadows=shadows)
    intervals = {f"ulira_{name}": ends for name, ends in shadows.intervals.items()}
    done.compare(record.metrics, values | sizes_of(shadows) | ends_of(intervals))
    return done


def _check_models(done: Verification, rows: list[dict[str, str]], progress: Progress) -> None:
    """The checkpoints that the audit started from: one line for all that are as they were, one for each that is not."""
    named = {row["checkpoint"]: row["checkpoint_digest"] for row in rows}
    found = {path: _digest_at(Path(path)) for path in progress(list(named), "digests of the models")}
    there = [path for path in named if found[path] is not None]
    done.checks += [Check(path, named[path], found[path]) for path in there if found[path] != named[path]]
    good = sum(found[path] == named[path] for path in there)
    if good:
        done.checks.append(Check(f"{good} checkpoints", "as they were", "as they were"))
    if len(there) < len(named):
        done.gone.append(f"{len(named) - len(there)} of {len(named)} checkpoints that the audit started from")


def _columns_check(record: Record, now: str) -> Check:
    return Check("images of the columns", _sha256(_artifact(record, COLUMNS).read_bytes()), _sha256(now.encode()))


def _check_files(record: Record, done: Verification, names: tuple[str, ...]) -> None:
    for name in names:
        done.checks.append(Check(name, record.params[f"sha256.{name}"], _sha256(_artifact(record, name).read_bytes())))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# What both name


def _data(record: Record, done: Verification, *, seed: int, progress: Progress) -> tuple[Splits, ForgetData]:
    """The images, read anew, and divided by the run's forget list."""
    params = record.params
    splits = load_splits(_spec(record, "dataset"), params["data"], int(params["split_seed"]))
    if params.get("trained_on") == "all":
        splits = splits.without_validation()
    request = _request(record)
    data = ForgetData.of(splits, request, seed=seed, device=device_named("auto"), progress=progress)
    done.checks.append(Check("number of forget images", params["forget_count"], str(len(data.forget))))
    return splits, data


def _request(record: Record) -> ForgetRequest:
    """The forget list that is an artifact; for a run that has none, what its flags spell."""
    kept = record.folder / FORGET_LIST
    if kept.is_file():
        return ForgetRequest((), None, read_indexes(kept), str(kept))
    params = record.params
    if params["forget_indexes"] != "None":
        return ForgetRequest((), None, read_indexes(params["forget_indexes"]), params["forget_indexes"])
    number = None if params["num_indexes_to_replace"] == "None" else int(params["num_indexes_to_replace"])
    return ForgetRequest(tuple(map(int, params["class_to_replace"].split())), number)


def _spec(record: Record, kind: str) -> str:
    """The name of a dataset or an architecture, path/to/file.py:function, or folder:PATH and its like."""
    file = record.params.get(f"{kind}_file", "None")
    if file == "None":
        return record.params[kind]
    return f"{file}:{record.params[kind]}" if file.endswith(".py") else file


def _check_images(record: Record, done: Verification, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        if name in record.images:
            named = record.images[name]
            done.checks.append(Check(f"{name} images", named, digest[: len(named)]))


def _artifact(record: Record, name: str) -> Path:
    path = record.folder / name
    if not path.is_file():
        raise FileNotFoundError(f"run {record.run_id}: expected its artifact {name}, and there is none in {record.folder}. Bring it back")
    return path


def _rows(record: Record, name: str) -> list[dict[str, str]]:
    with _artifact(record, name).open() as file:
        return list(csv.DictReader(file))


def _digest_at(path: Path) -> str | None:
    """The digest of the model in a checkpoint; None where there is none, a reason where it is damaged."""
    if not path.exists():
        return None
    try:
        return checkpoint_digest(path)
    except ValueError as error:
        return str(error)


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}
