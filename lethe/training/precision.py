"""The precision and memory format of a training step, compiled or not, and the choice of the fastest."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.flag_error import FlagError
from lethe.system.device import has_bf16, restored_random_state, synchronize
from lethe.training.recipe import Recipe, optimizer_of

WARM_UP, TIMED = 2, 5  # steps of a measurement
ROUNDS, SECONDS = 30, 2.0  # measurements of each precision, within these seconds
# Times the other's seconds: the choice must not depend on noise, or models that are compared would differ.
CLEARLY = 0.95
NOT_DETERMINISTIC = " does not have a deterministic implementation"  # torch's message


@dataclass(frozen=True)
class Precision:
    """The precision and memory format of a step, and whether the model is compiled."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        words = ["bf16" if self.bf16 else "float32", "channels_last" if self.channels_last else "contiguous"]
        return " ".join([*words, "compiled"] if self.compiled else words)

    @staticmethod
    def named(words: str) -> Precision:
        """Parse a name: Precision.named(str(precision)) == precision."""
        return Precision(*(word in words.split() for word in ("bf16", "channels_last", "compiled")))

    def settled(self, recipe: Recipe, device: torch.device) -> Recipe:
        """Replace the recipe's `auto` settings by this precision, as far as the device supports it."""
        settings: dict[str, Any] = {
            "precision": "auto" if self.bf16 and not has_bf16(device) else "bf16" if self.bf16 else "float32",
            "memory_format": "channels_last" if self.channels_last else "contiguous",
            "compile": "auto" if self.compiled else "no",
        }
        return replace(
            recipe, **{name: value for name, value in settings.items() if getattr(recipe, name) == "auto"}
        )

    def placed(self, model: nn.Module) -> nn.Module:
        """Convert the model's weights to this memory format, in place."""
        return model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)  # type: ignore[call-overload]

    def runner(self, model: nn.Module) -> nn.Module:
        """Return the model, or its compiled form."""
        return torch.compile(model) if self.compiled else model  # type: ignore[return-value]

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and the mean cross-entropy, both float32."""
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            logits = self._called(model, x)
        if self.bf16:
            logits = logits.float()
        return logits, F.cross_entropy(logits, y, label_smoothing=label_smoothing)

    def _called(self, model: nn.Module, x: Tensor) -> Tensor:
        if not self.compiled:
            found: Tensor = model(x)
            return found
        from torch._dynamo.exc import TorchDynamoException

        try:
            found = model(x)
        except TorchDynamoException as error:  # no C++ compiler, most often
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise FlagError(
                "train_compile", f"this model can't be compiled here ({reason}). Choose no"
            ) from error
        return found


def precision_of(
    recipe: Recipe, model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], steps: int
) -> Precision:
    """Return the recipe's precision; for `auto` the fastest, measured on a batch and a copy of the model.

    bf16 and channels_last have to be faster than float32 and contiguous by 5 %. Compiling is chosen if

        compile seconds + steps x seconds per compiled step < .95 x steps x seconds per step

    Raises ValueError for bf16 on a device without it; warns if `auto` can't compile the model.
    """
    formats = {"float32": (False,), "bf16": (True,), "auto": (False, True)}[recipe.precision]
    layouts = {"contiguous": (False,), "channels_last": (True,), "auto": (False, True)}[recipe.memory_format]
    if recipe.precision == "bf16" and not has_bf16(batch()[0].device):
        raise FlagError(
            "train_precision",
            "expected a device that has bf16, got one that does not. Choose float32",
        )
    precisions = [Precision(*each, compiled=recipe.compile == "yes") for each in product(formats, layouts)]
    if len(precisions) == 1 and recipe.compile != "auto":
        return precisions[0]
    x, y = batch()
    seconds = _least_seconds(precisions, lambda precision: seconds_of(precision, model, x, y, recipe)[1])
    best = precisions[0]
    for precision in precisions[1:]:
        if seconds[precision] < CLEARLY * seconds[best]:
            best = precision
    if recipe.compile == "auto":
        compiled = Precision(best.bf16, best.channels_last, compiled=True)
        try:
            first, each = seconds_of(compiled, model, x, y, recipe)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            return best
        best = compiled if first + steps * each < CLEARLY * steps * seconds[best] else best
    return best


def _least_seconds(
    precisions: Sequence[Precision], measured: Callable[[Precision], float]
) -> dict[Precision, float]:
    """Return the least of several measurements of each precision, in turns: other load only adds to them."""
    began, least = time.perf_counter(), dict.fromkeys(precisions, math.inf)
    for _ in range(ROUNDS):
        least = {precision: min(least[precision], measured(precision)) for precision in precisions}
        if time.perf_counter() - began > SECONDS:
            break
    return least


def seconds_of(
    precision: Precision, model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe
) -> tuple[float, float]:
    """Measure the seconds of the warm-up and of a step (median), on a copy; keep the random state."""
    with restored_random_state(x.device):
        trial = precision.placed(copy.deepcopy(model))
        runner, optimizer = precision.runner(trial), optimizer_of(list(trial.parameters()), recipe)

        def step() -> float:
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            precision.loss(runner, x, y, recipe.label_smoothing)[1].backward()
            optimizer.step()
            synchronize(x.device)
            return time.perf_counter() - started

        first = sum(step() for _ in range(WARM_UP))
        return first, median(step() for _ in range(TIMED))


def leaves_unused(precision: Precision, model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return whether some parameters get no gradient, tried on a copy; keep the random state."""
    with restored_random_state(x.device):
        trial = precision.placed(copy.deepcopy(model))
        trial.zero_grad()
        replace(precision, compiled=False).loss(trial, x, y, 0.0)[1].backward()
        return any(parameter.requires_grad and parameter.grad is None for parameter in trial.parameters())


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use deterministic operations. Raises ValueError for an operation without a deterministic form."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    before: tuple[Any, ...] = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        operation, without, _ = str(error).partition(NOT_DETERMINISTIC)
        if not without:
            raise
        raise FlagError(
            "train_deterministic",
            f"expected operations that torch has a deterministic form of here, got {operation.strip()}. "
            "Leave the flag out, or choose another --arch",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
