"""Everything that the report of one run is made from: what the run knows already, and nothing that would have
to be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from evaluation import MetricFacts, Missing, ModelOutputs
from registry import Entry
from reporter.layer_charts import Layer
from reporter.verdict import Measurements
from vision_data.chosen_images import Images


@dataclass(frozen=True)
class History:
    """Numbers over steps: of what, one mapping of names to numbers a step, which model's line they are, and
    what a step is.
    """

    title: str
    steps: Sequence[Mapping[str, float]]
    role: str
    step: str = "epoch"


@dataclass(frozen=True)
class ForgetImages:
    """The forget set as pictures: uint8 images (N, C, H, W) whose fully lit pixel is `white`, and their
    indexes (N,).
    """

    images: Images
    white: int
    indexes: Tensor


@dataclass(frozen=True)
class RunFacts:
    """One run.

    asked, method, about, source: the request and the method in words. measured: the numbers, by model. kinds:
    the metrics that were asked
    for, with their units. undefined: why metrics have no value. outputs: the models' outputs, by "initial",
    "unlearned", "ideal". names: of the classes. params, versions, stages (seconds), notes: as the run logs
    them. command: what makes this run again.
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
    images: ForgetImages | None = None
    histories: Sequence[History] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
