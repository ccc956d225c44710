"""Margins of several models on the same images: the input of KLoM and of the challenge's score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lethe.evaluation.model_outputs import ModelOutputs

MINIMUM = 10  # models a side; a histogram of fewer margins has no meaning


@dataclass(frozen=True, eq=False)
class Population:
    """The margins of N models by image set, and the scores of each model, if known.

    margins: "forget", and optionally "retain" and "validation" -> (N, n) nats, float; may be infinite, not
    NaN.
    scores: "retain_score" and "ta" (test_score, or test_retain_score where a whole class was forgotten) ->
    (N,) percent. Raises ValueError for wrong shapes, NaN, fewer than 10 models, and sets of different numbers
    of models.
    """

    margins: Mapping[str, Tensor]
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "forget" not in self.margins:
            raise ValueError(
                f"expected margins of the forget set, got those of {', '.join(self.margins) or 'none'}. Give "
                "them"
            )
        for name, margins in self.margins.items():
            check_margins(margins, f"{name} margins")
        lengths = {name: len(values) for name, values in (dict(self.margins) | dict(self.scores)).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"expected as many models in every set, got {lengths}. Measure all models on every set"
            )

    def __len__(self) -> int:
        return len(self.margins["forget"])

    @classmethod
    def of(cls, models: Iterable[ModelOutputs]) -> Population:
        """Collect the margins (as float32, as in files) and scores of models, one at a time."""
        sets: dict[str, list[Tensor]] = {}
        scores: dict[str, list[float]] = {"retain_score": [], "ta": []}
        for outputs in models:
            for name in ("forget", "retain", "validation"):
                if name in outputs.sets and len(outputs.sets[name]):
                    sets.setdefault(name, []).append(outputs.sets[name].margins.float())
            scores["retain_score"].append(outputs.metric("retain_score"))
            scores["ta"].append(
                outputs.metric("test_retain_score" if outputs.forget_classes else "test_score")
            )
        margins = {name: torch.stack(rows) for name, rows in sets.items()}
        return cls(
            margins, {name: torch.tensor(values, dtype=torch.float64) for name, values in scores.items()}
        )


def check_margins(margins: Tensor, what: str = "margins", minimum: int = MINIMUM) -> None:
    """Raise ValueError unless margins are floats (N, n) without NaN, N >= minimum and n >= 1."""
    if margins.ndim != 2 or not margins.is_floating_point() or not margins.shape[1]:
        raise ValueError(
            f"{what}: expected floats (models, images) of at least 1 image, got {margins.dtype} "
            f"{tuple(margins.shape)}. Give a row per model"
        )
    if len(margins) < minimum:
        raise ValueError(f"{what}: expected at least {minimum} models, got {len(margins)}. Train more")
    broken = int(margins.isnan().sum())
    if broken:
        raise ValueError(
            f"{what}: expected numbers, got NaN in {broken} of {margins.numel()} "
            f"({int(margins.isnan().any(1).sum())} of {len(margins)} "
            "models). Leave out the models that diverged"
        )


def check_same(unlearned: Tensor, oracles: Tensor) -> None:
    """Raise ValueError unless both sides have the same numbers of models and of images."""
    if unlearned.shape != oracles.shape:
        raise ValueError(
            f"expected as many oracles as unlearned models, on the same images, got {tuple(oracles.shape)} "
            f"and {tuple(unlearned.shape)} "
            "(models, images). Compare equal numbers: the noise floor depends on them"
        )
