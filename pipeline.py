"""The experiment as an object: initial model -> unlearn -> evaluate -> one MLflow run.

from pipeline import Pipeline, PipelineConfig
result = Pipeline(PipelineConfig(unlearn="MIMU", settings={"topk": 50, "kappa": 0.1})).run()
result.metrics["test_forget_score"]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from base_models import BaseModels, Trained, check_retrained
from evaluation import DEFAULT, Times, chosen, names_in
from intermediate_models import Intermediate, checked, undisturbed
from measurement import INCOMPETENT, Measured, measure, of_intermediate_models, outputs_of_others
from model_sets import oracles_of
from registry import Entry
from reporter.run_warning import RunWarning, in_one_line
from run_artifacts import JSON_FOLDER, METRICS_WAY_OUT, MeasuredRun, log_code, log_report, log_results, write_json
from run_settings import (
    AUTO,
    MASKED,
    PipelineConfig,
    augmentation_of,
    config_hash_of,
    experiment_of,
    origin_tags,
    provenance,
    run_params,
    train_seconds,
)
from run_warnings import warnings_of
from timed import timed
from tracking.run import TrackedRun, tracked_run
from tracking.store import check_store
from training import DiskCache, Progress, check_writable, model_digest, silent, warm_up
from unlearn import METHODS, ForgetData, Oracles, Unlearned, masked_layer, resolved, unlearn
from vision_data import DATASETS

NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Result:
    """What one run measured, and where it is. `checkpoints`: the metrics after each of the config's checkpoint_epochs.

    `setting`: what runs of other seeds share with it. `chosen`: the config's choice of metrics. `forgotten`: what was to be
    forgotten, in words.
    """

    run_id: str
    name: str
    setting: str
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
    forgotten: str = ""


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
        if base is not None and config.base not in (base.asked, base.config):
            raise ValueError("expected the base models of this config, got those of another. Make them with BaseModels(config.base)")
        self.base = base or BaseModels(config.base, progress=progress)
        self.config = replace(config, base=self.base.config)
        self.augment = augmentation_of(config.unlearn_augment, self.method, self.base)
        if self._wants_ideal():
            self.base.check_trainable(self.base.request_identity)
        self.data = self._forget_data()
        self.asked, self.layer_size = self._amounts()
        self.checkpoint_epochs = checked(config.checkpoint_epochs, self.settings | self.asked)
        self.experiment = experiment_of(config)
        self._start_afresh()
        check_writable(self.base.save_dir / "cache")
        check_writable(JSON_FOLDER, METRICS_WAY_OUT)
        check_store(self.experiment)

    @property
    def name(self) -> str:
        """The run's name: method, request, seed, and the settings that were given."""
        return " ".join([*self._asked, f"seed{self.config.base.seed}", *self._given])

    @property
    def setting(self) -> str:
        """What runs share that differ in the seed alone."""
        return " ".join([*self._asked, *self._given])

    @property
    def _asked(self) -> list[str]:
        return [self.method.name, self.base.request_slug]

    @property
    def _given(self) -> list[str]:
        given = [f"{name}={value}" for name, value in self.config.settings.items()]
        if self.config.unlearn_augment != AUTO:
            given.append(f"unlearn_augment={','.join(self.config.unlearn_augment)}")
        return given

    @property
    def entries(self) -> list[Entry[Any]]:
        """What may be a person's own code: the method, the architecture, the dataset, metrics."""
        return [self.method, self.base.architecture, DATASETS[self.config.base.dataset], *self.metrics]

    def _start_afresh(self) -> None:
        """Nothing of an earlier run counts for the next."""
        self.counts = dict(self.asked)
        self.intermediate = Intermediate(self.checkpoint_epochs, of_intermediate_models(self.metrics), commands=self._commands())
        self.warnings: list[RunWarning] = []
        self.stages: dict[str, float] = {}

    def run(self, *, nested: bool = False, tags: Mapping[str, str] = NO_TAGS) -> Result:
        """Do it, in one MLflow run, with more tags from its beginning if any are given; an exception ends that FAILED with the error
        in a tag, Ctrl-C KILLED."""
        started = time.perf_counter()
        self._start_afresh()
        tags = {**origin_tags(self), **tags}
        with tracked_run(self.experiment, self.name, nested=nested, tags=tags, columns=names_in("overview")) as run:
            self.stages["tracking_start"] = time.perf_counter() - started
            run.params({name: value for name, value in run_params(self).items() if name != MASKED})
            log_code(run, self.entries)
            tell_missing(self.base)
            with timed(self.stages, "initial"):
                initial = self.base.initial()
            with timed(self.stages, "ideal"):
                ideal = self.ideal()
            if ideal is not None:
                check_retrained(initial.model, ideal.model, ideal.path)
            run.params(provenance("initial", initial) | provenance("ideal", ideal))
            self.initial_digest = model_digest(initial.model)
            config_hash = config_hash_of(self, initial, ideal)
            run.tags({"config_hash": config_hash})
            run.history(initial.history, "initial_train_")
            base_models = self._base_models(initial, ideal)
            self._evaluate_base_models(base_models)
            warm_up()
            with timed(self.stages, "unlearn"), self._divergence_told(run):
                unlearned = unlearn(self.config.unlearn, initial.model, self.data, **self.settings)
            self._check_untouched(initial)
            run.params({"unlearned_digest": model_digest(unlearned.model)})
            self._warn(run, self._count_masked(run, unlearned) + self.intermediate.warnings())
            with timed(self.stages, "evaluate"), self._divergence_told(run):
                measured = measure(
                    unlearned.model,
                    base_models,
                    self.data,
                    self.base.splits.test,
                    metrics=self.metrics,
                    others=self.intermediate.others or None,  # evaluated already, for the intermediate models
                    times=Times(self.stages["unlearn"], train_seconds(ideal)),
                    commands=self._commands(),
                )
            self.warnings += self._warnings_of(initial, unlearned, measured)
            with timed(self.stages, "report"):
                done = MeasuredRun(self, initial, ideal, unlearned, measured)
                path = run.raw = write_json(done, run.run_id)  # before the store is asked for anything: it may be away
                self._warn(run, [])
                log_results(run, done, path)
                log_report(run, done)
            self.stages["total"] = time.perf_counter() - started
            run.metrics({f"stage_{stage}_seconds": seconds for stage, seconds in self.stages.items()})
        return Result(
            run_id=run.run_id,
            name=self.name,
            setting=self.setting,
            unlearned=unlearned,
            metrics=measured.model,
            initial=measured.initial,
            ideal=measured.ideal,
            undefined=measured.undefined,
            stages=self.stages,
            json_path=path,
            notes=[f"warning: {self.name}: {warning.text}" for warning in self.warnings] + done.notes,
            checkpoints=self.intermediate.metrics,
            chosen=self.config.metrics,
            seed=self.config.base.seed,
            forgotten=self.base.forgotten,
        )

    def _check_untouched(self, initial: Trained) -> None:
        """ValueError where a method wrote into the model that all others start from."""
        if model_digest(initial.model) != self.initial_digest:
            raise ValueError(
                f"{self.method.name}: expected a method that leaves the model it is given as it was, got one that changed it. "
                "Work on copy_of(model)"
            )

    def _warnings_of(self, initial: Trained, unlearned: Unlearned, measured: Measured) -> list[RunWarning]:
        by_design = self.method.facts.leaves_weights
        return warnings_of(initial.model, unlearned, measured, classes=self.base.splits.classes, leaves_weights=by_design)

    def _warn(self, run: TrackedRun, warnings: list[RunWarning]) -> None:
        """Add to the run's warnings, which its tag holds as soon as they are known."""
        self.warnings += warnings
        if self.warnings:
            run.tags({"warning": in_one_line(self.warnings)})

    @contextmanager
    def _divergence_told(self, run: TrackedRun) -> Iterator[None]:
        """What a method raises when it diverges ends the run, which then has the warning too."""
        try:
            yield
        except FloatingPointError as error:
            self._warn(run, [RunWarning("diverged", f"diverged: {error}")])
            if self.intermediate.metrics:
                run.text(json.dumps(self.intermediate.metrics, indent=2), "checkpoints.json")
            raise

    def _count_masked(self, run: TrackedRun, unlearned: Unlearned) -> list[RunWarning]:
        """Log how many weights really are switched off; a warning where that is fewer than were asked for."""
        if unlearned.mask is None:
            return []
        asked, self.counts[MASKED] = self.asked.get(MASKED), unlearned.mask.kappa_count
        run.params({MASKED: self.counts[MASKED]})
        if asked in (None, self.counts[MASKED]):  # None: a method that declares no amounts
            return []
        text = f"{self.counts[MASKED]} weights were switched off, fewer than the {asked} asked for"
        return [RunWarning("fewer masked", text)]

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
            augment=self.augment,
        )

    def _on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Look at an intermediate model, without a trace in it, in the random state, or in the seconds of the stage it is in."""
        with undisturbed(self.base.device):
            with timed(self.stages, "epoch_scores"):
                self.intermediate.score(model, epoch, self.data)
            if epoch in self.checkpoint_epochs:
                with timed(self.stages, "checkpoint_evaluation"):
                    self.intermediate.evaluate(model, epoch, self.data, self.base.splits.test)

    def _base_models(self, initial: Trained, ideal: Trained | None) -> dict[str, nn.Module]:
        """What the unlearned model is compared with."""
        return {"initial": initial.model, INCOMPETENT: self.base.incompetent()} | ({"ideal": ideal.model} if ideal else {})

    def _commands(self) -> dict[str, str]:
        """The commands that make what a metric may need and a run may not have."""
        return {"ideal": self.base.ideal_command()}

    def _evaluate_base_models(self, base_models: Mapping[str, nn.Module]) -> None:
        """Intermediate models are compared with the base models, which are evaluated for that, and for the final model, once."""
        if self.checkpoint_epochs:
            with timed(self.stages, "checkpoint_evaluation"):
                self.intermediate.others = outputs_of_others(base_models, self.data, self.base.splits.test, self.metrics)

    def _amounts(self) -> tuple[dict[str, Any], int]:
        """What the settings come to (amounts as numbers of weights), and the size of the masked layer that they are of (0 without one)."""
        model = self.base.untrained()
        counts = resolved(self.config.unlearn, model, self.data, self.settings)
        return counts, masked_layer(model, self.data, self.settings.get("mask_layer")).size if MASKED in counts else 0

    def ideal(self) -> Trained | None:
        """The ideal model that the config asks for, loaded or trained."""
        return self.base.ideal() if self._wants_ideal() else None

    def _wants_ideal(self) -> bool:
        needed = "ideal" in self.method.facts.needs
        wanted = {"train": True, "skip": False, "auto": needed or self.base.embedded or self.base.ideal_path.exists()}
        return wanted[self.config.ideal]


def tell_missing(base: BaseModels) -> None:
    """A line on stderr where the checkpoint that is named is not there: another model takes its place."""
    mask = base.config.mask
    if mask is not None and not mask.exists():
        print(f"warning: --mask: there is no file {mask}. A new initial model is trained, and saved there", file=sys.stderr)
