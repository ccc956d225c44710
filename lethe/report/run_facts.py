"""The facts that the report of one run is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lethe.data.chosen_images import Images
from lethe.evaluation import MetricFacts, Missing, ModelOutputs
from lethe.registry import Entry
from lethe.report.layer_charts import Layer
from lethe.report.svg import Picture
from lethe.report.verdict import Measurements


@dataclass(frozen=True)
class History:
    """Numbers over steps, by name. role: the model. step: "epoch" or another unit of a step."""

    title: str
    steps: Sequence[Mapping[str, float]]
    role: str
    step: str = "epoch"


@dataclass(frozen=True)
class ForgetImages:
    """The forget set: uint8 images (N, C, H, W) of brightness 0 to `white`, and their indexes (N,)."""

    images: Images
    white: int
    indexes: Tensor


@dataclass(frozen=True)
class RunFacts:
    """One run.

    asked, method, about, source: the request and the method in words. measured: the numbers, by model. kinds:
    the measured metrics. undefined: why metrics have no value. outputs: the models' outputs, by "initial",
    "unlearned", "ideal". names: of the classes. params, versions, stages (seconds), notes: as logged.
    command: repeats this run. over_kappa: the masks among which the method chose.
    """

    name: str
    run_id: str
    asked: str
    method: str
    about: str
    source: str
    measured: Measurements
    kinds: Sequence[Entry[MetricFacts]]
    undefined: Mapping[str, Missing]
    outputs: Mapping[str, ModelOutputs]
    names: Sequence[str]
    params: Mapping[str, object]
    command: str
    layer: Layer | None = None
    over_kappa: Picture | None = None
    images: ForgetImages | None = None
    histories: Sequence[History] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
