"""The state of an unfinished training in a file; an interrupted training resumes from it."""

from __future__ import annotations

import glob
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.system.device import random_state, set_random_state
from lethe.training.precision import Precision
from lethe.training.storage import read_tensors, write_tensors

KIND = "training state"
SECONDS = 5.0  # at least, between two writes
MOST_THREADS = 4096  # that a file may ask for
SHARE = 50  # times the duration of a write, at least, between two: writing costs at most 2 %

Tensors = dict[str, Tensor]


@dataclass
class Position:
    """The position of a training.

    epoch, step: finished epochs, and finished steps of the current one
    total, correct: sums of losses and of correct predictions over the current epoch
    history: loss and score of each finished epoch
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class State:
    """A training state from a file.

    groups: the optimiser's parameter groups. threads: of torch, which decide the last digits.
    """

    position: Position
    precision: Precision
    tensors: Tensors
    groups: list[dict[str, Any]]
    threads: int


class StateFile:
    """The state file of one training.

    about: identifies the training; a file with another one is ignored
    every: seconds between two writes, at least

    `fit` sets `precision`, and `before`, the seconds of earlier processes.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, every: float | None = None) -> None:
        self.path, self.about = path, dict(about)
        self.every = SECONDS if every is None else every
        self.before = 0.0  # seconds of earlier processes
        self.precision = Precision()
        self._next = time.perf_counter() + self.every

    def due(self) -> bool:
        return time.perf_counter() >= self._next

    def write(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator_state: Tensor,
        position: Position,
        precision: Precision,
        device: torch.device,
    ) -> None:
        """Write the state, with `generator_state` at the epoch's beginning: resuming starts there."""
        started = time.perf_counter()
        tensors: Tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        inner = optimizer.state_dict()
        for number, values in inner["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{name}"] = value
        tensors |= {"generator": generator_state} | random_state(device)
        groups = [dict(group) for group in inner["param_groups"]]
        for group in groups:
            del group["params"]
        header = {
            "kind": KIND,
            "about": self.about,
            "position": asdict(position),
            "way": asdict(precision),
            "groups": groups,
            "threads": torch.get_num_threads(),
        }
        try:
            write_tensors(self.path, tensors, header)
        except ValueError as error:  # a full disk doesn't stop the training
            warnings.warn(
                f"the training goes on, but starts over if it is interrupted: {error}", stacklevel=2
            )
            self._next = math.inf
            return
        self._next = time.perf_counter() + max(
            self.every, SHARE * (time.perf_counter() - started) if self.every else 0
        )

    def read(self, model: nn.Module) -> State | None:
        """Read the state; None if there is none, with a warning if it is damaged or of another training."""
        if not self.path.exists():
            return None
        try:
            tensors, header = read_tensors(self.path)
        except ValueError as error:
            warnings.warn(f"the training starts over: {error}", stacklevel=2)
            return None
        if header.get("kind") != KIND or header.get("about") != self.about:
            warnings.warn(
                f"the training starts over: {self.path} is the state of one with other settings or versions",
                stacklevel=2,
            )
            return None
        state = _state(header, tensors)
        if state is None or not _fits(state, model):
            warnings.warn(
                f"the training starts over: {self.path} is damaged, or the state of another model",
                stacklevel=2,
            )
            return None
        return state

    def remove(self) -> None:
        """Delete the file, and parts that killed processes have left."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.name)}.*.partial")):
            path.unlink(missing_ok=True)


def _state(header: Mapping[str, Any], tensors: Tensors) -> State | None:
    """Parse a state; None if `StateFile.write` did not write it."""
    position, precision, groups = (header.get(name) for name in ("position", "way", "groups"))
    threads = header.get("threads", torch.get_num_threads())  # older states have none
    try:
        state = State(Position(**position), Precision(**precision), tensors, groups, threads)  # type: ignore[arg-type]
    except TypeError:  # no mappings, or of other names
        return None
    at = state.position
    counts = all(type(value) is int and value >= 0 for value in (at.epoch, at.step))
    sums = all(type(value) is float and math.isfinite(value) for value in (at.total, at.correct, at.seconds))
    epochs = (
        isinstance(at.history, list)
        and len(at.history) == at.epoch
        and all(isinstance(values, dict) for values in at.history)
    )
    precisions = all(isinstance(value, bool) for value in asdict(state.precision).values())
    one_group = isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict)
    threaded = type(threads) is int and 1 <= threads <= MOST_THREADS
    return state if counts and sums and epochs and precisions and one_group and threaded else None


def _fits(state: State, model: nn.Module) -> bool:
    """Return whether a state has the model's weights, moments of its parameters, and the random states."""
    parameters = list(model.parameters())
    weights = {
        name.removeprefix("model."): value.shape
        for name, value in state.tensors.items()
        if name.startswith("model.")
    }
    if weights != {name: value.shape for name, value in model.state_dict().items()}:
        return False
    moments = [name.split(".") for name in state.tensors if name.startswith("optimizer.")]
    numbered = all(
        len(parts) == 3 and parts[1].isdecimal() and int(parts[1]) < len(parameters) for parts in moments
    )
    random = torch.get_rng_state()
    streams = [state.tensors.get(name) for name in ("generator", "random")]
    return numbered and all(
        each is not None and each.dtype == random.dtype and each.shape == random.shape for each in streams
    )


def restore(
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    device: torch.device,
    steps: int,
) -> None:
    """Restore model, optimiser, schedule, generator and the global random state after `steps` steps."""
    own = {name: value for name, value in state.tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): value for name, value in own.items()})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = value
    present = optimizer.state_dict()["param_groups"]
    groups = [group | {"params": here["params"]} for group, here in zip(state.groups, present, strict=True)]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # Fused optimisers need the parameter's strides.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule.load_state_dict({"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates})
    generator.set_state(state.tensors["generator"])
    set_random_state(state.tensors, device)
