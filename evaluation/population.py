"""What several models of one kind say about the same images: what KLoM and the challenge's score compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluation.model_outputs import ModelOutputs

MINIMUM = 10  # models a side; below it no histogram of margins says anything


@dataclass(frozen=True, eq=False)
class Population:
    """The margins of N models on the images of each set, and where they are known, the scores of each model.

    margins: "forget", and where they were measured "retain" and "validation" -> (N, n) nats, float. Infinite ones are fine, NaN is not.
    scores: "retain_score" and "ta" (test_score, or test_retain_score where a whole class was forgotten) -> (N,) percent.
    Raises ValueError for other shapes, NaN, fewer than 10 models, and sets that differ in their number of models.
    """

    margins: Mapping[str, Tensor]
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "forget" not in self.margins:
            raise ValueError(f"expected margins of the forget set, got those of {', '.join(self.margins) or 'none'}. Give them")
        for name, margins in self.margins.items():
            check_margins(margins, f"{name} margins")
        lengths = {name: len(values) for name, values in (dict(self.margins) | dict(self.scores)).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected as many models in every set, got {lengths}. Measure all models on every set")

    def __len__(self) -> int:
        return len(self.margins["forget"])

    @classmethod
    def of(cls, models: Iterable[ModelOutputs]) -> Population:
        """From what each model says, one at a time. Margins are kept as float32, which is what a file of them holds."""
        sets: dict[str, list[Tensor]] = {}
        scores: dict[str, list[float]] = {"retain_score": [], "ta": []}
        for outputs in models:
            for name in ("forget", "retain", "validation"):
                if name in outputs.sets and len(outputs.sets[name]):
                    sets.setdefault(name, []).append(outputs.sets[name].margins.float())
            scores["retain_score"].append(outputs.metric("retain_score"))
            scores["ta"].append(outputs.metric("test_retain_score" if outputs.forget_classes else "test_score"))
        margins = {name: torch.stack(rows) for name, rows in sets.items()}
        return cls(margins, {name: torch.tensor(values, dtype=torch.float64) for name, values in scores.items()})


def check_margins(margins: Tensor, what: str = "margins", minimum: int = MINIMUM) -> None:
    """ValueError for margins that are not floats (N, n) of at least `minimum` models and one image, or that have NaN."""
    if margins.ndim != 2 or not margins.is_floating_point() or not margins.shape[1]:
        raise ValueError(
            f"{what}: expected floats (models, images) of at least 1 image, got {margins.dtype} {tuple(margins.shape)}. "
            "Give a row per model"
        )
    if len(margins) < minimum:
        raise ValueError(f"{what}: expected at least {minimum} models, got {len(margins)}. Train more")
    broken = int(margins.isnan().sum())
    if broken:
        raise ValueError(
            f"{what}: expected numbers, got NaN in {broken} of {margins.numel()} ({int(margins.isnan().any(1).sum())} of {len(margins)} "
            "models). Leave out the models that diverged"
        )


def check_same(unlearned: Tensor, oracles: Tensor) -> None:
    """ValueError for margins of another number of models, or of images, on the two sides."""
    if unlearned.shape != oracles.shape:
        raise ValueError(
            f"expected as many oracles as unlearned models, on the same images, got {tuple(oracles.shape)} and {tuple(unlearned.shape)} "
            "(models, images). Compare equal numbers: the noise floor depends on them"
        )
