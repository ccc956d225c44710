"""What a run leaves in its MLflow run and beside it: metrics, raw numbers, models, pictures and the report."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from identity import decisive_of, hash_of, run_params
from measurement import INCOMPETENT, Measured
from registry import Entry, __version__
from reporter.html_report import html_report, report_pictures
from reporter.per_image import per_image, write_per_image
from reporter.run_note import run_note
from reporter.svg_file import svg_file
from reporter.verdict import verdict
from run_record import RunRecord
from run_report import FORGET_LIST, run_facts
from tracking.run import TrackedRun
from training import library_versions, save_checkpoint, save_mask, write_bytes
from training.storage import LONGEST_NAME, shortened
from unlearn import ForgetData
from vision_data import ImageSet

if TYPE_CHECKING:
    import pyarrow as pa

JSON_FOLDER = Path("eval/metrics_and_plots/json")
REPORT, PICTURES, CODE = "report.html", "pictures", "code"
METRICS_WAY_OUT = "Free the place, or start in another folder: the metrics are written below the current one"


def log_code(run: TrackedRun, entries: Iterable[Entry[Any]]) -> None:
    """The users' files as they were run, under their names; one of several of a name has its digest in it."""
    files: dict[str, bytes] = {}
    for entry in entries:
        if entry.file is not None and entry.code is not None:
            name = entry.file.name
            taken = files.get(name, entry.code) != entry.code
            files[f"{entry.file.stem}-{entry.code_digest}.py" if taken else name] = entry.code
    with tempfile.TemporaryDirectory() as folder:
        for name, code in files.items():
            (Path(folder) / name).write_bytes(code)
            run.file(Path(folder) / name, CODE)


def write_json(record: RunRecord) -> Path:
    """The raw numbers as a file below the current folder, which no other setting's run has."""
    checked, measured = record.checked, record.measured
    decisive = decisive_of(checked, record.initial, record.ideal)
    config_hash = hash_of(decisive)
    content = {
        "run_id": record.run_id,
        "params": {
            name: value if isinstance(value, (int, float, str, type(None))) else str(value)
            for name, value in run_params(checked).items()
        },
        "config_hash": config_hash,
        "decisive": decisive,
        "metrics": measured.model,
        "initial": measured.initial,
        "ideal": measured.ideal,
        "undefined": measured.undefined,
        "checkpoints": record.intermediate.metrics,
        "checkpoints_undefined": record.intermediate.undefined,
        "warnings": [warning.as_json() for warning in record.warnings],
        "facts": record.unlearned.facts,
        "stages": dict(record.stages),
        "versions": library_versions(),
    }
    kind = f"{checked.base.architecture.name}_{checked.base.splits.dataset}"
    amounts = f"top-{checked.settings.get('topk', 'none')}_kappa_{checked.settings.get('kappa', 'none')}"
    name = f"{checked.method.name}_{checked.base.request_slug}_seed{checked.config.base.seed}"
    folder = JSON_FOLDER / shortened(re.sub(r"[^\w.+%-]", "_", f"{kind}_{amounts}"), LONGEST_NAME)
    path = _own_file(folder, shortened(name, LONGEST_NAME - len(config_hash)), config_hash)
    write_bytes(path, json.dumps(content, indent=2, sort_keys=True).encode(), METRICS_WAY_OUT)
    return path


def _own_file(folder: Path, name: str, config_hash: str) -> Path:
    """<name>_<eight letters of the hash>.json; with the whole hash where another setting's file has these
    letters.
    """
    path = folder / f"{name}_{config_hash[:8]}.json"
    if not path.exists() or f'"config_hash": "{config_hash}"' in path.read_text(
        encoding="utf-8", errors="replace"
    ):
        return path
    return folder / f"{name}_{config_hash}.json"


def log_results(run: TrackedRun, record: RunRecord, json_path: Path) -> None:
    """Metrics, histories, image sets and files."""
    checked, unlearned, measured = record.checked, record.unlearned, record.measured
    _log_checkpoints(run, record)
    run.metrics(measured.model, step=record.intermediate.last_step)
    run.metrics({f"initial_{name}": value for name, value in measured.initial.items()})
    run.metrics({f"ideal_{name}": value for name, value in measured.ideal.items()})
    run.metrics(
        {"unlearn_seconds": record.stages["unlearn"]}
        | {f"unlearn_{stage}_seconds": s for stage, s in unlearned.stages.items()}
    )
    run.metrics({name: value for name, value in unlearned.facts.items() if not isinstance(value, str)})
    run.tags({name: value for name, value in unlearned.facts.items() if isinstance(value, str)})
    run.tags({f"undefined.{name}": reason for name, reason in measured.undefined.items()})
    run.history(unlearned.history, "unlearn_")
    for epoch, scores in record.intermediate.scores.items():
        run.metrics({f"epoch_{name}": score for name, score in scores.items()}, step=epoch)
    for name, images in (
        ("forget", checked.data.forget),
        ("retain", checked.data.retain),
        ("test", checked.base.splits.test),
    ):
        run.image_set(
            f"{checked.base.splits.dataset} {name}", images.digest, checked.base.splits.dataset, name
        )
    run.file(json_path)
    run.text("".join(f"{index}\n" for index in checked.data.forget.indexes.tolist()), FORGET_LIST)
    with tempfile.TemporaryDirectory() as folder:
        for path in [*_saved(Path(folder), record), _per_image(Path(folder), record)]:
            run.file(path)


def _log_checkpoints(run: TrackedRun, record: RunRecord) -> None:
    """The intermediate models as earlier steps of the final model's metrics.

    MLflow shows a metric's last step. Nothing intermediate may pass for final: what the final model has no
    value of is in the raw metrics alone, and nothing is logged here while the method runs.
    """
    steps = record.intermediate.metrics.items()
    run.points(
        {
            epoch: {name: value for name, value in values.items() if name in record.measured.model}
            for epoch, values in steps
        }
    )


def log_report(run: TrackedRun, record: RunRecord) -> None:
    """The verdict in words, as a tag and in the run's description; and unless they are to be skipped, the
    pictures and the page.
    """
    facts = run_facts(record)
    told = verdict(facts.measured)
    run.tags({"verdict": told.headline})
    run.note(run_note(facts, told))
    if record.checked.config.report != "skip":
        pictures = report_pictures(facts)
        run.text(html_report(facts, told, pictures), REPORT)
        for picture in chain.from_iterable(pictures.values()):
            run.text(
                svg_file(picture, f"{facts.name}. Forgotten: {facts.measured.what}"),
                f"{PICTURES}/{picture.name}.svg",
            )


def _saved(folder: Path, record: RunRecord) -> list[Path]:
    """The unlearned model and the mask as files."""
    base, method, unlearned = record.checked.base, record.checked.method.name, record.unlearned
    metadata = base.metadata(f"unlearned {base.request_identity} by {method}", versions=library_versions())
    files = [folder / "unlearned.safetensors"]
    save_checkpoint(files[0], unlearned.model, metadata)
    if unlearned.mask is not None:
        files.append(folder / "mask.safetensors")
        header = {
            "method": method,
            "request": base.request_slug,
            "run_id": record.run_id,
            "dataset": base.splits.dataset,
        }
        save_mask(files[1], unlearned.mask, header)
    return files


def _per_image(folder: Path, record: RunRecord) -> Path:
    """What each model says of each image, as a file."""
    base, data = record.checked.base, record.checked.data
    about: dict[str, Any] = {
        "run_id": record.run_id,
        "dataset": base.splits.dataset,
        "method": record.checked.method.name,
        "request": base.request_slug,
    }
    about |= {"seed": data.seed, "forget_classes": data.forget_classes, "version": __version__}
    path = folder / "per_image.parquet"
    write_per_image(image_table(record.measured, data, base.splits.test, about), path)
    return path


def image_table(
    measured: Measured, data: ForgetData, test: ImageSet, about: Mapping[str, object]
) -> pa.Table:
    """What each model says of each image; about: see `per_image`."""
    models = {name.removesuffix(" model"): own for name, own in measured.outputs.items()}
    models |= {INCOMPETENT: measured.incompetent} if measured.incompetent else {}
    sets = {"forget": data.forget, "retain": data.retain, "validation": data.validation, "test": test}
    return per_image(models, {name: images.indexes for name, images in sets.items()}, about)
