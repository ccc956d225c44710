"""Evaluate intermediate models: two scores at every epoch, all metrics at --checkpoint_epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lethe.data import ImageSet
from lethe.evaluation import Missing, ModelOutputs, NotFinite
from lethe.evaluation.memorisation import Memorisation
from lethe.experiment.base_models import score_of
from lethe.experiment.measure import Metric, outputs_with_metrics, values_of
from lethe.flag_error import FlagError
from lethe.report.run_warning import RunWarning
from lethe.unlearn import ForgetData

MOST_EPOCHS = 10**9  # as of every integer flag


def checked_epochs(epochs: Collection[int], settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the epochs sorted. Raises ValueError for values below 1, too high, or repeated."""
    for epoch in epochs:
        if type(epoch) is not int or epoch < 1:
            raise FlagError(
                "checkpoint_epochs", f"expected integers >= 1, got {epoch!r}. Count epochs from 1, e.g. 1,3,5"
            )
    twice = sorted({epoch for epoch in epochs if list(epochs).count(epoch) > 1})
    if twice:
        raise FlagError(
            "checkpoint_epochs", f"expected each epoch once, got {_listed(twice)} again. Name it once"
        )
    last = settings.get("unlearn_epochs")
    most = MOST_EPOCHS if last is None else last
    beyond = sorted(epoch for epoch in epochs if epoch > most)
    if beyond:
        of_flag, more = ("", "") if last is None else (", the --unlearn_epochs", ", or more --unlearn_epochs")
        raise FlagError(
            "checkpoint_epochs",
            f"expected epochs up to {most}{of_flag}, got {_listed(beyond)}. Give earlier ones{more}",
        )
    return tuple(sorted(epochs))


@dataclass
class Intermediate:
    """Evaluation of one run's models after each epoch, counted from 1.

    `wanted`: epochs for full evaluation. `scores`: percent on forget and validation, for every epoch.
    `metrics`: the `asked` metrics of the wanted epochs, compared with the base models' outputs `others`.
    `undefined`: the reasons of missing metrics. `commands`: the commands that make missing inputs.
    `memorisation`: of the forget images, if a metric needs it.
    """

    wanted: tuple[int, ...]
    asked: Sequence[Metric] = ()
    others: Mapping[str, ModelOutputs] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    memorisation: Memorisation | None = None
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    undefined: dict[int, dict[str, Missing]] = field(default_factory=dict)

    def score(self, model: nn.Module, epoch: int, data: ForgetData) -> None:
        sets = {"forget_score": data.forget, "validation_score": data.validation}
        self.scores[epoch] = {
            name: score_of(model, images, data.device) for name, images in sets.items() if len(images)
        }

    def evaluate(self, model: nn.Module, epoch: int, data: ForgetData, test: ImageSet) -> None:
        """Evaluate all metrics. Outputs that are not finite give none: a method may recover."""
        try:
            own = outputs_with_metrics(model, f"epoch {epoch}", data, test, self.asked)
        except NotFinite as error:
            self.metrics[epoch] = {}
            self.undefined[epoch] = {metric.name: Missing(str(error)) for metric in self.asked}
        else:
            self.metrics[epoch], self.undefined[epoch] = values_of(
                own, self.others, self.asked, commands=self.commands, memorisation=self.memorisation
            )

    @property
    def last_step(self) -> int:
        """The step of the final model's metrics: the last epoch, or 0 without intermediate metrics."""
        return max(self.scores) if self.metrics else 0

    def warnings(self) -> list[RunWarning]:
        """Return a warning for wanted epochs that were not reached, and for each without finite outputs."""
        missed = [epoch for epoch in self.wanted if epoch not in self.scores]
        ended = (
            f"the method ended after epoch {max(self.scores)}" if self.scores else "the method has no epochs"
        )
        text = f"not evaluated after --checkpoint_epochs {_listed(missed)}: {ended}"
        found = [RunWarning("not evaluated", text)] if missed else []
        broken = [
            next(iter(self.undefined[epoch].values())) for epoch, values in self.metrics.items() if not values
        ]
        return found + [RunWarning("diverged", f"diverged: {reason}") for reason in broken]


def _listed(epochs: Collection[int]) -> str:
    return ", ".join(map(str, epochs))
