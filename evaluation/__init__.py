"""Metrics of an unlearned model: how much of the forget set it still knows, and what unlearning cost.

    values, reasons = evaluate(model=ModelOutputs(...), ideal=ModelOutputs(...))

One forward pass per model and image set gives ModelOutputs, which every metric reads. The margins of many
models form a Population (KLoM, the challenge's score) or Shadows (U-LiRA). Memorisation ranks the forget
images. Two metrics need the model itself: probe_score reads its features, relearn_steps trains a copy of it
on the forget set. `chosen` resolves "all", "default" and names to metrics.
"""

from lethe import checkout

checkout.alias(__name__)

from lethe.registry import import_modules

import_modules(__name__, __path__)  # first, so that metrics stand in the order of their files

from lethe.evaluation.choice import ALL, DEFAULT, chosen, names_in
from lethe.evaluation.evaluate import evaluate
from lethe.evaluation.impl import (
    METRICS,
    NO_COMMANDS,
    OF_MANY,
    UNDECIDED,
    VERSION,
    MetricFacts,
    Missing,
    is_undecided,
    needs_of,
    register,
)
from lethe.evaluation.klom import noise_floor
from lethe.evaluation.model_outputs import (
    Attack,
    ModelOutputs,
    NotFinite,
    Outputs,
    Subject,
    Times,
    outputs_of,
)
from lethe.evaluation.population import Population
from lethe.evaluation.probe import last_linear_layer, penultimate_features, probe_score
from lethe.evaluation.relearning import Relearned, anamnesis_index, relearn_steps
from lethe.evaluation.ulira import Shadows

__all__ = [
    "ALL",
    "DEFAULT",
    "METRICS",
    "NO_COMMANDS",
    "OF_MANY",
    "UNDECIDED",
    "VERSION",
    "Attack",
    "MetricFacts",
    "Missing",
    "ModelOutputs",
    "NotFinite",
    "Outputs",
    "Population",
    "Relearned",
    "Shadows",
    "Subject",
    "Times",
    "anamnesis_index",
    "chosen",
    "evaluate",
    "is_undecided",
    "last_linear_layer",
    "names_in",
    "needs_of",
    "noise_floor",
    "outputs_of",
    "penultimate_features",
    "probe_score",
    "register",
    "relearn_steps",
]
