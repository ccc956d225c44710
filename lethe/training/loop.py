"""The training loop: epochs over batches, a loss, an optimiser, a schedule."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import ImageSet, Normalisation
from lethe.data.augmentation import augmentations
from lethe.system.device import restored_random_state, seed_random_state
from lethe.system.progress_place import silent
from lethe.system.threads import computing_with
from lethe.training.precision import Precision, deterministic, leaves_unused, precision_of
from lethe.training.process_group import ALONE, ProcessGroup
from lethe.training.recipe import Recipe, divergence, optimizer_of, schedule_of
from lethe.training.shared_batch import average_gradients, outputs_of
from lethe.training.state import Position, State, StateFile, restore
from lethe.training.training_log import TrainingLog, flat_weights

Loss = Callable[[Tensor, Any], Tensor]  # (logits, targets of the batch) -> loss
Progress = Callable[..., Iterable[Any]]

WATCHED = 20  # steps between two checks of the losses on an accelerator, each of which waits for it
SHOWN = 0.5  # seconds between two updates of the progress bar's text
PART = 4096  # images
AS_FLOATS = 2**28  # bytes; images that are not augmented are normalised in advance up to this size


def fit(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    label: str = "train",
    state: StateFile | None = None,
    group: ProcessGroup = ALONE,
    own_random_state: bool = True,
    log: TrainingLog | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on the mean cross-entropy; return loss (nats) and score (percent) per epoch.

    generator: of the batch order, the augmentation, and dropout
    state: the file in which an interrupted training is kept and from which it resumes, to the same bits on a
        CPU. The caller removes it after saving the model; a training that diverges removes it itself
    group: the processes that train together. Each computes its part of every batch. The weights are those of
        one process up to float noise and batch norm, which normalises each part by its own statistics
    own_random_state: False takes dropout from the global random state
    log: keeps each step's images and what it did to the weights; the caller ends it

    With label smoothing the loss is the smoothed one. The model ends in eval mode. Raises ValueError for an
    empty set, and for an operation without a deterministic form if the recipe asks for one;
    FloatingPointError if a loss or a final weight is not finite.
    """
    device = torch.device(device)
    if not len(images):
        raise ValueError("training: expected at least one image, got none. Ask for a smaller forget set")
    if len(images) < 2 * group.size and group.size > 1:
        raise ValueError(
            f"training: expected two images a process, got {len(images)} for {group.size} processes. Start "
            "fewer"
        )
    images = _ready(images.to(device), recipe)
    seed = generator.initial_seed() + group.rank
    random_state = restored_random_state(device, seed) if own_random_state else nullcontext()
    with deterministic(recipe.deterministic), random_state:
        training = _Training(model.to(device).train(), images, recipe, generator, device, state, group, log)
        with computing_with(training.threads):
            history = training.run(progress, label)
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return history


class _Training:
    """One call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        generator: torch.Generator,
        device: torch.device,
        state: StateFile | None,
        group: ProcessGroup,
        log: TrainingLog | None,
    ) -> None:
        self.images, self.recipe, self.generator = images, recipe, generator
        self.device, self.state, self.group, self.log = device, state, group, log
        self.size = recipe.batch_size_for(len(images), group.size)
        self.per_epoch = math.ceil(len(images) / self.size)
        kept = group.broadcast(state.read(model) if state is not None and group.first else None)
        if log is not None and not log.begin(self._steps_before(kept)):
            warnings.warn(
                f"the training starts over: {log.folder} lacks steps of the one that was interrupted",
                stacklevel=2,
            )
            kept = None
        self.position: Position = kept.position if kept else Position()
        self.threads = kept.threads if kept else torch.get_num_threads()
        if kept:
            self.precision: Precision = kept.precision
        else:
            steps = self.per_epoch * recipe.epochs
            self.precision = group.broadcast(precision_of(recipe, model, self._trial_batch, steps))
        self.model = self.precision.placed(model)
        self.optimizer = optimizer_of(list(model.parameters()), recipe)
        self.schedule = schedule_of(self.optimizer, recipe, len(images), group.size)
        if kept:
            done = self._steps_before(kept)
            restore(kept, model, self.optimizer, self.schedule, generator, device, done)
            if not group.first:  # the state has the sums of all processes and the random state of the first
                self.position.total = self.position.correct = 0.0
                seed_random_state(generator.initial_seed() + group.rank + group.size * done, device)
        unused = group.size > 1 and group.broadcast(
            group.first and leaves_unused(self.precision, model, *self._trial_batch())
        )
        self.runner = self.precision.runner(group.parallel(model, device, unused=unused))
        if state is not None:
            state.before, state.precision = self.position.seconds, self.precision
        self.begun = time.perf_counter() - self.position.seconds
        self.unchecked: list[Tensor] = []  # losses since the last check

    def run(self, progress: Progress, label: str) -> list[dict[str, float]]:
        at = self.position
        done = at.epoch * self.per_epoch + at.step
        bar = progress(range(done, self.recipe.epochs * self.per_epoch), label)
        steps, shown = iter(bar), _BarText(bar)
        while at.epoch < self.recipe.epochs:
            self._epoch(steps, shown)
        next(steps, None)  # ends the bar
        self._check_weights()
        return at.history

    def _epoch(self, steps: Iterator[Any], shown: _BarText) -> None:
        at, group = self.position, self.group
        before = self.generator.get_state()
        total, correct = (torch.tensor(value, device=self.device) for value in (at.total, at.correct))
        # A log knows images by their indexes: then their positions come in place of their labels.
        rows = torch.arange(len(self.images), device=self.images.labels.device)
        source = self.images if self.log is None else replace(self.images, labels=rows)
        batches = source.batches(
            self.size,
            generator=self.generator,
            device=self.device,
            augment=self.recipe.augment,
            skip=at.step,
            share=(group.rank, group.size),
        )
        for x, y in batches:
            next(steps)
            at.step += 1
            if self.log is None:
                loss, logits = self._step(x, y)
            else:
                y, loss, logits = self._logged_step(x, y, self.log)
            total += loss * len(y)
            correct += (logits.argmax(1) == y).sum()
            if (
                (self.device.type == "cpu" or len(self.unchecked) == WATCHED)
                and self._check_losses()
                and at.step < self.per_epoch
            ):
                self._write_state(before, group.all_reduce(torch.stack([total, correct])))
            shown.images += len(y) * group.size
            if shown.due():
                seen = min(at.step * self.size, len(self.images)) / group.size
                shown.refresh(total.item() / seen, 100 * correct.item() / seen)
        self._check_losses()
        loss, hits = group.all_reduce(torch.stack([total, correct])).tolist()
        images = len(self.images)
        at.history.append({"loss": loss / images, "score": 100 * hits / images})
        at.epoch, at.step, at.total, at.correct = at.epoch + 1, 0, 0.0, 0.0
        shown.refresh(at.history[-1]["loss"], at.history[-1]["score"])
        if self.state is not None and group.first and at.epoch < self.recipe.epochs and self.state.due():
            self._write_state(self.generator.get_state(), torch.zeros(2))

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; return the mean loss over this process's part of the batch, and its logits."""
        logits, loss = self.precision.loss(self.runner, x, y, self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        if self.group.size > 1:
            whole = min(self.size, len(self.images) - (self.position.step - 1) * self.size)
            (loss * (len(y) * self.group.size / whole)).backward()
        else:
            loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.unchecked.append(loss.detach())
        return self.unchecked[-1], logits.detach()

    def _logged_step(self, x: Tensor, positions: Tensor, log: TrainingLog) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step and log it; return its labels, and what `_step` returns."""
        before = flat_weights(self.model)
        rows = positions.to(self.images.labels.device)
        y = self.images.labels[rows].to(positions.device)
        loss, logits = self._step(x, y)
        log.add(self.images.indexes[rows], flat_weights(self.model) - before)
        return y, loss, logits

    def _steps_before(self, kept: State | None) -> int:
        """Return the number of steps that the state of an interrupted training has behind it."""
        return kept.position.epoch * self.per_epoch + kept.position.step if kept else 0

    def _check_losses(self) -> bool:
        """Raise FloatingPointError if a loss is not finite; return whether the state is due to be written."""
        due = self.state is not None and self.group.first and self.state.due()
        if self.group.size > 1:
            flag = torch.tensor(float(due), device=self.device)  # the first process decides for all
            *losses, first_is_due = self.group.all_reduce(torch.stack([*self.unchecked, flag])).tolist()
            due = first_is_due > 0
        else:
            few = len(self.unchecked) < 2  # on a CPU: item() is faster than stack() there
            losses = [loss.item() for loss in self.unchecked] if few else torch.stack(self.unchecked).tolist()
        self.unchecked.clear()
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                step = f"step {self.position.step - back} of {self.per_epoch}"
                raise self._diverged(self.position.epoch + 1, f"the loss is {loss} at {step}")
        return due

    def _check_weights(self) -> None:
        """Raise FloatingPointError if a weight is not finite: no loss follows the last step."""
        weights = [weight.detach().isfinite().all() for weight in self.model.parameters() if weight.numel()]
        finite = torch.stack(weights).all() if weights else torch.tensor(True)
        if self.group.all_reduce((~finite).float()).item():
            step = f"step {self.per_epoch} of {self.per_epoch}"
            raise self._diverged(self.position.epoch, f"a weight is not finite after {step}")

    def _diverged(self, epoch: int, how: str) -> FloatingPointError:
        """Remove the state and return the error to raise."""
        if self.state is not None and self.group.first:
            self.state.remove()
        remedy = ", or --train_precision float32" if self.precision.bf16 else ""
        return FloatingPointError(f"{divergence(self.recipe, epoch, how)}{remedy}")

    def _write_state(self, generator_state: Tensor, sums: Tensor) -> None:
        """`sums` (2,): loss and correct predictions of this epoch, over all processes."""
        at = self.position
        (at.total, at.correct), at.seconds = sums.tolist(), time.perf_counter() - self.begun
        if self.log is not None:  # the state never is ahead of the log
            self.log.flush()
        if self.state is not None and self.group.first:
            self.state.write(self.model, self.optimizer, generator_state, at, self.precision, self.device)

    def _trial_batch(self) -> tuple[Tensor, Tensor]:
        return trial_batch(
            self.images, self.recipe, self.size, self.device, share=(self.group.rank, self.group.size)
        )


def trial_batch(
    images: ImageSet, recipe: Recipe, size: int, device: torch.device, *, share: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor]:
    """Return a batch for measurements: augmented as in training, as that decides its memory layout."""
    few = images.subset(torch.arange(min(size, len(images))))
    drawn = torch.Generator().manual_seed(0)
    return next(iter(few.batches(size, generator=drawn, device=device, augment=recipe.augment, share=share)))


class _BarText:
    """The text beside a progress bar, if it has one: loss, score, images per second."""

    def __init__(self, bar: Any) -> None:
        self.set_text = getattr(bar, "set_postfix_str", None)
        self.images, self.since = 0, time.perf_counter()
        self._next = self.since + SHOWN

    def due(self) -> bool:
        return self.set_text is not None and time.perf_counter() >= self._next

    def refresh(self, loss: float, score: float) -> None:
        if self.set_text is None:
            return
        now = time.perf_counter()
        self.set_text(
            f"loss {loss:.3f}, {score:.1f} %, {self.images / (now - self.since):,.0f} images/s", refresh=False
        )
        self._next = now + SHOWN


def _ready(images: ImageSet, recipe: Recipe) -> ImageSet:
    """Normalise few images in memory in advance, if they are not augmented: the same numbers, faster."""
    size = 4 * len(images) * math.prod(images.image_shape)
    if augmentations(recipe.augment) or images.streamed or not images.normalisation.mean or size > AS_FLOATS:
        return images
    floats = torch.empty(len(images), *images.image_shape, device=images.labels.device)
    for start in range(0, len(images), PART):
        part = slice(start, start + PART)
        floats[part] = images.normalisation(images.images[part])
    return replace(images, images=floats, normalisation=Normalisation((), ()))


def descend(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    optimizer: torch.optim.Optimizer,
    loss: Loss = F.cross_entropy,
    group: ProcessGroup = ALONE,
) -> list[float]:
    """Take an optimiser step per batch on `loss(logits, labels)`; return the losses. The mode stays.

    group: the processes that share every batch. All of them call this with the same batches, and have the
    weights of one process but for float noise.
    """
    losses = []
    for x, y in batches:
        value = loss(outputs_of(model, x, group), y)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        average_gradients(optimizer, group)
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses).tolist() if losses else []


def warm_up() -> None:
    """Step an optimiser of torch's once: the first step imports modules for a second, no method's own."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], lr=0.0).step()
