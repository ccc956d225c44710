"""The models on a method's way: two scores after every epoch, and after the epochs that a person asks for, every metric."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from base_models import score_of
from evaluation import ModelOutputs, NotFinite
from measurement import Metric, outputs_with_metrics, values_of
from reporter.run_warning import RunWarning
from unlearn import ForgetData
from vision_data import ImageSet


def checked_epochs(epochs: Collection[int], settings: Mapping[str, Any]) -> tuple[int, ...]:
    """The epochs in ascending order. ValueError for what is no epoch, twice the same, and more than the method's unlearn_epochs."""
    for epoch in epochs:
        if type(epoch) is not int or epoch < 1:
            raise ValueError(f"--checkpoint_epochs: expected integers >= 1, got {epoch!r}. Count epochs from 1, e.g. 1,3,5")
    twice = sorted({epoch for epoch in epochs if list(epochs).count(epoch) > 1})
    if twice:
        raise ValueError(f"--checkpoint_epochs: expected each epoch once, got {_listed(twice)} again. Name it once")
    last = settings.get("unlearn_epochs")
    beyond = sorted(epoch for epoch in epochs if last is not None and epoch > last)
    if beyond:
        raise ValueError(
            f"--checkpoint_epochs: expected epochs up to {last}, the --unlearn_epochs, got {_listed(beyond)}. Give earlier ones, "
            "or more --unlearn_epochs"
        )
    return tuple(sorted(epochs))


@dataclass
class Intermediate:
    """What is known of the models of one run after each epoch, counted from 1.

    `wanted`: the epochs to evaluate after. `scores`: percent on forget and validation, of every epoch. `metrics`: of the wanted
    ones, what was `asked` and the final model gets too (but for a whole run's seconds), compared with the same `others`;
    `undefined` says why metrics are missing, and by `commands` how to make what they need.
    """

    wanted: tuple[int, ...]
    asked: Sequence[Metric] = ()
    others: Mapping[str, ModelOutputs] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    undefined: dict[int, dict[str, str]] = field(default_factory=dict)

    def score(self, model: nn.Module, epoch: int, data: ForgetData) -> None:
        sets = {"forget_score": data.forget, "validation_score": data.validation}
        self.scores[epoch] = {name: score_of(model, images, data.device) for name, images in sets.items() if len(images)}

    def evaluate(self, model: nn.Module, epoch: int, data: ForgetData, test: ImageSet) -> None:
        """Every metric; none where the outputs are not finite, for the method may recover."""
        try:
            own = outputs_with_metrics(model, f"epoch {epoch}", data, test, self.asked)
        except NotFinite as error:
            self.metrics[epoch], self.undefined[epoch] = {}, {metric.name: str(error) for metric in self.asked}
        else:
            self.metrics[epoch], self.undefined[epoch] = values_of(own, self.others, self.asked, commands=self.commands)

    @property
    def last_step(self) -> int:
        """The step of the final model's metrics: after those of the intermediate models, 0 without any."""
        return max(self.scores) if self.metrics else 0

    def warnings(self) -> list[RunWarning]:
        """One for the wanted epochs that the method did not reach, and one for each after which there was nothing to measure."""
        missed = [epoch for epoch in self.wanted if epoch not in self.scores]
        ended = f"the method ended after epoch {max(self.scores)}" if self.scores else "the method has no epochs"
        text = f"not evaluated after --checkpoint_epochs {_listed(missed)}: {ended}"
        found = [RunWarning("not evaluated", text)] if missed else []
        broken = [next(iter(self.undefined[epoch].values())) for epoch, values in self.metrics.items() if not values]
        return found + [RunWarning("diverged", f"diverged: {reason}") for reason in broken]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """What is drawn inside leaves the global random state, the CPU's and the device's, as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _listed(epochs: Collection[int]) -> str:
    return ", ".join(map(str, epochs))
