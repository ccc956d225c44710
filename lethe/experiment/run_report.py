"""The facts for a run's HTML report, from the run's record."""

from __future__ import annotations

from dataclasses import replace

from lethe.evaluation import ModelOutputs
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.identity import run_params
from lethe.experiment.record import RunRecord
from lethe.experiment.run_config import PipelineConfig, flags_of
from lethe.flag_words import command
from lethe.report.kappa_chart import kappa_curve
from lethe.report.layer_charts import Layer
from lethe.report.run_facts import ForgetImages, History, RunFacts
from lethe.report.svg import Picture
from lethe.report.verdict import Measurements, undecided_models
from lethe.training import library_versions

FORGET_LIST = "forget_indexes.txt"  # the run's artifact


def run_facts(record: RunRecord) -> RunFacts:
    """Return the facts for the report of a run."""
    checked, measured, unlearned = record.checked, record.measured, record.unlearned
    base, data, config = checked.base, checked.data, checked.config
    outputs = {name.removesuffix(" model"): own for name, own in measured.outputs.items()}
    layer = None
    if unlearned.mask is not None:
        layer = Layer(
            unlearned.mask.layer,
            record.initial.model.get_parameter(f"{unlearned.mask.layer}.weight").detach(),
            unlearned.mask.keep,
        )
    return RunFacts(
        name=checked.name,
        run_id=record.run_id,
        asked=f"Forget {base.forgotten}, {len(data.forget):,} of the {len(data.train):,} training images of "
        f"{base.splits.dataset}, in a model of architecture {base.architecture.name}.",
        method=checked.method.name,
        about=checked.method.summary,
        source=checked.method.facts.source,
        measured=Measurements(
            what=base.forgotten,
            whole=bool(data.forget_classes),
            classes=base.splits.classes,
            models=measured.sides,
            images=image_counts(outputs["unlearned"]),
            warnings=tuple(record.warnings),
            masked="" if layer is None else layer.switched_off,
            undecided=undecided_models(measured.undefined),
            commands=_commands(config) | {"ideal": base.ideal_command()},
        ),
        kinds=checked.metrics,
        undefined=measured.undefined,
        outputs=outputs,
        names=base.splits.class_names,
        params={name: value for name, value in sorted(run_params(checked).items()) if value is not None},
        command=command_of(config),
        layer=layer,
        over_kappa=_over_kappa(record),
        images=ForgetImages(data.forget.images, data.forget.normalisation.white, data.forget.indexes)
        if config.report == "full"
        else None,
        histories=_histories(record),
        stages=dict(record.stages),
        versions=library_versions(),
        notes=tuple(map(str, record.notes)),
    )


def command_of(config: PipelineConfig) -> str:
    """Return the command line of a config. Indexes without a file are the artifact forget_indexes.txt."""
    return command("forget", flags_of(replace(config, base=_with_file(config.base))))


def _commands(config: PipelineConfig) -> dict[str, str]:
    """Return the commands that measure what this config left out, by need."""
    everything = replace(config, metrics=("all",), ideal="auto" if config.ideal == "skip" else config.ideal)
    commands = {"all": command_of(everything)}
    if config.base.mask is None:  # one checkpoint is of one seed
        commands["seeds"] = f"{command_of(replace(config, base=replace(config.base, seed=1)))} --seed 1 2 3"
    return commands


def _with_file(base: BaseConfig) -> BaseConfig:
    request = base.request
    if request.indexes is None or request.file or request.choice is not None:
        return base
    return replace(base, request=replace(request, file=FORGET_LIST))


def image_counts(outputs: ModelOutputs) -> dict[str, int]:
    """Return the number of images by set; for whole classes also of test_forget and test_retain."""
    counts = {name: len(own) for name, own in outputs.sets.items()}
    if outputs.forget_classes:
        counts |= {"test_forget": len(outputs.test_forget), "test_retain": len(outputs.test_retain)}
    return counts


def _over_kappa(record: RunRecord) -> Picture | None:
    """Draw the masks among which the method chose, if it did."""
    found = record.unlearned.over_kappa
    if found is None:
        return None
    title, note = (
        "Masks of several sizes",
        "A point is a mask; the worse of its scores on training and validation images.",
    )
    size = record.checked.layer_size
    return kappa_curve(found.points, found.initial, title=title, size=size, note=note, chosen=found.chosen)


def _histories(record: RunRecord) -> list[History]:
    """Return the histories of the method, of its intermediate models, and of base models trained here."""
    found = [
        History("Unlearning", record.unlearned.history, "unlearned", record.unlearned.step),
        History("After each epoch", [*record.intermediate.scores.values()], "unlearned"),
        History("Training the initial model", record.initial.history, "initial"),
    ]
    if record.ideal is not None:
        found.append(History("Training the ideal model", record.ideal.history, "ideal"))
    return [history for history in found if history.steps]
