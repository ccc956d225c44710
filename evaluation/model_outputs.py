"""The outputs of one model on the image sets, from one forward pass per set: the input of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.evaluation.entropies import cross_entropy, margin
from lethe.evaluation.impl import METRICS, MetricFacts, missing_inputs, needs_of
from lethe.models import evaluating
from lethe.registry import Entry
from lethe.signature import Function

Made = TypeVar("Made")
NO_WHOLE_CLASS = "no whole class was forgotten"
DRAWS = 5  # draws of an attack's members: the first gives the value, the others its spread


class NotFinite(FloatingPointError, ValueError):
    """Raised for NaN or infinite logits: the model diverged."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The logits (N, C) of one model on N images, with their labels (N,) int64; N may be 0.

    Derived values are float64 and computed once. A logit may be -inf (probability 0). features: the input of
    the model's last linear layer, (N, d), or None. Raises ValueError for a wrong shape or type, fewer than 2
    classes, and labels outside of the classes; NotFinite for NaN or +inf.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor | None = None

    def __post_init__(self) -> None:
        _check_logits(self.logits)
        _check_labels(self.labels, *self.logits.shape)
        object.__setattr__(self, "logits", self.logits.detach())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def probabilities(self) -> Tensor:
        """softmax(logits), (N, C)."""
        return self.logits.double().softmax(dim=1)

    @cached_property
    def losses(self) -> Tensor:
        """-log p_y of each image, (N,), nats."""
        return cross_entropy(self.logits, self.labels)

    @cached_property
    def margins(self) -> Tensor:
        """log(p_y / (1 - p_y)) of each image, (N,), nats."""
        return margin(self.logits, self.labels)

    @cached_property
    def true_probabilities(self) -> Tensor:
        """p_y of each image, (N,)."""
        return torch.exp(-self.losses)

    @cached_property
    def correct(self) -> Tensor:
        """Whether the prediction is the true class, (N,) bool. Predicts the first of equal logits."""
        return self.logits.argmax(dim=1) == self.labels

    def subset(self, mask: Tensor) -> Outputs:
        """Select images by a bool mask (N,) or by int64 indexes.

        Raises ValueError for a mask of a wrong shape or type.
        """
        fits = mask.dtype == torch.int64 or (mask.dtype == torch.bool and len(mask) == len(self))
        if mask.ndim != 1 or not fits:
            raise ValueError(
                f"expected a bool mask of shape ({len(self)},) or int64 indexes, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}. Give one entry per image."
            )
        features = None if self.features is None else self.features[mask]
        return Outputs(self.logits[mask], self.labels[mask], features)


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"expected logits (N, C) with C >= 2, got shape {tuple(logits.shape)}. Give a row of class "
            "scores per image."
        )
    if not logits.is_floating_point():
        raise ValueError(
            f"expected floating-point logits, got {logits.dtype}. Give the model's outputs, not its "
            "predictions."
        )
    broken = len(logits) - int(logits.amax(dim=1).isfinite().sum())
    if broken:
        raise NotFinite(
            f"expected logits with a finite maximum, got NaN or infinity for {broken} of {len(logits)} "
            "images. Lower the learning rate: the model diverged."
        )


def _check_labels(labels: Tensor, images: int, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != (images,):
        raise ValueError(
            f"expected int64 labels of shape ({images},), got {labels.dtype} of shape {tuple(labels.shape)}. "
            "Give one class index per row of logits."
        )
    if images and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}. "
            "Evaluate a model that was made for these classes."
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """The model on its device, and its training images: for metrics that need more than the outputs."""

    model: nn.Module
    forget: ImageSet
    retain: ImageSet
    device: torch.device


@dataclass(frozen=True)
class Times:
    """Seconds of the method alone, and of the ideal model's training (None if unknown)."""

    unlearn: float
    ideal: float | None


@dataclass(frozen=True, eq=False)
class Attack:
    """The result of a membership attack on the forget images.

    scores: (m,) float64, from the first draw of the members; positive for member. lowest, highest: the range
    over all draws of the share called non-member, percent; a score within the solver's tolerance of 0 counts
    as either.
    """

    scores: Tensor
    lowest: float
    highest: float


@dataclass(frozen=True, eq=False)
class ModelOutputs:
    """The outputs of one model on the image sets of one forget request.

    forget_classes: the classes that were forgotten whole, or (). seed: draws the members of the attacks.
    subject: the model itself, if available. attacks: results by metric name (see `evaluation.membership`).
    Raises ValueError if the sets differ in their number of classes, a forgotten class does not exist, or
    retain has images of it.
    """

    forget: Outputs
    retain: Outputs
    test: Outputs
    validation: Outputs | None
    forget_classes: tuple[int, ...]
    seed: int
    subject: Subject | None = None
    attacks: dict[str, Attack] = field(default_factory=dict, init=False, repr=False)
    _values: dict[Function, float] = field(default_factory=dict, init=False, repr=False)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        counts = {name: outputs.classes for name, outputs in self.sets.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"expected as many classes in every set, got {counts}. Make all outputs with one model."
            )
        unknown = [c for c in self.forget_classes if not 0 <= c < self.test.classes]
        if unknown:
            raise ValueError(
                f"expected forgotten classes from 0 to {self.test.classes - 1}, got {unknown}. Name classes "
                "that exist."
            )
        left = int(self._is_forgotten(self.retain).sum())
        if left:
            raise ValueError(
                f"expected no image of the forgotten classes {self.forget_classes} in retain, got {left}. "
                "Give forget_classes=() where only a part of a class was forgotten."
            )

    @property
    def sets(self) -> dict[str, Outputs]:
        """The outputs by set name, without an absent validation set."""
        named = {"forget": self.forget, "retain": self.retain, "test": self.test}
        return named if self.validation is None else named | {"validation": self.validation}

    @property
    def model_itself(self) -> Subject:
        """The model and its training images. Raises ValueError if there are only outputs."""
        if self.subject is None:
            raise ValueError("needs the model itself, not its outputs alone. Give ModelOutputs its subject")
        return self.subject

    @cached_property
    def test_forget(self) -> Outputs:
        """The test images of the forgotten classes. ValueError if no whole class was forgotten."""
        self._check_whole_class()
        return self.test.subset(self._is_forgotten(self.test))

    @cached_property
    def test_retain(self) -> Outputs:
        """The test images of all other classes. ValueError if no whole class was forgotten."""
        self._check_whole_class()
        return self.test.subset(~self._is_forgotten(self.test))

    @cached_property
    def draws(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """DRAWS pairs of row indexes: members from retain and non-members from test, to train an attack on.

            n_c = min(retain images of class c, test images of class c), or 0 if class c was forgotten whole

        Both sides have n_c images of each class, so they differ in membership alone. `seed` draws them.
        """
        retain, test = self.retain.labels.cpu(), self.test.labels.cpu()
        of_retain, of_test = (labels.bincount(minlength=self.test.classes) for labels in (retain, test))
        counts = torch.minimum(of_retain, of_test)
        counts[list(self.forget_classes)] = 0
        generator = torch.Generator().manual_seed(self.seed)
        return tuple(
            (_some_of_each_class(retain, counts, generator), _some_of_each_class(test, counts, generator))
            for _ in range(DRAWS)
        )

    @cached_property
    def members(self) -> Outputs:
        """The members of the first draw (retain images, see `draws`)."""
        return self.retain.subset(self.draws[0][0])

    @cached_property
    def non_members(self) -> Outputs:
        """The non-members of the first draw (test images, see `draws`)."""
        return self.test.subset(self.draws[0][1])

    def metric(self, name: str) -> float:
        """Return a metric of this model alone, by name or alias. Computes it once.

        Raises ValueError for an unknown name, a metric that needs a second model, and unsuitable image sets.
        """
        return self.value(METRICS[name])

    def value(self, entry: Entry[MetricFacts]) -> float:
        """Return the value of a registry entry; see `metric`."""
        absent = missing_inputs(needs_of(entry.function), ("model",))
        if absent is not None:
            raise ValueError(f"{entry.name} {absent}. Call evaluate(model=..., ideal=...)")
        if entry.function not in self._values:
            self._values[entry.function] = float(entry.function(self))
        return self._values[entry.function]

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Call `make` at the first call with this name, and return its result from then on."""
        if name not in self._made:
            self._made[name] = make()
        made: Made = self._made[name]
        return made

    def remember(self, values: Mapping[str, float]) -> None:
        """Set values, by metric name, that were computed from these outputs earlier."""
        self._values.update({METRICS[name].function: value for name, value in values.items()})

    def _is_forgotten(self, outputs: Outputs) -> Tensor:
        labels = outputs.labels
        return torch.isin(labels, torch.tensor(self.forget_classes, dtype=torch.int64, device=labels.device))

    def _check_whole_class(self) -> None:
        if not self.forget_classes:
            raise ValueError(NO_WHOLE_CLASS)


def _some_of_each_class(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows (int64) of `counts[c]` random images of each class c."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    of_each = labels.bincount(minlength=len(counts))
    starts = of_each.cumsum(0) - of_each
    place_in_class = torch.arange(len(labels)) - starts[labels[by_class]]
    return by_class[place_in_class < counts[labels[by_class]]]


def outputs_of(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], features_of: nn.Module | None = None
) -> Outputs:
    """Run a model on batches of images and labels on its device, and return the outputs on the CPU.

    Runs in eval mode and restores the mode of every module. features_of: a layer whose inputs become the
    features. Raises ValueError if there is no batch, and for outputs that are not logits (see Outputs).
    """
    inputs: list[Tensor] = []
    handle = features_of and features_of.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        with evaluating(model), torch.inference_mode():
            seen = [(model(images), labels) for images, labels in batches]
    finally:
        if handle:
            handle.remove()
    if not seen:
        raise ValueError(
            "expected at least 1 batch of images and labels, got 0. Evaluate on a set that is not empty."
        )
    logits, labels = (torch.cat(parts).cpu() for parts in zip(*seen, strict=True))
    return Outputs(logits, labels, torch.cat(inputs).cpu() if inputs else None)
