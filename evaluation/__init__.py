"""Numbers about a model: what it still knows of the forget set, and what forgetting cost.

    values, reasons = evaluate(model=Evidence(...), ideal=Evidence(...))

One forward pass per model and image set makes an Evidence; every metric reads that. What is left behind the logits is
asked of the model itself: probe_score of its features, relearn_steps of a copy that learns the forget set again.
"""

from evaluation import classification, entropies, gap, loss_threshold, membership, prediction_distance, probe, relearning
from evaluation.evaluate import evaluate
from evaluation.evidence import Evidence, NotFinite, Outputs, outputs_of
from evaluation.impl import METRICS, VERSION, MetricFacts, needs_of, register
from evaluation.probe import penultimate_features, probe_score
from evaluation.relearning import Relearned, anamnesis_index, relearn_steps

__all__ = [
    "METRICS",
    "VERSION",
    "Evidence",
    "MetricFacts",
    "NotFinite",
    "Outputs",
    "Relearned",
    "anamnesis_index",
    "classification",
    "entropies",
    "evaluate",
    "gap",
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
]
