"""Numbers about a model: what it still knows of the forget set, and what forgetting cost.

    values, reasons = evaluate(model=Evidence(...), ideal=Evidence(...))

One forward pass per model and image set makes an Evidence; every metric reads that.
"""

from evaluation import classification, entropies, gap, loss_threshold, membership
from evaluation.evaluate import evaluate
from evaluation.evidence import Evidence, Outputs, outputs_of
from evaluation.impl import METRICS, VERSION, MetricFacts, needs_of, register

__all__ = [
    "METRICS",
    "VERSION",
    "Evidence",
    "MetricFacts",
    "Outputs",
    "classification",
    "entropies",
    "evaluate",
    "gap",
    "loss_threshold",
    "membership",
    "needs_of",
    "outputs_of",
    "register",
]
