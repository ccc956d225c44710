"""What a method's step costs, in plain passes: the forward and backward of one batch by the same model.

A method is only watched: a hook on the model (its copies keep it) counts the images of every forward pass,
and a hook on all optimisers tells the steps apart. Steps that forward the same batches are of one kind; the
kind that learns from most images counts. Plain passes of batches of those very sizes are then timed in the
same process, and so are plain training steps (fetch the batch, forward, backward, the same optimiser).
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.meter import Meter
from lethe.data import ImageSet, Splits
from lethe.system.device import synchronize
from lethe.training import descend
from lethe.unlearn import METHODS, ForgetData, copy_of, resolved, unlearn

Forward = tuple[int, bool]  # images, and whether a gradient can follow
Step = tuple[Forward, ...]
Row = dict[str, Any]

FORGET, RETAIN = 512, 1024  # images that a method is timed on, at most
FORWARD = 1 / 3  # of a pass
CALLS = 5  # of a plain pass in a sample
BOUND = 1.5  # times the passes that the formula needs
NEEDS = dict.fromkeys(
    (
        "FT",
        "FT_l1",
        "NegGrad",
        "ascent_descent",
        "RL",
        "SalUn",
        "SalUn_soft",
        "amnesiac",
        "UNSIR",
        "MSG",
        "CT",
    ),
    1.0,
)
NEEDS |= dict.fromkeys(
    ("CFk", "EUk", "LoTUS", "bad_teacher", "boundary_shrink", "boundary_expanding"), 1.0
)  # a teacher is asked once
NEEDS |= dict.fromkeys(("oracle_matching", "dm_matching", "SCRUB"), 1.0) | dict.fromkeys(
    ("NGPlus", "SRL"), 2.0
)
WITH_ADD_ON = {"SCRUB": 2.0}  # a gradient of each objective, as NGPlus and SRL have without one
ADD_ON_NEEDS = {
    "SalUn": 1 - FORWARD
}  # a third gradient, on forget with true labels, from a forward pass that is there already


def _of_ssd(plain: Plain, data: ForgetData, size: int) -> float:
    return plain.over(len(data.forget) + len(data.train), size)


def _of_fisher(plain: Plain, data: ForgetData, size: int) -> float:
    return plain.over(len(data.retain), size) + plain.squares(len(data.retain), size)


def _of_fisher_new(plain: Plain, data: ForgetData, size: int) -> float:
    """A forward pass, and for each label a backward pass and the squares."""
    labels = data.classes
    return (FORWARD + labels * (1 - FORWARD)) * plain.over(len(data.retain), size) + labels * plain.squares(
        len(data.retain), size
    )


def _of_wfisher(plain: Plain, data: ForgetData, size: int) -> float:
    """Return the mean gradients, each image's, their weighted sum and their inner products."""
    images = min(len(data.retain), METHODS["wfisher"].hyperparameters["fisher_images"].default)
    return plain.over(len(data.forget) + len(data.retain) + 2 * images, size) + plain.products(images)


# what a whole run needs, in milliseconds, where there are gradients of images and no optimiser: the run is
# compared, not a step
STEPLESS: dict[str, Callable[[Plain, ForgetData, int], float]] = {
    "SSD": _of_ssd,
    "fisher": _of_fisher,
    "fisher_new": _of_fisher_new,
    "wfisher": _of_wfisher,
}


def needed(method: str, addon: str | None) -> float | None:
    """Passes a step by the formula; None for a method without a declared number."""
    alone = WITH_ADD_ON.get(method, NEEDS.get(method)) if addon else NEEDS.get(method)
    return None if alone is None else alone + ADD_ON_NEEDS.get(addon or "", 0.0)


class Watch:
    """The forward passes of a model and its copies in one run, and the seconds between steps.

    `steps`: by the passes between the two. The first is left out, for what prepares it is no part of a step.
    """

    def __init__(self, pixels: int, device: torch.device) -> None:
        self.pixels, self.device = pixels, device
        self.forwards: list[Forward] = []
        self.steps: dict[Step, list[float]] = defaultdict(list)
        self.optimizers: dict[Step, torch.optim.Optimizer] = {}
        self._last: tuple[float, int] | None = None

    def forward(self, x: Tensor) -> None:
        self.forwards.append((_all_of(x).numel() // self.pixels, torch.is_grad_enabled()))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        synchronize(self.device)
        now, seen = time.perf_counter(), len(self.forwards)
        if self._last is not None and seen > self._last[1]:  # a step without a pass is no step of this model
            between = tuple(self.forwards[self._last[1] :])
            self.steps[between].append(now - self._last[0])
            self.optimizers[between] = optimizer
        self._last = (now, seen)


def _all_of(x: Tensor) -> Tensor:
    """The tensor behind one that vmap or grad has wrapped: all images, where vmap shows one of them."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


@contextmanager
def watched(model: nn.Module, pixels: int, device: torch.device) -> Iterator[Watch]:
    """A watch over the model and over every copy made of it meanwhile."""
    watch = Watch(pixels, device)
    # functions, not methods: a copy of the model shares these, where it would copy a method's object
    handles = [
        model.register_forward_hook(lambda _, inputs, __: watch.forward(inputs[0])),
        register_optimizer_step_post_hook(lambda optimizer, _, __: watch.step(optimizer)),
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def timing_data(splits: Splits, device: torch.device) -> ForgetData:
    """Return the first images of class 0 to forget, as a whole class, and of the others to retain."""
    forgotten = splits.train.labels == 0
    forget, retain = (
        which.nonzero().flatten()[:most] for which, most in ((forgotten, FORGET), (~forgotten, RETAIN))
    )
    train = splits.train
    return ForgetData(
        train.subset(forget),
        train.subset(retain),
        splits.validation.without_classes(0),
        splits.classes,
        device=device,
    )


def cost(method: str, addon: str | None, model: nn.Module, splits: Splits, meter: Meter, epochs: int) -> Row:
    """One method's step and run, beside plain passes on the same batches. Raises what the method raises.

    A sample is a run with the plain passes timed right after it, so that whatever else slows the machine
    slows both; each number is the median over the samples.
    """
    settings = _few_epochs(
        method, {"addon": addon} if addon else {}, model, timing_data(splits, meter.device), epochs
    )

    def run() -> tuple[float, Watch]:
        data = timing_data(splits, meter.device)
        with watched(model, math.prod(splits.train.image_shape), meter.device) as watch:
            return meter.once(lambda: unlearn(method, model, data, **settings)), watch

    _warm_up()
    started = time.perf_counter()
    first_ms, first = run()  # also warms up
    needs = needed(method, addon)
    if not first.steps and method not in STEPLESS:  # the model's passes are not what it spends its time on
        return {"run_ms": first_ms, "needs": needs, "slow": False}
    kind = max(first.steps, key=lambda step: len(first.steps[step]) * _images_of(step), default=None)
    samples: list[dict[str, float]] = []
    while not samples or (len(samples) < meter.repeats and time.perf_counter() - started < meter.seconds):
        plain = Plain(model, splits, meter.device)
        samples.append(_sample(*run(), kind, plain) | _stepless(method, first, plain, splits))
    row: Row = {name: median(sample[name] for sample in samples) for name in samples[0]}
    row = {"needs": needs} | row | {"samples": len(samples)}
    return row | {"slow": _slow(row)}


def _stepless(method: str, watch: Watch, plain: Plain, splits: Splits) -> dict[str, float]:
    """Return `needs`, the cost of a method without steps by its formula, in its passes."""
    if method not in STEPLESS:
        return {}
    size = max(images for images, with_gradient in watch.forwards if with_gradient)
    return {
        "needs": STEPLESS[method](plain, timing_data(splits, plain.device), size) / plain.of(watch.forwards)
    }


@functools.cache
def _warm_up() -> None:
    """Run two seconds of passes, once a process: the first ones wait for memory and for torch's imports."""
    started = time.perf_counter()
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(32 * 26 * 26, 10))
    optimizer = torch.optim.Adam(model.parameters())
    while time.perf_counter() - started < 2:
        model(torch.zeros(256, 1, 28, 28)).sum().backward()
        optimizer.step()


def _images_of(step: Step) -> int:
    return sum(images for images, with_gradient in step if with_gradient)


def _sample(run_ms: float, watch: Watch, kind: Step | None, plain: Plain) -> dict[str, float]:
    numbers = {"run_ms": run_ms, "run_ratio": run_ms / plain.of(watch.forwards)}
    if kind is None:
        return numbers
    step_ms = 1000 * median(watch.steps[kind])
    sizes = [images for images, with_gradient in kind if with_gradient] or [images for images, _ in kind]
    pass_ms, optimizer = fmean(map(plain.both_ways, sizes)), watch.optimizers[kind]
    made = sum(1 if with_gradient else FORWARD for _, with_gradient in kind)
    x_training_steps = step_ms / fmean(plain.training_step(size, optimizer) for size in sizes)
    shown = {
        "step_ms": step_ms,
        "pass_ms": pass_ms,
        "x_passes": step_ms / pass_ms,
        "x_training_steps": x_training_steps,
    }
    return numbers | shown | {"passes_made": made}


def _slow(row: Mapping[str, Any]) -> bool:
    """Return whether a step, or a run without steps, takes over 1.5 times the cost of its formula."""
    if "x_passes" in row:
        return (
            row["needs"] is not None and min(row["x_passes"], row["x_training_steps"]) > BOUND * row["needs"]
        )
    return row["needs"] is not None and bool(row["run_ratio"] > BOUND * row["needs"])


def _few_epochs(
    method: str, given: Mapping[str, Any], model: nn.Module, data: ForgetData, epochs: int
) -> dict[str, Any]:
    """The settings with at most so many epochs, also where the method itself decides how many there are."""
    settings = METHODS[method].settings(dict(given))
    known = settings | resolved(method, model, data, settings)
    few = {
        name: min(known[name], epochs)
        for name in settings
        if name.endswith("epochs") and isinstance(known[name], int)
    }
    return dict(given) | few


class Plain:
    """Milliseconds of forward, of forward and backward, and of a training step, by batch size."""

    def __init__(self, model: nn.Module, splits: Splits, device: torch.device) -> None:
        self.student, self.images, self.device = copy_of(model), splits.train, device
        self.meter = Meter(device, CALLS, math.inf)
        self.both_ways = cache(self._both_ways)
        self.forward = cache(self._forward)

    def of(self, forwards: list[Forward]) -> float:
        """Of these passes, one after another: with a backward where a gradient can follow."""
        return sum(
            self.both_ways(images) if with_gradient else self.forward(images)
            for images, with_gradient in forwards
        )

    def over(self, images: int, size: int) -> float:
        """Forward and backward of so many images, `size` at a time."""
        return images / size * self.both_ways(size)

    def squares(self, images: int, size: int) -> float:
        """The squares of so many images' own gradients, written out, summed over the images."""
        rows = torch.ones(min(size, images), self._parameters(), device=self.device)
        return images / len(rows) * self._timed(lambda: rows.square().sum(0))

    def products(self, images: int) -> float:
        """Return the milliseconds of all inner products of images' gradients: half a matrix product."""
        rows = torch.ones(images, self._parameters(), device=self.device)
        return self._timed(lambda: rows @ rows.T) / 2

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.student.parameters())

    def training_step(self, size: int, like: torch.optim.Optimizer) -> float:
        """With a new optimiser of that kind and with its settings."""
        known = inspect.signature(type(like)).parameters
        settings = {name: value for name, value in like.defaults.items() if name in known}
        optimizer = type(like)(self.student.train(size > 1).parameters(), **settings)
        images, order = self._images(size).to(self.device), torch.Generator().manual_seed(1)
        return self._timed(
            lambda: descend(
                self.student, images.batches(size, generator=order, device=self.device), optimizer=optimizer
            )
        )

    def _both_ways(self, size: int) -> float:
        x, y = next(self._images(size).batches(size, device=self.device))
        self.student.train(size > 1)  # batch norm can't train on one image

        def step() -> None:
            self.student.zero_grad(set_to_none=True)
            F.cross_entropy(self.student(x), y).backward()

        return self._timed(step)

    def _forward(self, size: int) -> float:
        x, _ = next(self._images(size).batches(size, device=self.device))
        self.student.eval()
        with torch.no_grad():
            return self._timed(lambda: self.student(x))

    def _images(self, size: int) -> ImageSet:
        return self.images.subset(torch.arange(size) % len(self.images))

    def _timed(self, step: Callable[[], object]) -> float:
        step()  # warms up
        return float(self.meter.timed(step)["milliseconds"])
