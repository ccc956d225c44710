"""Penultimate features: what the classifier takes, with gradients, and a map put before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.models import evaluating
from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.impl import ForgetData


def check_classifier(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model whose logits do not come from a linear layer."""
    classifier_of(model, data)


class Features(nn.Module):
    """The model up to its classifier: images -> penultimate features h (N, d), in the model's present mode.

    classifier: the name that `classifier_of` gives. Gradients flow to all weights but the classifier's.
    """

    def __init__(self, model: nn.Module, classifier: str) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier

    def forward(self, x: Tensor) -> Tensor:
        layer = self.model.get_submodule(self.classifier)
        # First of all hooks: others that watch the classifier see it run once, on what it is given.
        handle = layer.register_forward_pre_hook(_stop, prepend=True)
        try:
            self.model(x)
        except _Reached as reached:
            return reached.features
        finally:
            handle.remove()
        raise RuntimeError(
            f"the classifier {self.classifier!r} did not run"
        )  # in a trace, which has no hooks


class Projected(nn.Module):
    """A model with a frozen linear layer before its classifier: logits = W P h + b.

    P (d, d) is a buffer. `model` is the model itself; the classifier's inputs are P h, for whoever looks.
    """

    def __init__(self, model: nn.Module, classifier: str, projection: Tensor) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier
        self.projection: Tensor
        self.register_buffer("projection", projection)

    def forward(self, x: Tensor) -> Tensor:
        h = Features(self.model, self.classifier)(x)
        logits: Tensor = self.model.get_submodule(self.classifier)(h @ self.projection.T)
        return logits


@torch.no_grad()
def features_of(model: nn.Module, images: ImageSet, data: ForgetData) -> Tensor:
    """Return the features (N, d) of a set in eval mode, in the order of the images."""
    body = Features(model, classifier_of(model, data))
    batches = images.batches(512, device=data.device)
    with evaluating(model):
        return torch.cat([body(x) for x, _ in batches])


class _Reached(Exception):
    """Raised by a hook to stop a forward pass at the classifier; carries the classifier's input."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def _stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _Reached(inputs[0])
