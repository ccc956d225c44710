"""The experiment as an object: initial model -> unlearn -> evaluate -> one MLflow run.

from pipeline import Pipeline, PipelineConfig
result = Pipeline(PipelineConfig(unlearn="MIMU", settings={"topk": 50, "kappa": 0.1})).run()
result.metrics["test_forget_score"]
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from base_models import BaseConfig, BaseModels, Trained
from checkpoint_epochs import Intermediate, checked, undisturbed
from evaluation import DEFAULT, Evidence, Times, chosen
from judgement import judge
from measurement import INCOMPETENT, Measured, evidence_of_others, measure, of_intermediate_models
from model_sets import oracles_of
from models import ARCHITECTURES
from registry import __version__
from reporter.html_report import html_report
from reporter.layer_pictures import masked_layer_image, weight_histogram
from reporter.margin_pictures import margin_histograms
from reporter.per_image import per_image, write_per_image
from reporter.pictures import class_probabilities
from reporter.run_note import run_note
from reporter.verdict import verdict
from run_report import FORGET_LIST, run_facts
from stages import stage
from tracking.run import TrackedRun, tracked_run
from tracking.store import check_store
from training import (
    DiskCache,
    Progress,
    check_writable,
    library_versions,
    model_digest,
    save_checkpoint,
    save_mask,
    silent,
    warm_up,
    write_bytes,
)
from training.recipe import PREFIX
from unlearn import METHODS, ForgetData, Oracles, Unlearned, masked_layer, resolved, unlearn
from vision_data import DATASETS, origin
from vision_data.augmentation import augmentations

JSON_FOLDER = Path("eval/metrics_and_plots/json")
REPORT = "report.html"
MASKED = "kappa_count"  # known for certain only once the mask is made
NO_TAGS: Mapping[str, str] = {}
METRICS_WAY_OUT = "Free the place, or start in another folder: the metrics are written below the current one"


@dataclass(frozen=True)
class PipelineConfig:
    """One experiment: a method with its own settings, on base models, under an experiment's name.

    metrics: "default", "all" (the costly ones too), names; see evaluation.chosen. report: pictures and an HTML page; the page without
    images of the forget set; neither.
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    ideal: Literal["auto", "train", "skip"] = "auto"
    experiment: str | None = None
    checkpoint_epochs: tuple[int, ...] = ()
    metrics: tuple[str, ...] = (DEFAULT,)
    report: Literal["full", "no_images", "skip"] = "full"


@dataclass(frozen=True)
class Result:
    """What one run measured, and where it is. `checkpoints`: the metrics after each of the config's checkpoint_epochs.

    `chosen`: the config's choice of metrics.
    """

    run_id: str
    name: str
    unlearned: Unlearned
    metrics: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, str]
    stages: dict[str, float]
    json_path: Path
    notes: list[str]
    checkpoints: dict[int, dict[str, float]] = field(default_factory=dict)
    chosen: tuple[str, ...] = (DEFAULT,)
    seed: int = 1


class Pipeline:
    """Checks its config when it is made, and does nothing that lasts before `run`.

    Raises ValueError or FileNotFoundError, before anything is trained, for everything that a person may have got wrong:
    names, flags, amounts, the forget request, the layer, checkpoints, folders, a tracking server that does not answer.
    `base` lets several pipelines share one set of base models. `judges`: seeds of the oracles that the result is held against, which no
    method may have (default: the config's own seed, that of the ideal model).
    """

    def __init__(
        self, config: PipelineConfig, *, progress: Progress = silent, base: BaseModels | None = None, judges: Sequence[int] | None = None
    ) -> None:
        self.config = config
        self.judges = tuple(judges or (config.base.seed,))
        self.progress = progress
        self.method = METHODS[config.unlearn]
        self.settings = self.method.settings(config.settings)
        self.metrics = chosen(config.metrics)
        if config.ideal not in ("auto", "train", "skip"):
            raise ValueError(f"--ideal: expected auto, train or skip, got {config.ideal!r}. Choose one")
        if config.report not in ("full", "no_images", "skip"):
            raise ValueError(f"--report: expected full, no_images or skip, got {config.report!r}. Choose one")
        if config.ideal == "skip" and "ideal" in self.method.facts.needs:
            raise ValueError(f"--ideal: {self.method.name} needs the ideal model, got skip. Leave the flag out")
        if base is not None and base.config != config.base:
            raise ValueError("expected the base models of this config, got those of another. Make them with BaseModels(config.base)")
        self.base = base or BaseModels(config.base, progress=progress)
        self.data = self._forget_data()
        self.asked, self.layer_size = self._amounts()
        self.checkpoint_epochs = checked(config.checkpoint_epochs, self.settings | self.asked)
        self.experiment = experiment_of(config)
        self._start_afresh()
        check_writable(self.base.save_dir / "cache")
        check_writable(JSON_FOLDER, METRICS_WAY_OUT)
        check_store()

    @property
    def name(self) -> str:
        """The run's name: method, request, seed, and the settings that were given."""
        given = "".join(f" {name}={value}" for name, value in self.config.settings.items())
        return f"{self.method.name} {self.base.request_slug} seed{self.config.base.seed}{given}"

    def _start_afresh(self) -> None:
        """Nothing of an earlier run counts for the next."""
        self.counts = dict(self.asked)
        self.intermediate = Intermediate(self.checkpoint_epochs, of_intermediate_models(self.metrics), ways=self._ways())
        self.warnings: list[str] = []
        self.stages: dict[str, float] = {}

    def run(self, *, nested: bool = False, tags: Mapping[str, str] = NO_TAGS) -> Result:
        """Do it, in one MLflow run, with more tags from its beginning if any are given; an exception ends that FAILED with the error
        in a tag, Ctrl-C KILLED."""
        started = time.perf_counter()
        self._start_afresh()
        with tracked_run(self.experiment, self.name, nested=nested, tags={**self.tags(), **tags}) as run:
            self.stages["tracking_start"] = time.perf_counter() - started
            run.params({name: value for name, value in self.params().items() if name != MASKED})
            self._log_code(run)
            with stage(self.stages, "initial"):
                initial = self.base.initial()
            with stage(self.stages, "ideal"):
                ideal = self.ideal()
            run.params(_provenance("initial", initial) | _provenance("ideal", ideal))
            self.initial_digest = model_digest(initial.model)
            config_hash = self.config_hash(initial, ideal)
            run.tags({"config_hash": config_hash})
            run.history(initial.history, "initial_train_")
            base_models = self._base_models(initial, ideal)
            self._know(base_models)
            warm_up()
            with stage(self.stages, "unlearn"), self._divergence_told(run):
                unlearned = unlearn(self.config.unlearn, initial.model, self.data, **self.settings)
            self._check_untouched(initial)
            run.params({"unlearned_digest": model_digest(unlearned.model)})
            self._warn(run, self._count_masked(run, unlearned) + self.intermediate.warnings())
            with stage(self.stages, "evaluate"), self._divergence_told(run):
                measured = measure(
                    unlearned.model,
                    base_models,
                    self.data,
                    self.base.splits.test,
                    metrics=self.metrics,
                    others=self.intermediate.others or None,  # evaluated already, for the intermediate models
                    times=Times(self.stages["unlearn"], _train_seconds(ideal)),
                    ways=self._ways(),
                )
            self._warn(run, self._judge(initial, unlearned, measured))
            with stage(self.stages, "report"):
                path = self._write_json(run.run_id, config_hash, unlearned, measured)
                self._log(run, unlearned, measured, path)
                self._report(run, initial, ideal, unlearned, measured)
            self.stages["total"] = time.perf_counter() - started
            run.metrics({f"stage_{stage}_seconds": seconds for stage, seconds in self.stages.items()})
        return Result(
            run_id=run.run_id,
            name=self.name,
            unlearned=unlearned,
            metrics=measured.model,
            initial=measured.initial,
            ideal=measured.ideal,
            undefined=measured.undefined,
            stages=self.stages,
            json_path=path,
            notes=[f"warning: {self.name}: {warning}" for warning in self.warnings] + self._notes(initial, ideal),
            checkpoints=self.intermediate.metrics,
            chosen=self.config.metrics,
            seed=self.config.base.seed,
        )

    def _log_code(self, run: TrackedRun) -> None:
        """The users' files as they were run."""
        entries = (self.method, self.base.architecture, DATASETS[self.config.base.dataset])
        with tempfile.TemporaryDirectory() as folder:
            for name, code in {(entry.file.name, entry.code) for entry in entries if entry.file is not None and entry.code is not None}:
                (Path(folder) / name).write_bytes(code)
                run.file(Path(folder) / name, "code")

    def _check_untouched(self, initial: Trained) -> None:
        """ValueError where a method wrote into the model that all others start from."""
        if model_digest(initial.model) != self.initial_digest:
            raise ValueError(
                f"{self.method.name}: expected a method that leaves the model it is given as it was, got one that changed it. "
                "Work on copy_of(model)"
            )

    def _judge(self, initial: Trained, unlearned: Unlearned, measured: Measured) -> list[str]:
        by_design = self.method.facts.leaves_weights
        return judge(initial.model, unlearned, measured, classes=self.base.splits.classes, leaves_weights=by_design)

    def _warn(self, run: TrackedRun, warnings: list[str]) -> None:
        """Add to the run's warnings, which its tag holds as soon as they are known."""
        self.warnings += warnings
        if warnings:
            run.tags({"warning": "; ".join(self.warnings)})

    @contextmanager
    def _divergence_told(self, run: TrackedRun) -> Iterator[None]:
        """What a method raises when it diverges ends the run, which then has the warning too."""
        try:
            yield
        except FloatingPointError as error:
            self._warn(run, [f"diverged: {error}"])
            if self.intermediate.metrics:
                run.text(json.dumps(self.intermediate.metrics, indent=2), "checkpoints.json")
            raise

    def _count_masked(self, run: TrackedRun, unlearned: Unlearned) -> list[str]:
        """Log how many weights really are switched off; a warning where that is fewer than were asked for."""
        if unlearned.mask is None:
            return []
        asked, self.counts[MASKED] = self.asked.get(MASKED), unlearned.mask.kappa_count
        run.params({MASKED: self.counts[MASKED]})
        if asked in (None, self.counts[MASKED]):  # None: a method that declares no amounts
            return []
        return [f"{self.counts[MASKED]} weights were switched off, fewer than the {asked} asked for"]

    def _notes(self, initial: Trained, ideal: Trained | None) -> list[str]:
        """What a reader of the numbers should know."""
        notes = [] if ideal else [f"no ideal model to compare with. Make it: {self.base.ideal_command()}"]
        if initial.metadata and initial.metadata.seed != self.config.base.seed:
            notes.append(f"the initial model in {initial.path} was trained with seed {initial.metadata.seed}, not {self.config.base.seed}")
        return notes

    def params(self) -> dict[str, Any]:
        """Every setting, resolved values too."""
        base = self.config.base
        return {
            "unlearn": self.method.name,
            "unlearn_file": self.method.file,
            "arch_file": self.base.architecture.file,
            "dataset": self.base.splits.dataset,
            "dataset_file": origin(base.dataset),
            "data": base.data,
            "arch": self.base.architecture.name,
            "num_classes": self.base.splits.classes,
            "epochs": self.base.epochs,
            "seed": base.seed,
            "split_seed": base.split_seed,
            "class_to_replace": " ".join(map(str, base.request.classes)),
            "num_indexes_to_replace": base.request.number,
            "forget_indexes": base.request.file,
            "request": self.base.request_slug,
            "forget_count": len(self.data.forget),
            "retain_count": len(self.data.retain),
            "save_dir": self.base.save_dir,
            "mask": self.base.initial_path,
            "ideal": self.config.ideal,
            "device": self.base.device,
            "experiment": self.experiment,
            "checkpoint_epochs": ",".join(map(str, self.checkpoint_epochs)),
            "metrics": ",".join(self.config.metrics),
            "report": self.config.report,
            **self._recipe(),
            **self.base.options,
            **self.settings,
            **self.counts,
        }

    def _recipe(self) -> dict[str, Any]:
        """How the base models are trained, by the names of the flags; and what of it is not as usual for this architecture and dataset."""
        unusual = {name.removeprefix(PREFIX): value for name, value in sorted(self.base.training.items())}
        words = [f"{name}={','.join(value) if isinstance(value, tuple) else value}" for name, value in unusual.items()]
        settings = asdict(self.base.recipe) | {"augment": ",".join(augmentations(self.base.recipe.augment)) or "none"}
        every = {f"{PREFIX}{name}": value for name, value in settings.items() if name != "epochs"}
        return every | {"training": " ".join(words) or "default"}

    def config_hash(self, initial: Trained, ideal: Trained | None) -> str:
        """SHA-256 of every setting that changes the result, the weights of the base models and Lethe's version."""
        decisive = {
            "method": self.method.identity,
            "settings": self.settings,
            "request": self.base.request_slug,
            "split": self.base.splits.digest,
            "seed": self.config.base.seed,
            "arch": self.base.architecture.identity,
            "initial": model_digest(initial.model),
            "ideal": model_digest(ideal.model) if ideal else None,
            "version": __version__,
        }
        if self.checkpoint_epochs:
            decisive["checkpoint_epochs"] = self.checkpoint_epochs
        if self.base.training:
            decisive["training"] = self.base.training
        if self.base.unusual:  # what an option does may show in no weight
            decisive["options"] = self.base.unusual
        if "oracles" in self.method.facts.needs:  # models of the same epochs and shape, whose weights are not in here
            decisive |= {"epochs": self.base.epochs, "options": dict(self.base.options)}
        if self.config.metrics != (DEFAULT,):
            decisive["metrics"] = sorted(metric.identity for metric in self.metrics)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def _forget_data(self) -> ForgetData:
        return ForgetData.of(
            self.base.splits,
            self.config.base.request,
            seed=self.config.base.seed,
            device=self.base.device,
            cache=DiskCache(self.base.save_dir / "cache"),
            progress=self.progress,
            on_epoch=self._on_epoch,
            ideal=lambda: self.base.ideal().model,
            oracles=Oracles(partial(oracles_of, self.base), judges=self.judges),
        )

    def _on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Look at an intermediate model, without a trace in it, in the random state, or in the seconds of the stage it is in."""
        with undisturbed(self.base.device):
            with stage(self.stages, "epoch_scores"):
                self.intermediate.score(model, epoch, self.data)
            if epoch in self.checkpoint_epochs:
                with stage(self.stages, "checkpoint_evaluation"):
                    self.intermediate.evaluate(model, epoch, self.data, self.base.splits.test)

    def _base_models(self, initial: Trained, ideal: Trained | None) -> dict[str, nn.Module]:
        """What the unlearned model is compared with."""
        return {"initial": initial.model, INCOMPETENT: self.base.incompetent()} | ({"ideal": ideal.model} if ideal else {})

    def _ways(self) -> dict[str, str]:
        """The commands that make what a metric may need and a run may not have."""
        return {"ideal": self.base.ideal_command()}

    def _know(self, base_models: Mapping[str, nn.Module]) -> None:
        """Intermediate models are compared with the base models, which are evaluated for that, and for the final model, once."""
        if self.checkpoint_epochs:
            with stage(self.stages, "checkpoint_evaluation"):
                self.intermediate.others = evidence_of_others(base_models, self.data, self.base.splits.test, self.metrics)

    def _amounts(self) -> tuple[dict[str, Any], int]:
        """What the settings come to (amounts as numbers of weights), and the size of the masked layer that they are of (0 without one)."""
        model = self.base.untrained()
        counts = resolved(self.config.unlearn, model, self.data, self.settings)
        return counts, masked_layer(model, self.data, self.settings.get("mask_layer")).size if MASKED in counts else 0

    def tags(self) -> dict[str, str]:
        """Where a run comes from."""
        return {"lethe_version": __version__, "git_commit": git_commit(), "method_source": self.method.facts.source}

    def ideal(self) -> Trained | None:
        """The ideal model that the config asks for, loaded or trained."""
        needed = "ideal" in self.method.facts.needs
        wanted = {"train": True, "skip": False, "auto": needed or self.base.embedded or self.base.ideal_path.exists()}
        return self.base.ideal() if wanted[self.config.ideal] else None

    def _write_json(self, run_id: str, config_hash: str, unlearned: Unlearned, measured: Measured) -> Path:
        content = {
            "run_id": run_id,
            "params": {
                name: value if isinstance(value, (int, float, str, type(None))) else str(value) for name, value in self.params().items()
            },
            "config_hash": config_hash,
            "metrics": measured.model,
            "initial": measured.initial,
            "ideal": measured.ideal,
            "undefined": measured.undefined,
            "checkpoints": self.intermediate.metrics,
            "checkpoints_undefined": self.intermediate.undefined,
            "warnings": self.warnings,
            "facts": unlearned.facts,
            "stages": self.stages,
            "versions": library_versions(),
        }
        kind = f"{self.base.architecture.name}_{self.base.splits.dataset}"
        amounts = f"top-{self.settings.get('topk', 'none')}_kappa_{self.settings.get('kappa', 'none')}"
        name = f"{self.method.name}_{self.base.request_slug}_seed{self.config.base.seed}_{config_hash[:8]}.json"
        path = JSON_FOLDER / re.sub(r"[^\w.+%-]", "_", f"{kind}_{amounts}") / name
        write_bytes(path, json.dumps(content, indent=2, sort_keys=True).encode(), METRICS_WAY_OUT)
        return path

    def _log(self, run: TrackedRun, unlearned: Unlearned, measured: Measured, json_path: Path) -> None:
        self._log_checkpoints(run, measured)
        run.metrics(measured.model, step=self.intermediate.last_step)
        run.metrics({f"initial_{name}": value for name, value in measured.initial.items()})
        run.metrics({f"ideal_{name}": value for name, value in measured.ideal.items()})
        run.metrics({"unlearn_seconds": self.stages["unlearn"]} | {f"unlearn_{stage}_seconds": s for stage, s in unlearned.stages.items()})
        run.metrics({name: value for name, value in unlearned.facts.items() if not isinstance(value, str)})
        run.tags({name: value for name, value in unlearned.facts.items() if isinstance(value, str)})
        run.tags({f"undefined.{name}": reason for name, reason in measured.undefined.items()})
        run.history(unlearned.history, "unlearn_")
        for epoch, scores in self.intermediate.scores.items():
            run.metrics({f"epoch_{name}": score for name, score in scores.items()}, step=epoch)
        for name, images in (("forget", self.data.forget), ("retain", self.data.retain), ("test", self.base.splits.test)):
            run.image_set(f"{self.base.splits.dataset} {name}", images.digest, self.base.splits.dataset, name)
        run.file(json_path)
        run.text("".join(f"{index}\n" for index in self.data.forget.indexes.tolist()), FORGET_LIST)
        with tempfile.TemporaryDirectory() as folder:
            for path in [*self._saved(Path(folder), unlearned, run.run_id), self._per_image(Path(folder), measured, run.run_id)]:
                run.file(path)

    def _log_checkpoints(self, run: TrackedRun, measured: Measured) -> None:
        """The intermediate models as earlier steps of the final model's metrics.

        MLflow shows a metric's last step. Nothing intermediate may pass for final: what the final model has no value of is in
        the raw metrics alone, and nothing is logged here while the method runs.
        """
        steps = self.intermediate.metrics.items()
        run.points({epoch: {name: value for name, value in values.items() if name in measured.model} for epoch, values in steps})

    def _report(self, run: TrackedRun, initial: Trained, ideal: Trained | None, unlearned: Unlearned, measured: Measured) -> None:
        """The verdict in words, as a tag and in the run's description; and unless they are to be skipped, the pictures and the page."""
        facts = run_facts(self, run.run_id, initial, ideal, unlearned, measured, self._notes(initial, ideal))
        told = verdict(facts.measured)
        run.tags({"verdict": told.headline})
        run.note(run_note(facts, told))
        if self.config.report != "skip":
            self._draw(run, initial.model, unlearned, measured)
            run.text(html_report(facts, told), REPORT)

    def _draw(self, run: TrackedRun, initial: nn.Module, unlearned: Unlearned, measured: Measured) -> None:
        """What the forget images are taken for, how sure the models are, and where there is a mask, what it switches off."""
        dataset, request = self.base.splits.dataset, self.base.request_slug
        bars = {name: evidence.forget.probabilities.mean(0).tolist() for name, evidence in measured.evidence.items()}
        title = f"{self.method.name}: forget images of {dataset}, {request}"
        run.picture(class_probabilities(bars, self.base.splits.class_names, title=title), "class_probabilities.png")
        margins = {name: _margins(evidence) for name, evidence in measured.evidence.items()}
        before, after, ideal = margins["initial model"], margins["unlearned model"], margins.get("ideal model")
        run.picture(margin_histograms(before, after, ideal, title=f"{self.method.name}: {dataset}, {request}"), "margins.png")
        if unlearned.mask is not None:
            weight, keep = initial.get_parameter(f"{unlearned.mask.layer}.weight"), unlearned.mask.keep
            title = f"{self.method.name}: {unlearned.mask.layer} of {dataset} {self.base.architecture.name}, {request}"
            run.picture(masked_layer_image(weight, keep, title=title), "layer.png")
            run.picture(weight_histogram(weight, keep, title=title), "layer_weights.png")

    def _saved(self, folder: Path, unlearned: Unlearned, run_id: str) -> list[Path]:
        """The unlearned model and the mask as files."""
        metadata = self.base.metadata(f"unlearned {self.base.request_slug} by {self.method.name}", versions=library_versions())
        files = [folder / "unlearned.safetensors"]
        save_checkpoint(files[0], unlearned.model, metadata)
        if unlearned.mask is not None:
            files.append(folder / "mask.safetensors")
            header = {"method": self.method.name, "request": self.base.request_slug, "run_id": run_id, "dataset": self.base.splits.dataset}
            save_mask(files[1], unlearned.mask, header)
        return files

    def _per_image(self, folder: Path, measured: Measured, run_id: str) -> Path:
        """What each model says of each image, as a file."""
        models = {name.removesuffix(" model"): own for name, own in measured.evidence.items()}
        models |= {INCOMPETENT: measured.incompetent} if measured.incompetent else {}
        sets = {"forget": self.data.forget, "retain": self.data.retain, "validation": self.data.validation, "test": self.base.splits.test}
        about: dict[str, Any] = {
            "run_id": run_id,
            "dataset": self.base.splits.dataset,
            "method": self.method.name,
            "request": self.base.request_slug,
        }
        about |= {"seed": self.data.seed, "forget_classes": self.data.forget_classes, "version": __version__}
        path = folder / "per_image.parquet"
        write_per_image(per_image(models, {name: images.indexes for name, images in sets.items()}, about), path)
        return path


def _margins(evidence: Evidence) -> dict[str, Tensor]:
    """The margins of forget and of test images; where a class was forgotten whole, of its test images and of the others'."""
    sets = {"forget images": evidence.forget}
    if evidence.forget_classes:
        sets |= {"test images of the forgotten": evidence.test_forget, "test images of the others": evidence.test_retain}
    else:
        sets |= {"test images": evidence.test}
    return {name: outputs.margins for name, outputs in sets.items() if len(outputs)}


def _train_seconds(trained: Trained | None) -> float | None:
    """What a model's checkpoint says of its training's time; None where it does not."""
    seconds = math.nan if trained is None or trained.metadata is None else trained.metadata.train_seconds
    return seconds if math.isfinite(seconds) else None


def _provenance(name: str, trained: Trained | None) -> dict[str, Any]:
    """Whether a base model was loaded or trained here, and what its checkpoint says of its making."""
    if trained is None:
        return {f"{name}_model": "none"}
    about: dict[str, Any] = {
        f"{name}_model": "loaded" if trained.loaded else "trained",
        f"{name}_checkpoint": trained.path,
        f"{name}_digest": model_digest(trained.model),
    }
    if trained.metadata is not None:
        about |= {f"{name}_seed": trained.metadata.seed, f"{name}_epochs": trained.metadata.epochs}
        about |= {f"{name}_computed": trained.metadata.computed} if trained.metadata.computed else {}
        if math.isfinite(trained.metadata.train_seconds):
            about |= {f"{name}_train_seconds": trained.metadata.train_seconds}
    return about


def experiment_of(config: PipelineConfig) -> str:
    """The name of the MLflow experiment that the config's run is in."""
    dataset = DATASETS[config.base.dataset]
    return config.experiment or f"{dataset.name}-{ARCHITECTURES[config.base.arch or dataset.facts.arch].name}"


def git_commit() -> str:
    """The commit of the project's checkout, "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
