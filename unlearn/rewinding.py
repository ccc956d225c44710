"""Rewinding: return the epoch whose forget error is that of unseen images (SCRUB+R)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lethe.data import ImageSet
from lethe.flag_error import FlagError
from lethe.unlearn.forget_and_retain import logits_of
from lethe.unlearn.impl import ForgetData, Unlearned


def check(data: ForgetData) -> None:
    """Raise ValueError if a class of the forget set has no validation image to measure its error on."""
    unseen = sorted(set(data.forget.classes) - set(data.validation.classes))
    if unseen:
        raise FlagError(
            "rewind",
            f"expected validation images of every class of the forget set, got none of class {unseen[0]} "
            "(validation loses a class that is forgotten whole). Leave out --rewind, or forget a part of "
            "the class",
        )


class Checkpoints:
    """The weights after each epoch, in main memory; of epochs of one forget error only the latest."""

    def __init__(self, data: ForgetData) -> None:
        self.data = data
        self._of_error: dict[float, tuple[int, dict[str, Tensor]]] = {}

    def watching(self) -> ForgetData:
        """Return the data with an `on_epoch` that keeps the weights as well."""

        def on_epoch(student: nn.Module, epoch: int) -> None:
            weights = {name: value.to("cpu", copy=True) for name, value in student.state_dict().items()}
            self._of_error[forget_error(student, self.data)] = (epoch, weights)
            self.data.on_epoch(student, epoch)

        return replace(self.data, on_epoch=on_epoch)

    def rewound(self, done: Unlearned) -> Unlearned:
        """Return the epoch whose forget error is nearest to the last one's error on unseen images."""
        aim = unseen_error(done.model, self.data)
        error = nearest({error: epoch for error, (epoch, _) in self._of_error.items()}, aim)
        epoch, weights = self._of_error[error]
        done.model.load_state_dict(weights)
        done.facts.update(rewound_to_epoch=epoch, forget_error=error, unseen_error=aim)
        return done


def nearest(epochs: Mapping[float, int], aim: float) -> float:
    """Return the error nearest to `aim`; of two equally near, that of the later epoch."""
    return min(epochs, key=lambda error: (abs(error - aim), -epochs[error]))


def forget_error(model: nn.Module, data: ForgetData) -> float:
    """Return the percentage of forget images that the model predicts wrongly."""
    return 100 * wrong(model, data.forget, data).mean().item()


def unseen_error(model: nn.Module, data: ForgetData) -> float:
    """Return the percentage of validation errors, each class weighted by its share of the forget set."""
    missed = wrong(model, data.validation, data)
    forget, labels = data.forget.labels.cpu(), data.validation.labels.cpu()
    of_class = [
        missed[labels == label].mean() * (forget == label).double().mean() for label in data.forget.classes
    ]
    return 100 * torch.stack(of_class).sum().item()


def wrong(model: nn.Module, images: ImageSet, data: ForgetData) -> Tensor:
    """Return 1 for each image that the model predicts wrongly in eval mode, else 0; on the CPU."""
    predicted = logits_of(model, images, data.device, data.group).argmax(1).cpu()
    return (predicted != images.labels.cpu()).double()
