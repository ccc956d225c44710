"""Numbers about a model: what it still knows of the forget set, and what forgetting cost.

    values, reasons = evaluate(model=ModelOutputs(...), ideal=ModelOutputs(...))

One forward pass per model and image set makes ModelOutputs; every metric reads that. Many models' margins make a Population (KLoM, the
challenge's score) or Shadows (U-LiRA). What is left behind the logits is
asked of the model itself: probe_score of its features, relearn_steps of a copy that learns the forget set again.
`chosen` says which metrics "all", "default" and names are.
"""

from evaluation import (
    classification,
    entropies,
    forgetting_quality,
    gap,
    internal_knowledge,
    klom,
    loss_threshold,
    membership,
    prediction_distance,
    probe,
    relearning,
    seconds,
    ulira,
    weights,
)
from evaluation.choice import ALL, DEFAULT, chosen, names_in
from evaluation.evaluate import evaluate
from evaluation.impl import METRICS, NO_COMMANDS, OF_MANY, UNDECIDED, VERSION, MetricFacts, is_undecided, needs_of, register
from evaluation.klom import noise_floor
from evaluation.model_outputs import Attack, ModelOutputs, NotFinite, Outputs, Subject, Times, outputs_of
from evaluation.population import Population
from evaluation.probe import last_linear_layer, penultimate_features, probe_score
from evaluation.relearning import Relearned, anamnesis_index, relearn_steps
from evaluation.ulira import Shadows

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
    "classification",
    "entropies",
    "evaluate",
    "forgetting_quality",
    "gap",
    "internal_knowledge",
    "is_undecided",
    "klom",
    "last_linear_layer",
    "loss_threshold",
    "membership",
    "names_in",
    "needs_of",
    "noise_floor",
    "outputs_of",
    "penultimate_features",
    "prediction_distance",
    "probe",
    "probe_score",
    "register",
    "relearn_steps",
    "relearning",
    "seconds",
    "ulira",
    "weights",
]
