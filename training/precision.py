"""How a step is computed: in which precision and memory format, compiled or not; and which of them is the fastest here."""

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

from training.recipe import Recipe, optimizer_of

WARM_UP, TIMED = 2, 5  # steps of a measurement
ROUNDS, SECONDS = 30, 2.0  # measurements of each precision, unless they take longer
CLEARLY = 0.95  # of the seconds of another precision: models that are compared are not to differ by the noise of a clock
NOT_DETERMINISTIC = " does not have a deterministic implementation"  # how torch says it


@dataclass(frozen=True)
class Precision:
    """How a step is computed."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        words = ["bf16" if self.bf16 else "float32", "channels_last" if self.channels_last else "contiguous"]
        return " ".join([*words, "compiled"] if self.compiled else words)

    @staticmethod
    def named(words: str) -> Precision:
        """The precision of which these are the words: Precision.named(str(precision)) == precision."""
        return Precision(*(word in words.split() for word in ("bf16", "channels_last", "compiled")))

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe, in this precision: what it left to be measured is said, as far as any machine, or this one, can compute so."""
        settings: dict[str, Any] = {
            "precision": "auto" if self.bf16 and not _has_bf16() else "bf16" if self.bf16 else "float32",
            "memory_format": "channels_last" if self.channels_last else "contiguous",
            "compile": "auto" if self.compiled else "no",
        }
        return replace(recipe, **{name: value for name, value in settings.items() if getattr(recipe, name) == "auto"})

    def placed(self, model: nn.Module) -> nn.Module:
        """The model with its weights in this memory format, in place."""
        return model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)  # type: ignore[call-overload]

    def runner(self, model: nn.Module) -> nn.Module:
        """What to call: the model, or its compiled form."""
        return torch.compile(model) if self.compiled else model  # type: ignore[return-value]

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and the mean cross-entropy, both float32."""
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
            raise ValueError(f"--train_compile: this model can't be compiled here ({reason}). Choose no") from error
        return found


def _has_bf16() -> bool:
    """Whether what is trained on here computes in bf16: every processor does, and most GPUs."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported()


def precision_of(recipe: Recipe, model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], steps: int) -> Precision:
    """The recipe's precision; where it leaves a choice, the fastest for this model and a batch, measured on a copy of the model.

    float32 before bf16 and contiguous before channels_last, unless the later one is faster by a twentieth. Compiling is chosen where
    compile seconds + steps x its seconds a step < .95 x steps x the seconds of the other. Raises ValueError for bf16 on a GPU without it;
    warns where `auto` finds that nothing can be compiled.
    """
    formats = {"float32": (False,), "bf16": (True,), "auto": (False, True)}[recipe.precision]
    layouts = {"contiguous": (False,), "channels_last": (True,), "auto": (False, True)}[recipe.memory_format]
    if recipe.precision == "bf16" and not _has_bf16():
        raise ValueError("--train_precision: expected a GPU that computes in bf16, got one that does not. Choose float32")
    precisions = [Precision(*each, compiled=recipe.compile == "yes") for each in product(formats, layouts)]
    if len(precisions) == 1 and recipe.compile != "auto":
        return precisions[0]
    x, y = batch()
    seconds = _least_seconds(precisions, lambda precision: seconds_of(precision, model, x, y, recipe)[1])
    best = precisions[0]
    for precision in precisions[1:]:
        best = precision if seconds[precision] < CLEARLY * seconds[best] else best
    if recipe.compile == "auto":
        compiled = Precision(best.bf16, best.channels_last, compiled=True)
        try:
            first, each = seconds_of(compiled, model, x, y, recipe)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            return best
        best = compiled if first + steps * each < CLEARLY * steps * seconds[best] else best
    return best


def _least_seconds(precisions: Sequence[Precision], measured: Callable[[Precision], float]) -> dict[Precision, float]:
    """Of several measurements of each precision, taken in turns, the least: what else the machine does only adds to them."""
    began, least = time.perf_counter(), dict.fromkeys(precisions, math.inf)
    for _ in range(ROUNDS):
        least = {precision: min(least[precision], measured(precision)) for precision in precisions}
        if time.perf_counter() - began > SECONDS:
            break
    return least


def seconds_of(precision: Precision, model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> tuple[float, float]:
    """Seconds before the first step is done and of a step then (median), on a copy of the model; the random state is left as it was."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        trial = precision.placed(copy.deepcopy(model))
        runner, optimizer = precision.runner(trial), optimizer_of(list(trial.parameters()), recipe)

        def step() -> float:
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            precision.loss(runner, x, y, recipe.label_smoothing)[1].backward()
            optimizer.step()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            return time.perf_counter() - started

        first = sum(step() for _ in range(WARM_UP))
        return first, median(step() for _ in range(TIMED))


def leaves_unused(precision: Precision, model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether the loss of a batch depends not on all of a model's parameters; tried on a copy, the random state is left as it was."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        trial = precision.placed(copy.deepcopy(model))
        trial.zero_grad()
        replace(precision, compiled=False).loss(trial, x, y, 0.0)[1].backward()
        return any(parameter.requires_grad and parameter.grad is None for parameter in trial.parameters())


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Operations that give the same bits each time; ValueError for one that torch has no such form of."""
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
        raise ValueError(
            f"--train_deterministic: expected operations that torch has a deterministic form of here, got {operation.strip()}. "
            "Leave the flag out, or choose another --arch"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
