"""The forget images that an unlearned model still knows best, as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lethe.evaluation import Outputs
from lethe.report.run_facts import ForgetImages
from lethe.report.svg import png

SHOWN = 12
LARGEST = 96  # pixels a side


@dataclass(frozen=True)
class Thumbnail:
    """One forget image. index: in the original training set. probabilities: of its class, by model."""

    index: int
    label: str
    probabilities: Mapping[str, float]
    uri: str

    @property
    def alt(self) -> str:
        known = ", ".join(f"{model} {p:.3f}" for model, p in self.probabilities.items())
        return f"Forget image {self.index}, {self.label}. Probability of its class: {known}."


def best_known(
    forget: ForgetImages, models: Mapping[str, Outputs], names: Sequence[str], shown: int = SHOWN
) -> list[Thumbnail]:
    """Return the images with the largest p_y of the unlearned model, in descending order."""
    unlearned, found = models["unlearned"], []
    for row in unlearned.true_probabilities.argsort(descending=True, stable=True)[:shown].tolist():
        known = {model: float(outputs.true_probabilities[row]) for model, outputs in models.items()}
        uri = png(pixels(forget.images[row : row + 1][0].cpu().numpy(), forget.white))
        found.append(Thumbnail(int(forget.indexes[row]), names[int(unlearned.labels[row])], known, uri))
    return found


def pixels(image: np.ndarray, white: int) -> np.ndarray:
    """Return an image (C, H, W) of brightness 0 to `white` as (h, w, 3) uint8, at most 96 a side.

    Shows the first channel of an image that has not 3.
    """
    every = max(1, -(-max(image.shape[1:]) // LARGEST))
    channels = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    scaled = np.round(255.0 * channels[:, ::every, ::every] / white).clip(0, 255).astype(np.uint8)
    shown: np.ndarray = np.ascontiguousarray(scaled.transpose(1, 2, 0))
    return shown
