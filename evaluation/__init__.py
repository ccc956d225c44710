"""Numbers about a model: what it still knows of the forget set, and what forgetting cost.

    values, reasons = evaluate(model=Evidence(...), ideal=Evidence(...))

One forward pass per model and image set makes an Evidence; every metric reads that. Many models' margins make a Population (KLoM, the
challenge's score) or Shadows (U-LiRA). What is left behind the logits is
asked of the model itself: probe_score of its features, relearn_steps of a copy that learns the forget set again.
"""

from evaluation import (
    classification,
    entropies,
    forgetting_quality,
    gap,
    klom,
    loss_threshold,
    membership,
    prediction_distance,
    probe,
    relearning,
    ulira,
)
from evaluation.evaluate import evaluate
from evaluation.evidence import Evidence, NotFinite, Outputs, outputs_of
from evaluation.impl import METRICS, VERSION, MetricFacts, needs_of, register
from evaluation.klom import noise_floor
from evaluation.population import Population
from evaluation.probe import penultimate_features, probe_score
from evaluation.relearning import Relearned, anamnesis_index, relearn_steps
from evaluation.ulira import Shadows

__all__ = [
    "METRICS",
    "VERSION",
    "Evidence",
    "MetricFacts",
    "NotFinite",
    "Outputs",
    "Population",
    "Relearned",
    "Shadows",
    "anamnesis_index",
    "classification",
    "entropies",
    "evaluate",
    "forgetting_quality",
    "gap",
    "klom",
    "loss_threshold",
    "membership",
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
    "ulira",
]
