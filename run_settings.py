"""The settings of a run: what may be asked for, its params, the hash of what decides its result, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from base_models import BaseConfig, BaseModels, Trained
from evaluation import DEFAULT
from models import ARCHITECTURES
from registry import Entry, __version__
from training import checkpoint_header_digest, model_digest
from training.recipe import PREFIX
from unlearn.impl import MethodFacts
from vision_data import DATA, DATASETS, origin
from vision_data.augmentation import augmentations, augmentations_of_flag, check_augmentable
from vision_data.reading import FLAGS as READING

if TYPE_CHECKING:
    from pipeline import Pipeline

MASKED = "kappa_count"  # known for certain only once the mask is made
AUTO = ("auto",)  # augment as the base models' recipe does


@dataclass(frozen=True)
class PipelineConfig:
    """One experiment: a method with its own settings, on base models, under an experiment's name.

    metrics: "default", "all" (the costly ones too), names; see evaluation.chosen. report: pictures and an HTML page; the page without
    images of the forget set; neither. unlearn_augment: what the images go through that the method trains on: ("auto",), as the base
    models' recipe has it; ("none",); or some of crop, flip, cutout.
    """

    unlearn: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: BaseConfig = field(default_factory=BaseConfig)
    ideal: Literal["auto", "train", "skip"] = "auto"
    experiment: str | None = None
    checkpoint_epochs: tuple[int, ...] = ()
    metrics: tuple[str, ...] = (DEFAULT,)
    report: Literal["full", "no_images", "skip"] = "full"
    unlearn_augment: tuple[str, ...] = AUTO


def experiment_of(config: PipelineConfig) -> str:
    """The name of the MLflow experiment that the config's run is in."""
    dataset = DATASETS[config.base.dataset]
    return config.experiment or f"{dataset.name}-{ARCHITECTURES[config.base.arch or dataset.facts.arch].name}"


def augmentation_of(asked: Sequence[str], method: Entry[MethodFacts], base: BaseModels) -> tuple[str, ...]:
    """What is done to the images that the method trains on; nothing where it trains on none, whatever the base models' recipe says.

    Raises ValueError for kinds that there are not, that these images can't take, or that the method has no use for.
    """
    trains_on_none = method.facts.augments == ()
    if tuple(asked) == AUTO:
        return () if trains_on_none else augmentations(base.recipe.augment)
    try:
        kinds = augmentations_of_flag(asked)
        check_augmentable(kinds, base.splits.train.image_shape)
    except ValueError as error:
        raise ValueError(f"--unlearn_augment: {error}. Or leave the flag out, for what the base models' recipe does") from error
    if kinds and trains_on_none:
        raise ValueError(
            f"--unlearn_augment: {method.name} does not train on augmented images (docs/methods.md says which methods do), got "
            f"{','.join(kinds)}. Leave the flag out"
        )
    return kinds


def run_params(experiment: Pipeline) -> dict[str, Any]:
    """Every setting, resolved values too."""
    base = experiment.config.base
    return {
        "unlearn": experiment.method.name,
        "unlearn_file": experiment.method.file,
        "arch_file": experiment.base.architecture.file,
        "dataset": experiment.base.splits.dataset,
        "dataset_file": origin(base.dataset),
        "data": base.data,
        "arch": experiment.base.architecture.name,
        "num_classes": experiment.base.splits.classes,
        "epochs": experiment.base.epochs,
        "seed": base.seed,
        "split_seed": base.split_seed,
        "normalize": experiment.base.normalize,
        "class_to_replace": " ".join(map(str, base.request.classes)),
        "num_indexes_to_replace": base.request.number,
        "forget_indexes": base.request.file,
        "request": experiment.base.request_slug,
        "forget_request": experiment.base.forgotten,
        "forget_count": len(experiment.data.forget),
        "retain_count": len(experiment.data.retain),
        "save_dir": experiment.base.save_dir,
        "mask": experiment.base.initial_path,
        "ideal": experiment.config.ideal,
        "device": experiment.base.device,
        "experiment": experiment.experiment,
        "checkpoint_epochs": ",".join(map(str, experiment.checkpoint_epochs)),
        "metrics": ",".join(experiment.config.metrics),
        "report": experiment.config.report,
        "unlearn_augment": ",".join(experiment.augment) or "none",
        **_digests(experiment),
        **_recipe(experiment.base),
        **{name: base.reading.get(name) for name in READING.hyperparameters},
        **experiment.base.options,
        **experiment.settings,
        **experiment.counts,
    }


def _digests(experiment: Pipeline) -> dict[str, str]:
    """The whole digests of what a name or a slug says in a few letters: the forget list, the users' files as they were run."""
    digests = {
        "request_digest": experiment.config.base.request.digest,
        "unlearn_code": experiment.method.code_digest,
        "arch_code": experiment.base.architecture.code_digest,
        "dataset_code": DATASETS[experiment.config.base.dataset].code_digest,
    }
    return {name: digest for name, digest in digests.items() if digest is not None}


def _recipe(base: BaseModels) -> dict[str, Any]:
    """How the base models are trained, by the names of the flags; and what of it is not as usual for this architecture and dataset."""
    unusual = {name.removeprefix(PREFIX): value for name, value in sorted(base.training.items())}
    words = [f"{name}={','.join(value) if isinstance(value, tuple) else value}" for name, value in unusual.items()]
    settings = asdict(base.recipe) | {"augment": ",".join(augmentations(base.recipe.augment)) or "none"}
    every = {f"{PREFIX}{name}": value for name, value in settings.items() if name != "epochs"}
    return every | {"training": " ".join(words) or "default"}


def config_hash_of(experiment: Pipeline, initial: Trained, ideal: Trained | None) -> str:
    """SHA-256 of what decides a result."""
    return hash_of(decisive_of(experiment, initial, ideal))


def hash_of(decisive: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as JSON; the same for settings that were read from JSON."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def decisive_of(experiment: Pipeline, initial: Trained, ideal: Trained | None) -> dict[str, Any]:
    """Every setting that changes the result, the digests of the base models' weights, and Lethe's version."""
    decisive = {
        "method": experiment.method.identity,
        "settings": experiment.settings,
        "request": experiment.base.request_identity,
        "split": experiment.base.splits.digest,
        "seed": experiment.config.base.seed,
        "arch": experiment.base.architecture.identity,
        "initial": model_digest(initial.model),
        "ideal": model_digest(ideal.model) if ideal else None,
        "version": __version__,
    }
    if experiment.augment:
        decisive["unlearn_augment"] = experiment.augment
    if experiment.checkpoint_epochs:
        decisive["checkpoint_epochs"] = experiment.checkpoint_epochs
    if experiment.base.training:
        decisive["training"] = experiment.base.training
    if experiment.base.normalize != DATA:
        decisive["normalize"] = experiment.base.normalize
    if experiment.base.unusual:  # what an option does may show in no weight
        decisive["options"] = experiment.base.unusual
    if "oracles" in experiment.method.facts.needs:  # models of the same epochs and shape, whose weights are not in here
        decisive |= {"epochs": experiment.base.epochs, "options": dict(experiment.base.options)}
    if experiment.config.metrics != (DEFAULT,):
        decisive["metrics"] = sorted(metric.identity for metric in experiment.metrics)
    return decisive


def origin_tags(experiment: Pipeline) -> dict[str, str]:
    """Where a run comes from."""
    return {"lethe_version": __version__, "git_commit": git_commit(), "method_source": experiment.method.facts.source}


def provenance(name: str, trained: Trained | None) -> dict[str, Any]:
    """Whether a base model was loaded or trained here, and what its checkpoint says of its making."""
    if trained is None:
        return {f"{name}_model": "none"}
    about: dict[str, Any] = {
        f"{name}_model": "loaded" if trained.loaded else "trained",
        f"{name}_checkpoint": trained.path,
        f"{name}_digest": model_digest(trained.model),
    }
    header = checkpoint_header_digest(trained.path)
    about |= {f"{name}_header_digest": header} if header else {}
    if trained.metadata is not None:
        about |= {f"{name}_seed": trained.metadata.seed, f"{name}_epochs": trained.metadata.epochs}
        about |= {f"{name}_computed": trained.metadata.computed} if trained.metadata.computed else {}
        if math.isfinite(trained.metadata.train_seconds):
            about |= {f"{name}_train_seconds": trained.metadata.train_seconds}
    return about


def train_seconds(trained: Trained | None) -> float | None:
    """What a model's checkpoint says of its training's time; None where it does not."""
    seconds = math.nan if trained is None or trained.metadata is None else trained.metadata.train_seconds
    return seconds if math.isfinite(seconds) else None


def git_commit() -> str:
    """The commit of the project's checkout, "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
