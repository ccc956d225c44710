"""A training that is interrupted goes on where it was: everything that its next step depends on, in a file, written whole or not at all."""

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

from training.precision import Precision
from training.storage import read_tensors, write_tensors

KIND = "training state"
SECONDS = 5.0  # between two writes, at least
SHARE = 50  # and this many times what a write takes, so that writing costs at most 2 %

Tensors = dict[str, Tensor]


@dataclass
class Position:
    """Where a training is: `step` steps of epoch number `epoch` are done; sums over that epoch; what the epochs before it came to."""

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Kept:
    """A state that was read: the position, the precision, the tensors, and the optimiser's own settings."""

    position: Position
    precision: Precision
    tensors: Tensors
    groups: list[dict[str, Any]]


class StateFile:
    """The state of one training. `about` says which: a file of another one is not taken for it.

    every: seconds between two writes, at least. `fit` notes the precision in which it computes here, and the seconds of earlier processes.
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
        """`generator_state`: as it was when the epoch began. The steps done are not read but drawn again."""
        started = time.perf_counter()
        tensors: Tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        inner = optimizer.state_dict()
        for number, values in inner["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
        tensors |= {"generator": generator_state, "random": torch.get_rng_state()}
        tensors |= {"random_cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
        groups = [{name: value for name, value in group.items() if name != "params"} for group in inner["param_groups"]]
        header = {"kind": KIND, "about": self.about, "position": asdict(position), "way": asdict(precision), "groups": groups}
        try:
            write_tensors(self.path, tensors, header)
        except ValueError as error:  # a full disk is no reason to lose what was trained
            warnings.warn(f"the training goes on, and begins anew if it is interrupted: {error}", stacklevel=2)
            self._next = math.inf
            return
        self._next = time.perf_counter() + max(self.every, SHARE * (time.perf_counter() - started) if self.every else 0)

    def read(self, model: nn.Module) -> Kept | None:
        """The state, None where there is none; a warning and None for one that is damaged, or of another training or model."""
        if not self.path.exists():
            return None
        try:
            tensors, header = read_tensors(self.path)
        except ValueError as error:
            warnings.warn(f"the training begins anew: {error}", stacklevel=2)
            return None
        if header.get("kind") != KIND or header.get("about") != self.about:
            warnings.warn(f"the training begins anew: {self.path} is the state of another one, of other settings or versions", stacklevel=2)
            return None
        kept = _kept(header, tensors)
        if kept is None or not _fits(kept, model):
            warnings.warn(f"the training begins anew: {self.path} is damaged, or the state of another model", stacklevel=2)
            return None
        return kept

    def remove(self) -> None:
        """The file, and what a process that was killed while it wrote has left of one."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.name)}.*.partial")):
            path.unlink(missing_ok=True)


def _kept(header: Mapping[str, Any], tensors: Tensors) -> Kept | None:
    """What a state says, None where it is not what `StateFile.write` leaves."""
    position, precision, groups = (header.get(name) for name in ("position", "way", "groups"))
    try:
        kept = Kept(Position(**position), Precision(**precision), tensors, groups)  # type: ignore[arg-type]
    except TypeError:  # no mappings, or of other names
        return None
    at = kept.position
    counts = all(type(value) is int and value >= 0 for value in (at.epoch, at.step))
    sums = all(type(value) is float and math.isfinite(value) for value in (at.total, at.correct, at.seconds))
    epochs = isinstance(at.history, list) and len(at.history) == at.epoch and all(isinstance(values, dict) for values in at.history)
    precisions = all(isinstance(value, bool) for value in asdict(kept.precision).values())
    one_group = isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict)
    return kept if counts and sums and epochs and precisions and one_group else None


def _fits(kept: Kept, model: nn.Module) -> bool:
    """Whether a state has the weights of such a model, moments of its parameters, and the random states."""
    parameters = list(model.parameters())
    weights = {name.removeprefix("model."): value.shape for name, value in kept.tensors.items() if name.startswith("model.")}
    if weights != {name: value.shape for name, value in model.state_dict().items()}:
        return False
    moments = [name.split(".") for name in kept.tensors if name.startswith("optimizer.")]
    numbered = all(len(parts) == 3 and parts[1].isdecimal() and int(parts[1]) < len(parameters) for parts in moments)
    random = torch.get_rng_state()
    states = [kept.tensors.get(name) for name in ("generator", "random")]
    return numbered and all(state is not None and state.dtype == random.dtype and state.shape == random.shape for state in states)


def restore(
    kept: Kept,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    device: torch.device,
    steps: int,
) -> None:
    """Put a state, in which `steps` steps are done, into a model, its optimiser, schedule and generator, and the global random state."""
    model.load_state_dict({name.removeprefix("model."): value for name, value in kept.tensors.items() if name.startswith("model.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in kept.tensors.items():
        if name.startswith("optimizer."):
            _, number, own = name.split(".")
            moments.setdefault(int(number), {})[own] = value
    inner = optimizer.state_dict()
    groups = [group | {"params": here["params"]} for group, here in zip(kept.groups, inner["param_groups"], strict=True)]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:  # fused optimisers need its strides, which a file has not
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule.load_state_dict({"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates})
    generator.set_state(kept.tensors["generator"])
    torch.set_rng_state(kept.tensors["random"])
    if device.type == "cuda" and "random_cuda" in kept.tensors:
        torch.cuda.set_rng_state(kept.tensors["random_cuda"], device)
