"""The one training loop: epochs over batches, a loss, an optimiser, a schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.precision import Precision, deterministic, leaves_unused, precision_of
from training.process_group import ALONE, ProcessGroup
from training.recipe import Recipe, optimizer_of, schedule_of
from training.state import Position, StateFile, restore
from vision_data import ImageSet, Normalisation
from vision_data.augmentation import augmentations

Loss = Callable[[Tensor, Any], Tensor]  # logits, and what comes beside the images of a batch: their labels, mostly
Progress = Callable[..., Iterable[Any]]

WATCHED = 20  # steps between two looks at the losses on a GPU, which each look has to wait for
SHOWN = 0.5  # seconds between two refreshes of what the bar says
PART = 4096  # images
AS_FLOATS = 2**28  # bytes: images that are not augmented are normalised once where they take no more than that


def silent(steps: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Progress that shows nothing: what library code uses unless it is given another."""
    return steps


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
) -> list[dict[str, float]]:
    """Train `model` in place on the mean cross-entropy; returns loss (nats) and score (percent) of each epoch.

    The batch order and the augmentation come from `generator` alone, and so does dropout, unless `own_random_state` is False: then it
    comes from the global random state. With label smoothing the loss is the smoothed one. The model ends in eval mode.

    `state`: where the training is kept while it lasts; one that is found there is gone on with, to the same bits on a CPU. Who saves the
    model removes it; of a training that diverges nothing is kept.

    `group`: processes that train together. Each computes its part of every batch, and all end with the same weights: those of one
    process but for float noise, and for batch norm, which normalises a part by that part's own statistics.

    Raises ValueError on an empty set, and for an operation without a deterministic form where the recipe asks for such; FloatingPointError
    as soon as a loss is seen that is not finite, or where a weight is not in the end.
    """
    device = torch.device(device)
    if not len(images):
        raise ValueError("training: expected at least one image, got none. Ask for a smaller forget set")
    if len(images) < 2 * group.size and group.size > 1:
        raise ValueError(f"training: expected two images a process, got {len(images)} for {group.size} processes. Start fewer")
    images = _ready(images.to(device), recipe)
    with deterministic(recipe.deterministic), _seeded(generator.initial_seed() + group.rank, device, own_random_state):
        history = _Training(model.to(device).train(), images, recipe, generator, device, state, group).run(progress, label)
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
    ) -> None:
        self.images, self.recipe, self.generator, self.device, self.state, self.group = images, recipe, generator, device, state, group
        self.size = recipe.batch_size_for(len(images), group.size)
        self.per_epoch = math.ceil(len(images) / self.size)
        kept = group.agreed(state.read(model) if state is not None and group.first else None)
        self.position: Position = kept.position if kept else Position()
        self.precision: Precision = (
            kept.precision if kept else group.agreed(precision_of(recipe, model, self._trial_batch, self.per_epoch * recipe.epochs))
        )
        self.model = self.precision.placed(model)
        self.optimizer = optimizer_of(list(model.parameters()), recipe)
        self.schedule = schedule_of(self.optimizer, recipe, len(images), group.size)
        if kept:
            done = self.position.epoch * self.per_epoch + self.position.step
            restore(kept, model, self.optimizer, self.schedule, generator, device, done)
            if not group.first:  # the sums in the state are those of all processes, and its random state is the first one's
                self.position.total = self.position.correct = 0.0
                _seed(generator.initial_seed() + group.rank + group.size * done, device)
        unused = group.size > 1 and group.agreed(group.first and leaves_unused(self.precision, model, *self._trial_batch()))
        self.runner = self.precision.runner(group.together(model, device, unused=unused))
        if state is not None:
            state.before, state.precision = self.position.seconds, self.precision
        self.begun = time.perf_counter() - self.position.seconds
        self.unseen: list[Tensor] = []  # losses that nobody has looked at yet

    def run(self, progress: Progress, label: str) -> list[dict[str, float]]:
        at = self.position
        done = at.epoch * self.per_epoch + at.step
        bar = progress(range(done, self.recipe.epochs * self.per_epoch), label)
        steps, shown = iter(bar), _Shown(bar)
        while at.epoch < self.recipe.epochs:
            self._epoch(steps, shown)
        next(steps, None)  # ends the bar
        self._check_weights()
        return at.history

    def _epoch(self, steps: Iterator[Any], shown: _Shown) -> None:
        at, group = self.position, self.group
        before = self.generator.get_state()
        total, correct = (torch.tensor(value, device=self.device) for value in (at.total, at.correct))
        batches = self.images.batches(
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
            loss, logits = self._step(x, y)
            total += loss * len(y)
            correct += (logits.argmax(1) == y).sum()
            if (self.device.type == "cpu" or len(self.unseen) == WATCHED) and self._look() and at.step < self.per_epoch:
                self._keep(before, group.summed(torch.stack([total, correct])))
            shown.images += len(y) * group.size
            if shown.due():
                seen = min(at.step * self.size, len(self.images)) / group.size
                shown.refresh(total.item() / seen, 100 * correct.item() / seen)
        self._look()
        loss_and_score = group.summed(torch.stack([total, correct])).tolist()
        at.history.append({"loss": loss_and_score[0] / len(self.images), "score": 100 * loss_and_score[1] / len(self.images)})
        at.epoch, at.step, at.total, at.correct = at.epoch + 1, 0, 0.0, 0.0
        shown.refresh(at.history[-1]["loss"], at.history[-1]["score"])
        if self.state is not None and group.first and at.epoch < self.recipe.epochs and self.state.due():
            self._keep(self.generator.get_state(), torch.zeros(2))

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss over this process's part of a batch, and its logits."""
        logits, loss = self.precision.loss(self.runner, x, y, self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        if self.group.size > 1:
            whole = min(self.size, len(self.images) - (self.position.step - 1) * self.size)
            (loss * (len(y) * self.group.size / whole)).backward()
        else:
            loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.unseen.append(loss.detach())
        return self.unseen[-1], logits.detach()

    def _look(self) -> bool:
        """Whether the state is to be written now, which the first process says; FloatingPointError where a loss of any is not finite."""
        due = self.state is not None and self.group.first and self.state.due()
        if self.group.size > 1:
            *losses, said = self.group.summed(torch.stack([*self.unseen, torch.tensor(float(due), device=self.device)])).tolist()
            due = said > 0
        else:
            losses = torch.stack(self.unseen).tolist() if len(self.unseen) > 1 else [loss.item() for loss in self.unseen]
        self.unseen.clear()
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                raise self._diverged(self.position.epoch + 1, f"the loss is {loss} at step {self.position.step - back} of {self.per_epoch}")
        return due

    def _check_weights(self) -> None:
        """FloatingPointError where a weight is not finite: no loss tells what the last step has made of them."""
        weights = [weight.detach().isfinite().all() for weight in self.model.parameters() if weight.numel()]
        finite = torch.stack(weights).all() if weights else torch.tensor(True)
        if self.group.summed((~finite).float()).item():
            raise self._diverged(self.position.epoch, f"a weight is not finite after step {self.per_epoch} of {self.per_epoch}")

    def _diverged(self, epoch: int, how: str) -> FloatingPointError:
        """What to raise; nothing is kept of such a training."""
        if self.state is not None and self.group.first:
            self.state.remove()
        return FloatingPointError(
            f"training diverged in epoch {epoch}: {how}. Choose a smaller --train_lr (it is {self.recipe.lr:g})"
            + (", or --train_precision float32" if self.precision.bf16 else "")
        )

    def _keep(self, generator_state: Tensor, sums: Tensor) -> None:
        """`sums` (2,): the losses and the right predictions of this epoch, of all processes."""
        at = self.position
        (at.total, at.correct), at.seconds = sums.tolist(), time.perf_counter() - self.begun
        if self.state is not None and self.group.first:
            self.state.write(self.model, self.optimizer, generator_state, at, self.precision, self.device)

    def _trial_batch(self) -> tuple[Tensor, Tensor]:
        return trial_batch(self.images, self.recipe, self.size, self.device, share=(self.group.rank, self.group.size))


def trial_batch(
    images: ImageSet, recipe: Recipe, size: int, device: torch.device, *, share: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor]:
    """A batch as it comes, augmented too: that decides how its numbers lie in memory. Drawn by a generator of its own."""
    few = images.subset(torch.arange(min(size, len(images))))
    drawn = torch.Generator().manual_seed(0)
    return next(iter(few.batches(size, generator=drawn, device=device, augment=recipe.augment, share=share)))


class _Shown:
    """What a bar says beside its steps, where it can say anything: loss, score, images a second."""

    def __init__(self, bar: Any) -> None:
        self.say = getattr(bar, "set_postfix_str", None)
        self.images, self.since = 0, time.perf_counter()
        self._next = self.since + SHOWN

    def due(self) -> bool:
        return self.say is not None and time.perf_counter() >= self._next

    def refresh(self, loss: float, score: float) -> None:
        if self.say is None:
            return
        now = time.perf_counter()
        self.say(f"loss {loss:.3f}, {score:.1f} %, {self.images / (now - self.since):,.0f} images/s", refresh=False)
        self._next = now + SHOWN


def _ready(images: ImageSet, recipe: Recipe) -> ImageSet:
    """The images normalised once and for all, where they are few, in memory, and not augmented first: the same numbers, sooner."""
    size = 4 * len(images) * math.prod(images.image_shape)
    if augmentations(recipe.augment) or images.streamed or not images.normalisation.mean or size > AS_FLOATS:
        return images
    floats = torch.empty(len(images), *images.image_shape, device=images.labels.device)
    for start in range(0, len(images), PART):
        part = slice(start, start + PART)
        floats[part] = images.normalisation(images.images[part])
    return replace(images, images=floats, normalisation=Normalisation((), ()))


@contextmanager
def _seeded(seed: int, device: torch.device, wanted: bool) -> Iterator[None]:
    """The global random state, which dropout draws from, begun by `seed`, and put back afterwards."""
    if not wanted:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _seed(seed, device)
        yield


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed % 2**63)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed % 2**63)


def descend(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    optimizer: torch.optim.Optimizer,
    loss: Loss = F.cross_entropy,
) -> list[float]:
    """One optimiser step per batch on `loss(logits, labels)`; returns the losses. The model keeps the mode it is in."""
    losses = []
    for x, y in batches:
        value = loss(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses).tolist() if losses else []


def warm_up() -> None:
    """Step an optimiser once. torch imports what that needs on the first step of a process, seconds that no method has spent."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], lr=0.0).step()
