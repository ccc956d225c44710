"""One run: initial model -> unlearn -> evaluate -> one MLflow run.

from lethe.experiment.pipeline import Pipeline, PipelineConfig
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

from lethe.data.augmentation import Augmentation, augmentations, augmentations_of_flag, check_augmentable
from lethe.evaluation import DEFAULT, Missing, Times, chosen, names_in, needs_of
from lethe.evaluation.memorisation import Memorisation
from lethe.experiment.artifacts import (
    JSON_FOLDER,
    METRICS_WAY_OUT,
    log_code,
    log_report,
    log_results,
    write_json,
)
from lethe.experiment.base_models import BaseModels, Trained, check_retrained
from lethe.experiment.identity import (
    CHOSEN_LAYER,
    MASKED,
    CheckedConfig,
    check_files,
    config_hash_of,
    files_of,
    origin_tags,
    provenance,
    run_params,
    train_seconds,
)
from lethe.experiment.intermediate_models import Intermediate, checked_epochs
from lethe.experiment.measure import (
    INCOMPETENT,
    MEMORISATION,
    Measured,
    measure,
    of_intermediate_models,
    outputs_of_others,
)
from lethe.experiment.memorised import SHADOWS, memorisation_at_hand
from lethe.experiment.model_sets import command, oracles_of
from lethe.experiment.record import RunRecord
from lethe.experiment.run_config import AUGMENT_AUTO, PipelineConfig
from lethe.experiment.warnings import warnings_of
from lethe.flag_error import FlagError
from lethe.registry import Entry
from lethe.report.run_warning import RunWarning, in_one_line
from lethe.system.device import restored_random_state
from lethe.system.progress_place import progress_bar
from lethe.system.threads import computing_with
from lethe.system.timed import timed
from lethe.tracking.run import TrackedRun, tracked_run
from lethe.tracking.store import check_store
from lethe.training import (
    DiskCache,
    Progress,
    check_writable,
    model_digest,
    warm_up,
)
from lethe.unlearn import METHODS, ForgetData, Oracles, Unlearned, masked_layer, resolved, unlearn
from lethe.unlearn.amount import AUTO
from lethe.unlearn.impl import MethodFacts

NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Result:
    """The numbers of a run, and its place.

    setting: the name without the seed. checkpoints: metrics of the intermediate models, by epoch. chosen: the
    config's choice of metrics. forgotten: a description of the forget set.
    """

    run_id: str
    name: str
    setting: str
    unlearned: Unlearned
    metrics: dict[str, float]
    initial: dict[str, float]
    ideal: dict[str, float]
    undefined: dict[str, Missing]
    stages: dict[str, float]
    json_path: Path
    notes: list[str | Missing]
    params: dict[str, Any]
    checkpoints: dict[int, dict[str, float]] = field(default_factory=dict)
    chosen: tuple[str, ...] = (DEFAULT,)
    seed: int = 1
    forgotten: str = ""


class Pipeline:
    """Validates the config; writes nothing until `run`.

    Raises ValueError or FileNotFoundError, before anything is trained, for every mistake of a user: names,
    flags, amounts, the forget request, the layer, checkpoints, folders, a tracking server that does not
    answer.

    checked: the validated config. base: base models that several pipelines share; their `group` is that of
    the processes which compute the run together, each with a pipeline. judges: seeds of the oracles that the
    result is compared with, which no method may use (default: the config's own seed, that of the ideal
    model). progress: shows bars on stderr; `lethe.silent` shows none.
    """

    def __init__(
        self,
        config: PipelineConfig,
        *,
        progress: Progress = progress_bar,
        base: BaseModels | None = None,
        judges: Sequence[int] | None = None,
    ) -> None:
        self.progress = progress
        method = METHODS[config.unlearn].choosing(config.settings)
        settings, metrics = method.settings(config.settings), chosen(config.metrics)
        if config.ideal == "skip" and "ideal" in method.facts.needs:
            raise FlagError("ideal", f"{method.name} needs the ideal model, got skip. Leave the flag out")
        if base is not None and config.base not in (base.asked, base.config):
            raise ValueError(
                "expected the base models of this config, got those of another. Make them with "
                "BaseModels(config.base)"
            )
        self.base = base or BaseModels(config.base, progress=progress)
        self.group = self.base.group
        check_processes(method, self.group.size)
        config = replace(config, base=self.base.config)
        augment = augmentation_of(config.unlearn_augment, method, self.base)
        data = self._forget_data(augment, tuple(judges or (config.base.seed,)))
        model = self.base.untrained()
        counts = resolved(config.unlearn, model, data, settings)
        is_masking = MASKED in counts or settings.get("kappa") == AUTO
        asked_layer = settings.get("mask_layer")
        is_known = is_masking and asked_layer != AUTO
        layer_size = masked_layer(model, data, asked_layer).size if is_known else 0
        epochs = checked_epochs(config.checkpoint_epochs, settings | counts)
        self.checked = CheckedConfig(
            config,
            method,
            settings,
            metrics,
            self.base,
            data,
            augment,
            epochs,
            counts,
            layer_size,
            files_of(settings),
        )
        if self._wants_ideal():
            self.base.check_trainable(self.base.request_identity)
        self._start_afresh()
        if self.group.first:
            check_writable(self.base.save_dir / "cache")
            check_writable(JSON_FOLDER, METRICS_WAY_OUT)
            check_store(self.checked.experiment)

    def _start_afresh(self) -> None:
        """Clear everything that an earlier `run` left."""
        asked = of_intermediate_models(self.checked.metrics)
        self.intermediate = Intermediate(self.checked.checkpoint_epochs, asked, commands=self._commands())
        self.warnings: list[RunWarning] = []
        self.stages: dict[str, float] = {}

    def run(self, *, nested: bool = False, tags: Mapping[str, str] = NO_TAGS) -> Result:
        """Run in one MLflow run, with these tags from its beginning.

        An exception ends it as FAILED with the error in a tag, Ctrl-C as KILLED.
        """
        with computing_with(self.base.threads):
            return self._run(nested=nested, tags=tags)

    def _run(self, *, nested: bool, tags: Mapping[str, str]) -> Result:
        started = time.perf_counter()
        self._start_afresh()
        checked = self.checked
        tags = {**origin_tags(checked), **tags}
        with tracked_run(
            checked.experiment, checked.name, nested=nested, tags=tags, columns=names_in("overview")
        ) as run:
            self.stages["tracking_start"] = time.perf_counter() - started
            run.params({name: value for name, value in run_params(checked).items() if name != MASKED})
            log_code(run, checked.entries)
            _warn_of_missing_mask(self.base)
            with timed(self.stages, "initial"):
                initial = self.base.initial()
            with timed(self.stages, "ideal"):
                ideal = self.ideal()
            if ideal is not None:
                check_retrained(initial.model, ideal.model, ideal.path)
            with run.gathered():
                run.params(provenance("initial", initial) | provenance("ideal", ideal))
                run.tags({"config_hash": config_hash_of(checked, initial, ideal)})
            initial_digest = model_digest(initial.model)
            base_models = self._base_models(initial, ideal)
            self.intermediate.memorisation = self._memorisation()
            self._evaluate_base_models(base_models)
            if not checked.method.own:  # Lethe's own import nothing at their first step
                warm_up()
            check_files(checked)
            with timed(self.stages, "unlearn"), self._warning_of_divergence(run):
                unlearned = unlearn(checked.config.unlearn, initial.model, checked.data, **checked.settings)
            self._check_untouched(initial.model, initial_digest)
            with run.gathered():
                run.params({"unlearned_digest": model_digest(unlearned.model)})
                checked = self._with_masked(run, unlearned)
                self._warn(run, self.intermediate.warnings())
            with timed(self.stages, "evaluate"), self._warning_of_divergence(run):
                measured = self._measure(unlearned, base_models, ideal)
            self.warnings += self._warnings_of(initial, unlearned, measured)
            with timed(self.stages, "report"), run.gathered():
                record = RunRecord(
                    run_id=run.run_id,
                    checked=checked,
                    initial=initial,
                    ideal=ideal,
                    unlearned=unlearned,
                    measured=measured,
                    intermediate=self.intermediate,
                    stages=dict(self.stages),
                    warnings=tuple(self.warnings),
                )
                path = run.raw = write_json(record)  # before the store is asked for anything: it may be away
                self._warn(run, [])
                log_results(run, record, path)
                log_report(run, record)
            self.stages["total"] = time.perf_counter() - started
            run.metrics({f"stage_{stage}_seconds": seconds for stage, seconds in self.stages.items()})
        return self._result(record, path)

    def take_part(self) -> None:
        """Compute with the first process what it can't do alone: the base models and the unlearning.

        The other processes of the group call this where the first calls `run`, which evaluates and writes.
        """
        initial = self.base.initial()
        self.ideal()
        with computing_with(self.base.threads):
            unlearn(self.checked.config.unlearn, initial.model, self.checked.data, **self.checked.settings)

    def _result(self, record: RunRecord, path: Path) -> Result:
        """Return what Python gets of a finished run. path: the raw metrics JSON."""
        checked, measured = record.checked, record.measured
        warned = [f"warning: {checked.name}: {warning.text}" for warning in self.warnings]
        return Result(
            run_id=record.run_id,
            name=checked.name,
            setting=checked.setting,
            unlearned=record.unlearned,
            metrics=measured.model,
            initial=measured.initial,
            ideal=measured.ideal,
            undefined=measured.undefined,
            stages=self.stages,
            json_path=path,
            notes=[*warned, *record.notes],
            params=run_params(checked),
            checkpoints=self.intermediate.metrics,
            chosen=checked.config.metrics,
            seed=checked.config.base.seed,
            forgotten=self.base.forgotten,
        )

    def _check_untouched(self, initial: nn.Module, digest: str) -> None:
        """Raise ValueError if a method changed the initial model, which all methods start from."""
        if model_digest(initial) != digest:
            raise ValueError(
                f"{self.checked.method.name}: expected a method that leaves the model it is given as it was, "
                "got one that changed it. Work on copy_of(model)"
            )

    def _measure(
        self, unlearned: Unlearned, base_models: Mapping[str, nn.Module], ideal: Trained | None
    ) -> Measured:
        return measure(
            unlearned.model,
            base_models,
            self.checked.data,
            self.base.splits.test,
            metrics=self.checked.metrics,
            others=self.intermediate.others or None,  # evaluated already, for the intermediate models
            times=Times(self.stages["unlearn"], train_seconds(ideal)),
            commands=self._commands(),
            memorisation=self.intermediate.memorisation,
        )

    def _memorisation(self) -> Memorisation | None:
        """Return the memorisation of the forget images; None if no metric needs it, or without the models."""
        if not any(MEMORISATION in needs_of(metric.function) for metric in self.checked.metrics):
            return None
        with timed(self.stages, MEMORISATION):
            return memorisation_at_hand(self.base, self.checked.data.forget)

    def _warnings_of(self, initial: Trained, unlearned: Unlearned, measured: Measured) -> list[RunWarning]:
        by_design = self.checked.method.facts.leaves_weights
        return warnings_of(
            initial.model, unlearned, measured, classes=self.base.splits.classes, leaves_weights=by_design
        )

    def _warn(self, run: TrackedRun, warnings: list[RunWarning]) -> None:
        """Add warnings, and write all of them into the run's tag."""
        self.warnings += warnings
        if self.warnings:
            run.tags({"warning": in_one_line(self.warnings)})

    @contextmanager
    def _warning_of_divergence(self, run: TrackedRun) -> Iterator[None]:
        """Add a warning to the run if a method diverges, and raise its error."""
        try:
            yield
        except FloatingPointError as error:
            self._warn(run, [RunWarning("diverged", f"diverged: {error}")])
            if self.intermediate.metrics:
                run.text(json.dumps(self.intermediate.metrics, indent=2), "checkpoints.json")
            raise

    def _with_masked(self, run: TrackedRun, unlearned: Unlearned) -> CheckedConfig:
        """Return the checked config with the mask's own kappa; warn if it is smaller than asked for."""
        if unlearned.mask is None:
            return self.checked
        asked, switched_off = self.checked.counts.get(MASKED), unlearned.mask.kappa_count
        if asked not in (None, switched_off):  # None: a method that declares no amounts
            text = f"{switched_off} weights were switched off, fewer than the {asked} asked for"
            self._warn(run, [RunWarning("fewer masked", text)])
        found: dict[str, Any] = {MASKED: switched_off}
        if self.checked.settings.get("mask_layer") == AUTO:
            found[CHOSEN_LAYER] = unlearned.mask.layer
        run.params(found)
        counts, size = {**self.checked.counts, **found}, unlearned.mask.keep.numel()
        return replace(self.checked, counts=counts, layer_size=size)

    def _forget_data(self, augment: Augmentation, judges: tuple[int, ...]) -> ForgetData:
        return ForgetData.of_division(
            self.base.splits,
            self.base.division,
            seed=self.base.config.seed,
            device=self.base.device,
            cache=DiskCache(self.base.save_dir / "cache"),
            progress=self.progress,
            on_epoch=self._on_epoch if self.group.first else lambda model, epoch: None,
            ideal=lambda: self.base.ideal().model,
            oracles=Oracles(partial(oracles_of, self.base), judges=judges),
            updates=self.base.updates,
            augment=augment,
            group=self.group,
        )

    def _on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Evaluate an intermediate model; leave the random state and the seconds of the stage unchanged."""
        with restored_random_state(self.base.device):
            with timed(self.stages, "epoch_scores"):
                self.intermediate.score(model, epoch, self.checked.data)
            if epoch in self.checked.checkpoint_epochs:
                with timed(self.stages, "checkpoint_evaluation"):
                    self.intermediate.evaluate(model, epoch, self.checked.data, self.base.splits.test)

    def _base_models(self, initial: Trained, ideal: Trained | None) -> dict[str, nn.Module]:
        """Return the models that the unlearned model is compared with."""
        return {"initial": initial.model, INCOMPETENT: self.base.incompetent()} | (
            {"ideal": ideal.model} if ideal else {}
        )

    def _commands(self) -> dict[str, str]:
        """Return the commands that make missing inputs of metrics."""
        shadows = command(self.base, "shadows", SHADOWS)
        return {"ideal": self.base.ideal_command(), MEMORISATION: shadows}

    def _evaluate_base_models(self, base_models: Mapping[str, nn.Module]) -> None:
        """Evaluate the base models once, for the intermediate models and the final one."""
        if self.checked.checkpoint_epochs:
            with timed(self.stages, "checkpoint_evaluation"):
                data, metrics = self.checked.data, self.checked.metrics
                self.intermediate.others = outputs_of_others(
                    base_models, data, self.base.splits.test, metrics
                )

    def ideal(self) -> Trained | None:
        """Load or train the ideal model if the config asks for it."""
        return self.base.ideal() if self._wants_ideal() else None

    def _wants_ideal(self) -> bool:
        if self.checked.config.ideal != "auto":
            return self.checked.config.ideal == "train"
        needed = "ideal" in self.checked.method.facts.needs
        return needed or self.base.embedded or self.group.broadcast(self.base.ideal_path.exists())


def check_processes(method: Entry[MethodFacts], processes: int) -> None:
    """Raise ValueError for several processes and a method that does not share its batches among them."""
    if processes > 1 and not method.facts.parallel:
        raise FlagError(
            "unlearn",
            f"{method.name} computes in one process, got {processes} of torchrun (WORLD_SIZE). Start it "
            "without torchrun; docs/methods.md says which methods take several",
        )


def _warn_of_missing_mask(base: BaseModels) -> None:
    """Print a warning if the checkpoint of --mask is missing: a new model takes its place."""
    mask = base.config.mask
    if mask is not None and not mask.exists():
        text = f"there is no file {mask}. A new initial model is trained, and saved there"
        print(f"warning: --mask: {text}", file=sys.stderr)


def augmentation_of(asked: Sequence[str], method: Entry[MethodFacts], base: BaseModels) -> tuple[str, ...]:
    """Return the augmentations of the images that the method trains on; () if it trains on none.

    Raises ValueError for unknown kinds, for kinds that these images can't take, and for a method that trains
    on no images.
    """
    trains_on_none = method.facts.augments == ()
    if tuple(asked) == AUGMENT_AUTO:
        return () if trains_on_none else augmentations(base.recipe.augment)
    try:
        kinds = augmentations_of_flag(asked)
        check_augmentable(kinds, base.splits.train.image_shape)
    except ValueError as error:
        raise FlagError(
            "unlearn_augment", f"{error}. Or leave the flag out, for what the base models' recipe does"
        ) from error
    if kinds and trains_on_none:
        raise FlagError(
            "unlearn_augment",
            f"{method.name} does not train on augmented images (docs/methods.md says which methods do), got "
            f"{','.join(kinds)}. Leave the flag out",
        )
    return kinds
