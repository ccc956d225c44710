"""A cell of the methods' benchmark: a method on a request, and the metrics of its model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import nn

from benchmarks.cells import MEASURED_CODE, Cells, code_digest, files_behind
from lethe.data import ForgetRequest, Splits
from lethe.data.augmentation import augmentations
from lethe.evaluation import ModelOutputs, evaluate
from lethe.evaluation.gap import ua_ra_ta
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels, Trained
from lethe.experiment.measure import model_outputs
from lethe.experiment.model_sets import oracles_of
from lethe.registry import Entry
from lethe.training import Progress, model_digest, warm_up
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn

SHARED_CODE = tuple(place for place in MEASURED_CODE if place != "lethe.unlearn")
RETRAIN = "retrain"  # the ideal model's own row
COLUMNS = ("UA", "RA", "TA", "MIA")
GAPS = ("avg_gap", "avg_gap_without_mia")
REQUESTS: dict[str, Callable[[Splits], ForgetRequest]] = {
    "class0": lambda splits: ForgetRequest((0,)),
    "random10": lambda splits: ForgetRequest((-1,), max(1, round(0.1 * len(splits.train)))),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A line of a table: a method, with what differs from its defaults."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def addon(self) -> str | None:
        return self.settings.get("addon")

    @property
    def label(self) -> str:
        others = {name: value for name, value in self.settings.items() if name != "addon"}
        return (
            self.method
            + (f" + {self.addon}" if self.addon else "")
            + "".join(f" {name}={value}" for name, value in others.items())
        )


class World:
    """A request on a split and a seed: the data, the base models and their outputs, each made once."""

    def __init__(self, config: BaseConfig, splits: Splits, part: str, progress: Progress) -> None:
        self.base = BaseModels(config, progress=progress, splits=splits)
        self.progress = progress
        self.part = part
        self.seed = config.seed
        self.judges = splits.test if part == "test" else splits.validation

    @property
    def data(self) -> ForgetData:
        """With an empty cache, so that no method's time depends on who came before."""
        world = {
            "seed": self.seed,
            "device": self.base.device,
            "progress": self.progress,
            "augment": self.base.recipe.augment,
        }
        return ForgetData.of_division(
            self.base.splits,
            self.base.division,
            ideal=lambda: self.ideal.model,
            oracles=self.oracles,
            **world,
        )

    @property
    def oracles(self) -> Oracles:
        return Oracles(partial(oracles_of, self.base), judges=(self.seed,))

    @cached_property
    def initial(self) -> Trained:
        return self.base.initial()

    @cached_property
    def ideal(self) -> Trained:
        return self.base.ideal()

    @cached_property
    def of_initial(self) -> ModelOutputs:
        return self.outputs(self.initial.model)

    @cached_property
    def of_ideal(self) -> ModelOutputs:
        return self.outputs(self.ideal.model)

    def outputs(self, model: nn.Module) -> ModelOutputs:
        return model_outputs(model, self.data, self.judges)

    @cached_property
    def common(self) -> dict[str, Any]:
        """All that a cell depends on beside the method."""
        models = {"initial": model_digest(self.initial.model), "ideal": model_digest(self.ideal.model)}
        about = {
            "request": self.base.request_identity,
            "split": self.base.splits.digest,
            "seed": self.seed,
            "part": self.part,
        }
        augment = augmentations(self.base.recipe.augment)
        return {**models, **about, "device": str(self.base.device)} | (
            {"augment": augment} if augment else {}
        )


def measured(trial: Trial, world: World, cells: Cells) -> Row:
    """The cell's numbers, or `failed` with the reason why there are none.

    What a method says of a request that it refuses, or of its own divergence, is kept like any number; an
    error of the machine (too little memory) is reported and tried again by the next call.
    """
    if trial.method == RETRAIN:
        settings, make, code = {}, partial(_ideal, world), ""
    else:
        entry = METHODS[trial.method]
        settings, make = entry.settings(trial.settings), partial(_unlearned, trial, world)
        code = method_code(entry)
    try:
        return cells.measured(
            {**world.common, "method": trial.method, "settings": settings, "method_code": code},
            partial(_judged, make, world),
        )
    except FileNotFoundError as error:  # the oracles may be there next time
        return {"failed": f"not run: {_line(error)}"}
    except RuntimeError as error:
        return {"failed": f"failed: {type(error).__name__}: {_line(error)}"}


def method_code(entry: Entry[Any]) -> str:
    """Return the digest of a method's file and the files that it imports; of a user's file alone."""
    return code_digest(
        [entry.file]
        if entry.file
        else files_behind(inspect.unwrap(entry.function).__module__, "lethe.unlearn")
    )


def _ideal(world: World) -> tuple[nn.Module, float]:
    trained = world.ideal
    known = trained.metadata.train_seconds if trained.loaded and trained.metadata else None
    return trained.model, trained.seconds if known is None else known


def _unlearned(trial: Trial, world: World) -> tuple[nn.Module, float]:
    data, model = world.data, world.initial.model
    warm_up()
    started = time.perf_counter()
    unlearned = unlearn(trial.method, model, data, **trial.settings).model
    return unlearned, time.perf_counter() - started


def _judged(make: Callable[[], tuple[nn.Module, float]], world: World) -> Row:
    try:
        model, seconds = make()
    except FloatingPointError as error:
        return {"failed": f"diverged: {_line(error)}"}
    except ValueError as error:
        return {"failed": f"refused: {_line(error)}"}
    try:
        outputs = world.outputs(model)
    except ValueError as error:
        return {"failed": f"can't be evaluated: {_line(error)}"}
    values, undefined = evaluate(names=("mia", *GAPS), model=outputs, ideal=world.of_ideal)
    broken = {name: why for name, why in undefined.items() if not why.undecided}
    if broken:
        return {"failed": f"can't be compared: {next(iter(broken.values()))}"}
    scores = dict(zip(COLUMNS, (*ua_ra_ta(outputs), values.pop("mia", None)), strict=True))
    return (
        scores
        | {"avg_gap": None}
        | values
        | {"seconds": seconds, "changed": _changed(outputs, world.of_initial)}
    )


def _changed(one: ModelOutputs, other: ModelOutputs) -> int:
    """How many images, of all sets, the two predict differently."""
    return sum(
        int((one.sets[name].logits.argmax(1) != other.sets[name].logits.argmax(1)).sum())
        for name in ("forget", "retain", "test")
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def world_of(config: BaseConfig, request: str, splits: Splits, part: str, progress: Progress) -> World:
    return World(replace(config, request=REQUESTS[request](splits)), splits, part, progress)
