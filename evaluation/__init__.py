"""Numbers about a model: what it still knows of the forget set, and what forgetting cost.

    values, reasons = evaluate(model=Evidence(...), ideal=Evidence(...))

One forward pass per model and image set makes an Evidence; every metric reads that. What is left behind the logits is
asked of the model itself: probe_score of its features, relearn_steps of a copy that learns the forget set again.
`chosen` says which metrics "all", "default" and names are.
"""

from evaluation import (
    classification,
    entropies,
    gap,
    loss_threshold,
    membership,
    prediction_distance,
    probe,
    relearning,
    seconds,
    weights,
    what_is_left,
)
from evaluation.choice import ALL, DEFAULT, chosen
from evaluation.evaluate import evaluate
from evaluation.evidence import Evidence, NotFinite, Outputs, Subject, Times, outputs_of
from evaluation.impl import METRICS, VERSION, MetricFacts, needs_of, register
from evaluation.probe import last_linear_layer, penultimate_features, probe_score
from evaluation.relearning import Relearned, anamnesis_index, relearn_steps

__all__ = [
    "ALL",
    "DEFAULT",
    "METRICS",
    "VERSION",
    "Evidence",
    "MetricFacts",
    "NotFinite",
    "Outputs",
    "Relearned",
    "Subject",
    "Times",
    "anamnesis_index",
    "chosen",
    "classification",
    "entropies",
    "evaluate",
    "gap",
    "last_linear_layer",
    "loss_threshold",
    "membership",
    "needs_of",
    "outputs_of",
    "penultimate_features",
    "prediction_distance",
    "probe",
    "probe_score",
    "register",
    "relearn_steps",
    "relearning",
    "seconds",
    "weights",
    "what_is_left",
]
