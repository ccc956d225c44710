"""The identity of a run: its name, params, config_hash and origin."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lethe.checkout import ROOT, is_checkout
from lethe.data import DATA, DATASETS, origin
from lethe.data.augmentation import augmentations
from lethe.data.reading import FLAGS as READING
from lethe.evaluation import DEFAULT
from lethe.experiment.base_models import BaseModels, Trained
from lethe.experiment.measure import Metric
from lethe.experiment.run_config import AUGMENT_AUTO, PipelineConfig
from lethe.flag_error import FlagError
from lethe.flag_words import name_of, text_of
from lethe.models import ARCHITECTURES
from lethe.registry import Entry
from lethe.system.foreign_files import file_digest
from lethe.training import checkpoint_header_digest, model_digest
from lethe.training.recipe import PREFIX
from lethe.unlearn import ForgetData
from lethe.unlearn.add_ons import FIRST_FLAGS
from lethe.unlearn.dual_optimizer import LATER_FLAGS
from lethe.unlearn.impl import MethodFacts
from lethe.version import __version__

OF_FILE = "_digest"  # ending of the param with the digest of the file that a setting names
MASKED = "kappa_count"  # the param that is certain only once the mask is made
CHOSEN_LAYER = "masked_layer"  # the param of the layer that --mask_layer auto chose


@dataclass(frozen=True)
class CheckedConfig:
    """A config that was checked and can be run, with its method, metrics, models and data.

    settings: of the method, with defaults. counts: its resolved amounts, as numbers of weights. layer_size:
    weights of the masked layer, 0 for a method without one, and where it is not chosen yet. files: the
    SHA-256 of the files that settings name, by setting.
    """

    config: PipelineConfig
    method: Entry[MethodFacts]
    settings: Mapping[str, Any]
    metrics: Sequence[Metric]
    base: BaseModels
    data: ForgetData
    augment: tuple[str, ...]
    checkpoint_epochs: tuple[int, ...]
    counts: Mapping[str, Any]
    layer_size: int
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name: method, request, seed, and the given settings."""
        return " ".join(
            [self.method.name, self.base.request_slug, f"seed{self.config.base.seed}", *self._given]
        )

    @property
    def setting(self) -> str:
        """The name without the seed, which runs of several seeds share."""
        return " ".join([self.method.name, self.base.request_slug, *self._given])

    @property
    def _given(self) -> list[str]:
        given = [f"{name}={value}" for name, value in self.config.settings.items()]
        if self.config.unlearn_augment != AUGMENT_AUTO:
            given.append(f"unlearn_augment={text_of(self.config.unlearn_augment)}")
        return given

    @property
    def experiment(self) -> str:
        return experiment_of(self.config)

    @property
    def entries(self) -> list[Entry[Any]]:
        """What may be a user's own code: the method, its add-on, the architecture, the dataset, metrics."""
        return [
            self.method,
            *self.method.chosen,
            self.base.architecture,
            DATASETS[self.config.base.dataset],
            *self.metrics,
        ]


def experiment_of(config: PipelineConfig) -> str:
    """Return the name of the MLflow experiment of a config's run."""
    dataset = DATASETS[config.base.dataset]
    return config.experiment or f"{dataset.name}-{ARCHITECTURES[config.base.arch or dataset.facts.arch].name}"


def run_params(checked: CheckedConfig) -> dict[str, Any]:
    """Return every setting, with defaults and resolved values."""
    base = checked.config.base
    return {
        **base_params(checked.base),
        "unlearn": checked.method.name,
        "unlearn_file": checked.method.file,
        "class_to_replace": " ".join(map(str, base.request.classes)),
        "num_indexes_to_replace": base.request.number,
        "forget_indexes": base.request.file,
        **base.request.choice_params(),
        "request": checked.base.request_slug,
        "forget_request": checked.base.forgotten,
        "forget_count": len(checked.data.forget),
        "retain_count": len(checked.data.retain),
        "mask": checked.base.initial_path,
        "ideal": checked.config.ideal,
        "experiment": checked.experiment,
        "checkpoint_epochs": text_of(checked.checkpoint_epochs),
        "metrics": text_of(checked.config.metrics),
        "report": checked.config.report,
        "unlearn_augment": ",".join(checked.augment) or "none",
        **_digests(checked),
        **_packages(checked),
        **checked.settings,
        **checked.counts,
    }


def base_params(base: BaseModels) -> dict[str, Any]:
    """Return the settings of the base models, without the forget request."""
    config = base.config
    dataset = DATASETS[config.dataset]
    of_plugins = {"arch_package": base.architecture.package, "dataset_package": dataset.package}
    of_files = {"arch_code": base.architecture.code_digest, "dataset_code": dataset.code_digest}
    return {
        "arch_file": base.architecture.file,
        "dataset": base.splits.dataset,
        "dataset_file": origin(config.dataset),
        "data": config.data,
        "arch": base.architecture.name,
        "num_classes": base.splits.classes,
        "epochs": base.epochs,
        "seed": config.seed,
        "split_seed": config.split_seed,
        "normalize": base.normalize,
        "save_dir": base.save_dir,
        "device": base.device,
        "threads": base.threads,
        "processes": base.group.size,
        **{name: package for name, package in of_plugins.items() if package},
        **{name: digest for name, digest in of_files.items() if digest is not None},
        **_recipe(base),
        **{name: config.reading.get(name) for name in READING.hyperparameters},
        **base.options,
    }


def _digests(checked: CheckedConfig) -> dict[str, str]:
    """Return the digests that slugs shorten: of the forget list, and of users' files as they were run."""
    digests = {
        "request_digest": checked.config.base.request.digest,
        "unlearn_code": checked.method.code_digest,
        **_add_on_code(checked),
        **{f"{name}{OF_FILE}": digest for name, digest in checked.files.items()},
    }
    return {name: digest for name, digest in digests.items() if digest is not None}


def _packages(checked: CheckedConfig) -> dict[str, str]:
    """Return the packages, with their versions, of a method and an add-on that plugins gave."""
    package = checked.method.package
    return ({"unlearn_package": package} if package else {}) | _add_on_package(checked)


def _recipe(base: BaseModels) -> dict[str, Any]:
    """Return the base models' recipe by flag, and `training`: its settings that are not the defaults."""
    changed = [
        f"{name.removeprefix(PREFIX)}={name_of(value, ',')}" for name, value in sorted(base.training.items())
    ]
    settings = asdict(base.recipe) | {"augment": ",".join(augmentations(base.recipe.augment)) or "none"}
    every = {f"{PREFIX}{name}": value for name, value in settings.items() if name != "epochs"}
    return every | {"training": " ".join(changed) or "default"}


def config_hash_of(checked: CheckedConfig, initial: Trained, ideal: Trained | None) -> str:
    """Return the SHA-256 of everything that decides a result."""
    return hash_of(decisive_of(checked, initial, ideal))


def hash_of(decisive: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings as JSON; equal for settings that were read from JSON."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def decisive_of(checked: CheckedConfig, initial: Trained, ideal: Trained | None) -> dict[str, Any]:
    """Return the settings that change the result, the base models' digests, and Lethe's version."""
    decisive = {
        "method": checked.method.identity,
        "settings": {
            **_without_unset(checked.settings),
            **_first_add_on_flags(checked),
            **checked.files,  # known by what they hold, wherever they lie
        },
        "request": checked.base.request_identity,
        "split": checked.base.splits.digest,
        "seed": checked.config.base.seed,
        "arch": checked.base.architecture.identity,
        "initial": model_digest(initial.model),
        "ideal": model_digest(ideal.model) if ideal else None,
        "version": __version__,
    }
    decisive |= _add_on_code(checked) | _add_on_package(checked)
    if checked.augment:
        decisive["unlearn_augment"] = checked.augment
    if checked.checkpoint_epochs:
        decisive["checkpoint_epochs"] = checked.checkpoint_epochs
    if checked.base.training:
        decisive["training"] = checked.base.training
    if checked.base.normalize != DATA:
        decisive["normalize"] = checked.base.normalize
    if checked.base.unusual:  # an option may change a model without changing its weights
        decisive["options"] = checked.base.unusual
    if "oracles" in checked.method.facts.needs:  # their weights are not in the hash, so their settings are
        decisive |= {"epochs": checked.base.epochs, "options": dict(checked.base.options)}
    if checked.config.metrics != (DEFAULT,):
        decisive["metrics"] = sorted(metric.identity for metric in checked.metrics)
    return decisive


def _without_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without the flags that methods did not always have, where they are not given."""
    kept = {name: value for name, value in settings.items() if name not in LATER_FLAGS or value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def files_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file that a setting of type Path names, by setting."""
    named = {name: value for name, value in settings.items() if isinstance(value, Path)}
    return {name: file_digest(path) for name, path in named.items() if path.is_file()}


def check_files(checked: CheckedConfig) -> None:
    """Raise ValueError for a file that was changed since its digest was taken."""
    for name, digest in checked.files.items():
        path = checked.settings[name]
        if not path.is_file() or file_digest(path) != digest:
            raise FlagError(
                name, f"expected {path} as it was when the run began, got another file. Start the run again"
            )


def _first_add_on_flags(checked: CheckedConfig) -> dict[str, Any]:
    """Return the flags of the first add-ons as config_hash has them: None unless given.

    Every method with add-ons once had all of them.
    """
    names = set(FIRST_FLAGS)
    if checked.method.facts.add_on:
        names &= checked.settings.keys()
    elif not checked.method.choosers:
        names = set()
    given = {name for name, value in checked.config.settings.items() if value is not None}
    return {name: checked.settings[name] if name in given else None for name in names}


def _add_on_code(checked: CheckedConfig) -> dict[str, str]:
    """Return the digest of the user's file that an add-on came from."""
    add_on = next(iter(checked.method.chosen), None)
    digest = None if add_on is None else add_on.code_digest
    return {} if digest is None else {"addon_code": digest}


def _add_on_package(checked: CheckedConfig) -> dict[str, str]:
    """Return the package of the plugin that an add-on came from."""
    add_on = next(iter(checked.method.chosen), None)
    return {"addon_package": add_on.package} if add_on is not None and add_on.package else {}


def origin_tags(checked: CheckedConfig) -> dict[str, str]:
    """Return the tags of a run's origin."""
    return {**code_tags(), "method_source": checked.method.facts.source}


def code_tags() -> dict[str, str]:
    """Return the tags of the code that a run was made by."""
    return {"lethe_version": __version__, "git_commit": git_commit()}


def provenance(name: str, trained: Trained | None) -> dict[str, Any]:
    """Return the params of a base model's origin: loaded or trained, its digests, and its metadata."""
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
    """Return the seconds of training in a model's metadata; None if unknown."""
    seconds = math.nan if trained is None or trained.metadata is None else trained.metadata.train_seconds
    return seconds if math.isfinite(seconds) else None


def git_commit() -> str:
    """Return the commit of Lethe's checkout, or "unknown" without one.

    An installed Lethe may lie in a repository of the user's own, whose commit says nothing about it.
    """
    if not is_checkout():
        return "unknown"
    command = ["git", "--git-dir", str(ROOT / ".git"), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
