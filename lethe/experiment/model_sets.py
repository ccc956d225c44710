"""Sets of models of one recipe (initial models, oracles, shadow models), trained many at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lethe import flag_words
from lethe.experiment.base_config import base_flags_of
from lethe.experiment.base_models import BaseModels, score_of
from lethe.training import (
    check_checkpoint,
    checkpoint_metadata,
    fit_many,
    generator_for,
    library_versions,
    load_checkpoint,
    named_digest,
    save_checkpoint,
    unsealed,
)
from lethe.training.file_lock import all_locked
from lethe.training.many import models_at_once

Kind = Literal["initial models", "oracles", "shadows"]
MADE_BY: dict[Kind, tuple[str, str]] = {
    "initial models": ("baseline", "models"),
    "oracles": ("ideal", "oracles"),
    "shadows": ("ideal", "shadows"),
}


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a model in a set.

    path, trained_on, seed: its checkpoint, and the metadata there
    weights: seed of the initial weights
    order: generator of the batch order
    rows: (n,), positions in the training set of the images that it is trained on
    """

    path: Path
    trained_on: str
    seed: int
    weights: int
    order: torch.Generator
    rows: Tensor


@dataclass(frozen=True)
class TrainedSet:
    """A set after training: specs, the number of models that already existed, seconds for the others."""

    specs: list[ModelSpec]
    loaded: int
    seconds: float


@dataclass(frozen=True)
class TrainedModel:
    """A loaded model in eval mode on the base models' device, and its training images' positions."""

    model: nn.Module
    rows: Tensor
    path: Path


def specs_of(base: BaseModels, kind: Kind, count: int) -> list[ModelSpec]:
    """Return the specs of the first `count` models of a set.

    initial models, oracles: of the seeds seed, seed + 1, ...; the first is the initial or the ideal model
    itself. Their checkpoints are those of main_baseline.py and main_ideal.py with these seeds.

    shadows: pairs of models of a random half of the training images and of the other half (of an odd number
    of images, one is in neither). They depend on seed and split, not on the forget request.

    Raises ValueError for a count below 1, for an odd number of shadows, and without validation images.
    """
    if count < 1:
        raise ValueError(f"--{MADE_BY[kind][1]}: expected an integer >= 1, got {count}. Say how many models")
    if kind == "shadows" and count % 2:
        raise ValueError(
            f"--shadows: expected an even number, as they are pairs of halves, got {count}. Give {count + 1}"
        )
    base.check_trainable(base.request_identity if kind == "oracles" else "train")
    if kind == "shadows":
        return [_shadow(base, number) for number in range(1, count + 1)]
    seeds = range(base.config.seed, base.config.seed + count)
    if kind == "oracles":
        return _oracles(base, seeds)
    everything = torch.arange(len(base.splits.train))
    paths = [base.initial_path, *(base.initial_path_of(seed) for seed in seeds[1:])]
    return [_seeded(path, "train", seed, everything) for path, seed in zip(paths, seeds, strict=True)]


def train_set(base: BaseModels, kind: Kind, count: int) -> TrainedSet:
    """Train the missing models of a set, many at once, and save each, so that an interrupted call resumes.

    Waits for models that other processes train meanwhile and does not train them again: other results may
    depend on their bits, which differ slightly from those of a model that is trained alone.

    Raises ValueError for an invalid count, and for a checkpoint at its path that is damaged or of another
    model.
    """
    specs = specs_of(base, kind, count)
    missing = _missing(base, specs)
    started = time.perf_counter()
    size = models_at_once(base.untrained(), base.device)
    stacks = [missing[start : start + size] for start in range(0, len(missing), size)]
    trained = 0
    for number, stack in enumerate(stacks, 1):
        with all_locked([spec.path for spec in stack]):
            left = _missing(base, stack)
            if left:
                _train(base, left, kind if len(stacks) == 1 else f"{kind} {number}/{len(stacks)}")
            trained += len(left)
    return TrainedSet(specs, count - trained, time.perf_counter() - started)


def load_set(base: BaseModels, kind: Kind, count: int) -> list[TrainedModel]:
    """Load the first `count` models of a set. Raises FileNotFoundError, with the command to train them."""
    specs = specs_of(base, kind, count)
    missing = _missing(base, specs)
    if missing:
        raise FileNotFoundError(
            f"expected {count} {kind} in {base.save_dir}, and {len(missing)} of them are missing. Make them: "
            f"{command(base, kind, count)}"
        )
    return [load_spec(base, spec) for spec in specs]


def oracles_of(base: BaseModels, seeds: Sequence[int]) -> Iterator[nn.Module]:
    """Load the oracles of these seeds lazily. Raises FileNotFoundError, with the command to train them."""
    specs = _oracles(base, seeds)
    missing = _missing(base, specs)
    if missing:
        first = min(base.config.seed, *seeds)
        makes = command(base, "oracles", max(seeds) + 1 - first, seed=first)
        asked = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        count = f"{len(missing)} of {len(seeds)} missing"
        raise FileNotFoundError(
            f"expected oracles of {asked} in {base.save_dir}, and found {count}. Make them: {makes}"
        )
    return (load_spec(base, spec).model for spec in specs)


def command(base: BaseModels, kind: Kind, count: int, *, seed: int | None = None) -> str:
    """Return the command that trains the first `count` models of a set, from `seed` on if given."""
    config = base.config if seed is None else replace(base.config, seed=seed)
    name, flag = MADE_BY[kind]
    return flag_words.command(name, {flag: [str(count)]} | base_flags_of(config))


def _oracles(base: BaseModels, seeds: Sequence[int]) -> list[ModelSpec]:
    retained = torch.isin(base.splits.train.indexes, base.division.retain.indexes).nonzero().flatten()
    return [_seeded(base.ideal_path_of(seed), base.request_identity, seed, retained) for seed in seeds]


def _seeded(path: Path, trained_on: str, seed: int, rows: Tensor) -> ModelSpec:
    """Return the spec of a model that main_baseline.py or main_ideal.py trains with that seed."""
    return ModelSpec(path, trained_on, seed, seed, generator_for(seed, "train"), rows)


def shadow_rows(images: int, seed: int, split_seed: int, number: int) -> Tensor:
    """Return the positions, ascending, of the training images of shadow model `number`, counted from 1.

    images: the number of training images.
    """
    pair, side = divmod(number - 1, 2)
    order = torch.randperm(images, generator=generator_for(seed, "shadows", split_seed, pair))
    half = images // 2
    return order[side * half : (side + 1) * half].sort().values


def _shadow(base: BaseModels, number: int) -> ModelSpec:
    seed = base.config.seed
    rows = shadow_rows(len(base.splits.train), seed, base.config.split_seed, number)
    weights = generator_for(seed, "shadow", number, "weights").initial_seed()
    path = base.checkpoint_named(f"{base.stem_of(seed)}_shadow{number}")
    return ModelSpec(
        path, f"shadow{number}", seed, weights, generator_for(seed, "shadow", number, "train"), rows
    )


def _missing(base: BaseModels, specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Return the specs without a checkpoint. Raises ValueError for another model's checkpoint and copies."""
    there = [spec for spec in specs if spec.path.exists()]
    for spec in there:
        _check(base, spec)
    _check_different(base, there)
    unsealed_ones = [spec.path for spec in there if unsealed(spec.path)]
    if unsealed_ones:
        warnings.warn(f"{len(unsealed_ones)} models, the first: {unsealed(unsealed_ones[0])}", stacklevel=2)
    return [spec for spec in specs if not spec.path.exists()]


def _check(base: BaseModels, spec: ModelSpec) -> None:
    check_checkpoint(spec.path, base.metadata(spec.trained_on), base.architecture.defaults)
    found = checkpoint_metadata(spec.path)
    if found is not None and found.seed != spec.seed:
        raise ValueError(
            f"{spec.path}: expected the model of seed {spec.seed}, got that of seed {found.seed}. Move it "
            "away to train that again"
        )


def _check_different(base: BaseModels, specs: Sequence[ModelSpec]) -> None:
    """Raise ValueError if two models of a set have the same weights, or one those of the initial model.

    A copy is no second sample, and the initial model was trained on all images.
    """
    initial = {base.initial_path_of(spec.seed): None for spec in specs if spec.trained_on != "train"}
    owner: dict[str, Path] = {}
    for path in (*(path for path in initial if path.exists()), *(spec.path for spec in specs)):
        first = owner.setdefault(named_digest(path), path)
        if first != path:
            raise ValueError(
                f"{path}: expected a model of its own, got the weights of {first}. Move the copy away to "
                "train that model again"
            )


def load_spec(base: BaseModels, spec: ModelSpec) -> TrainedModel:
    """Load a model of a set. Raises ValueError for a checkpoint that is damaged or of another model."""
    model = base.built(spec.weights)
    _check(base, spec)
    load_checkpoint(spec.path, model)
    return TrainedModel(model, spec.rows, spec.path)


def _train(base: BaseModels, stack: Sequence[ModelSpec], label: str) -> None:
    started = time.perf_counter()
    models = [base.built(spec.weights) for spec in stack]
    histories = fit_many(
        models,
        base.splits.train,
        [spec.rows for spec in stack],
        base.settled_recipe(),
        generators=[spec.order for spec in stack],
        device=base.device,
        progress=base.progress,
        label=label,
    )
    seconds = (time.perf_counter() - started) / len(stack)
    validation = base.validation_of(stack[0].trained_on)
    for spec, model, history in zip(stack, models, histories, strict=True):
        metadata = base.metadata(
            spec.trained_on,
            seed=spec.seed,
            train_score=history[-1]["score"],
            validation_score=score_of(model, validation, base.device),
            train_seconds=seconds,
            versions=library_versions(),
        )
        save_checkpoint(spec.path, model, metadata)
