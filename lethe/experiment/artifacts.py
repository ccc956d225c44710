"""Log a finished run: metrics, raw metrics JSON, models, tables, charts and the report."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.data import ImageSet
from lethe.evaluation import Missing, names_in
from lethe.experiment.identity import decisive_of, hash_of, run_params
from lethe.experiment.measure import INCOMPETENT, Measured
from lethe.experiment.memorised import MEMORISATION_FILE, memorisation_csv
from lethe.experiment.record import RunRecord
from lethe.experiment.run_report import FORGET_LIST, run_facts
from lethe.registry import Entry
from lethe.report.html_report import html_report, report_pictures
from lethe.report.per_image import per_image, write_per_image
from lethe.report.run_note import run_note
from lethe.report.svg_file import svg_file
from lethe.report.verdict import verdict
from lethe.tracking.run import TrackedRun
from lethe.training import library_versions, save_checkpoint, save_mask, write_bytes
from lethe.training.storage import LONGEST_NAME, shortened
from lethe.unlearn import ForgetData
from lethe.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

JSON_FOLDER = Path("eval/metrics_and_plots/json")
REPORT, PICTURES, CODE = "report.html", "pictures", "code"
METRICS_WAY_OUT = "Free the place, or start in another folder: the metrics are written below the current one"


def log_code(run: TrackedRun, entries: Iterable[Entry[Any]]) -> None:
    """Log the users' files as they were run. Of files with one name, all but one get a digest in theirs."""
    files: dict[str, bytes] = {}
    for entry in entries:
        if entry.file is not None and entry.code is not None:
            name = entry.file.name
            taken = files.get(name, entry.code) != entry.code
            files[f"{entry.file.stem}-{entry.code_digest}.py" if taken else name] = entry.code
    log_files(run, files, CODE)


def log_files(run: TrackedRun, files: Mapping[str, bytes], folder: str = "") -> None:
    """Log contents as artifacts, by file name."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place) / name
            path.write_bytes(content)
            run.file(path, folder)


def log_image_sets(run: TrackedRun, dataset: str, sets: Mapping[str, ImageSet]) -> None:
    """Log image sets, by name, as inputs of the run."""
    for name, images in sets.items():
        run.image_set(f"{dataset} {name}", images.digest, dataset, name)


def log_data(run: TrackedRun, dataset: str, data: ForgetData, test: ImageSet) -> None:
    """Log the image sets and the forget list."""
    log_image_sets(run, dataset, {"forget": data.forget, "retain": data.retain, "test": test})
    run.text("".join(f"{index}\n" for index in data.forget.indexes.tolist()), FORGET_LIST)


def log_measured(run: TrackedRun, measured: Measured, step: int = 0) -> None:
    """Log the metrics of all models, and the reasons of missing ones. step: of the unlearned model's.

    MLflow's page of a run lists metrics as they were first logged: those that matter are logged first.
    """
    run.metrics(matter_first(measured.model), step=step)
    run.metrics(measured.of_base_models)
    run.tags(undefined_tags(measured.undefined))


def matter_first(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics with those of the headline first, of which those of a sweep's table lead."""
    leading = [*names_in("summary"), *names_in("headline"), *metrics]
    return {name: metrics[name] for name in leading if name in metrics}


def undefined_tags(undefined: Mapping[str, Missing]) -> dict[str, str]:
    return {f"undefined.{name}": str(why) for name, why in undefined.items()}


def write_json(record: RunRecord) -> Path:
    """Write the raw metrics JSON below the current folder; its name has a hash of the setting."""
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
        "undefined": _texts(measured.undefined),
        "checkpoints": record.intermediate.metrics,
        "checkpoints_undefined": {
            epoch: _texts(reasons) for epoch, reasons in record.intermediate.undefined.items()
        },
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


def _texts(reasons: Mapping[str, Missing]) -> dict[str, str]:
    return {name: str(why) for name, why in reasons.items()}


def _own_file(folder: Path, name: str, config_hash: str) -> Path:
    """Return <name>_<eight letters of the hash>.json; the whole hash if another setting has these letters."""
    path = folder / f"{name}_{config_hash[:8]}.json"
    own = f'"config_hash": "{config_hash}"'
    if not path.exists() or own in path.read_text(encoding="utf-8", errors="replace"):
        return path
    return folder / f"{name}_{config_hash}.json"


def log_results(run: TrackedRun, record: RunRecord, json_path: Path) -> None:
    """Log metrics, histories, image sets and files."""
    checked, unlearned, measured = record.checked, record.unlearned, record.measured
    _log_checkpoints(run, record)
    log_measured(run, measured, step=record.intermediate.last_step)
    run.history(record.initial.history, "initial_train_")
    seconds = {f"unlearn_{stage}_seconds": value for stage, value in unlearned.stages.items()}
    run.metrics({"unlearn_seconds": record.stages["unlearn"]} | seconds)
    run.metrics({name: value for name, value in unlearned.facts.items() if not isinstance(value, str)})
    run.tags({name: value for name, value in unlearned.facts.items() if isinstance(value, str)})
    run.history(unlearned.history, "unlearn_")
    for epoch, scores in record.intermediate.scores.items():
        run.metrics({f"epoch_{name}": score for name, score in scores.items()}, step=epoch)
    log_data(run, checked.base.splits.dataset, checked.data, checked.base.splits.test)
    run.file(json_path)
    if measured.memorisation is not None:
        names = checked.base.splits.class_names
        run.text(memorisation_csv(measured.memorisation, checked.data.forget, names), MEMORISATION_FILE)
    with tempfile.TemporaryDirectory() as folder:
        for path in [*_saved(Path(folder), record), _per_image(Path(folder), record)]:
            run.file(path)


def _log_checkpoints(run: TrackedRun, record: RunRecord) -> None:
    """Log the metrics of intermediate models as earlier steps of the final model's metrics.

    MLflow shows a metric's last step as its value. So metrics that the final model lacks are only in the raw
    metrics JSON, and this is called after the method has finished.
    """
    final = record.measured.model
    points = {}
    for epoch, values in record.intermediate.metrics.items():
        points[epoch] = matter_first({name: value for name, value in values.items() if name in final})
    run.points(points)


def log_report(run: TrackedRun, record: RunRecord) -> None:
    """Log the verdict as a tag and in the run's description, and the charts and the page if wanted."""
    facts = run_facts(record)
    judged = verdict(facts.measured)
    run.tags({"verdict": judged.headline})
    run.note(run_note(facts, judged))
    if record.checked.config.report != "skip":
        pictures = report_pictures(facts)
        run.text(html_report(facts, judged, pictures), REPORT)
        for picture in chain.from_iterable(pictures.values()):
            run.text(
                svg_file(picture, f"{facts.name}. Forgotten: {facts.measured.what}"),
                f"{PICTURES}/{picture.name}.svg",
            )


def _saved(folder: Path, record: RunRecord) -> list[Path]:
    """Save the unlearned model and the mask; return the files."""
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
    """Save the table of every model's outputs for every image; return the file."""
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
    """Return the table of every model's outputs for every image. about: see `per_image`."""
    models = {name.removesuffix(" model"): own for name, own in measured.outputs.items()}
    models |= {INCOMPETENT: measured.incompetent} if measured.incompetent else {}
    sets = {"forget": data.forget, "retain": data.retain, "validation": data.validation, "test": test}
    return per_image(models, {name: images.indexes for name, images in sets.items()}, about)
