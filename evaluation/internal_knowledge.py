"""Metrics of the knowledge inside a model, behind its predictions: a linear probe and relearning."""

from __future__ import annotations

from torch import Tensor

from lethe.evaluation.impl import register
from lethe.evaluation.model_outputs import ModelOutputs
from lethe.evaluation.probe import penultimate_features, probe_score
from lethe.evaluation.relearning import Relearned, anamnesis_index, relearn_steps

PROBE = "Alain and Bengio 2016, arXiv:1610.01644 (linear probes)"
RELEARNING = "Chundawat et al. 2022, arXiv:2201.05629"


@register("probe_score", unit="percent", better="near the ideal's", source=PROBE, costly=True)
def score_of_probe(model: ModelOutputs) -> float:
    """Percent of held-out forget images whose class a linear probe finds in the penultimate features.

        100 |{x in half of forget : argmax_c (V h(x) + a)_c = y}| / |half of forget|
        V, a trained on retain and the other half of forget

    The probe is a multinomial logistic regression (C=1) on the standardised inputs of the model's last linear
    layer.

    Trap: 0 is not the aim. A model that never saw a class still separates it to a degree. Compare with the
    ideal, as probe_gap does.

    Raises ValueError for fewer than 2 forget images, or a model whose last linear layer does not see one
    vector an image.
    """
    forget, retain = _features(model)
    return probe_score(forget, model.forget.labels, retain, model.retain.labels, seed=model.seed)


@register("probe_gap", unit="points", better="near 0", source=PROBE, costly=True)
def probe_gap(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Signed difference of the probe scores of the model and of the ideal model.

        probe_score(model) - probe_score(ideal)

    Positive where the probe finds the class more often than in the ideal model.

    Raises ValueError where probe_score does.
    """
    return model.metric("probe_score") - ideal.metric("probe_score")


@register("relearn_steps", unit="steps", better="near the ideal's", source=RELEARNING, costly=True)
def steps_to_relearn(model: ModelOutputs, initial: ModelOutputs) -> float:
    """Optimiser steps on the forget set until its score is 95 % of the initial model's.

        min { t : forget_score(theta_t) >= 0.95 forget_score(initial) }
        theta_{t+1} = AdamW(theta_t, grad CE(batch t of forget))

    0 if the score is already that high. AdamW with learning rate 1e-3, no weight decay, batches of 128, at
    most 1000 steps; the score is taken on at most 1000 forget images.

    Trap: 1000 may mean that the score was not reached. See relearn_censored.

    Trap: predicting one class for every image can be learned in a few steps. Read anamnesis_index, the ratio
    to the ideal's steps.

    Raises ValueError where the initial model's forget_score is 0, or relearning diverges.
    """
    return float(_relearned(model, initial).steps)


@register("relearn_censored", unit="fraction", better="near the ideal's", source=RELEARNING, costly=True)
def relearning_censored(model: ModelOutputs, initial: ModelOutputs) -> float:
    """1 if relearning stopped at its cap of 1000 steps, so that relearn_steps is a lower bound; else 0.

        1[forget_score(theta_1000) < 0.95 forget_score(initial)]

    Raises ValueError where relearn_steps does.
    """
    return float(_relearned(model, initial).censored)


@register("anamnesis_index", unit="ratio", better="near 1", source=RELEARNING, costly=True)
def index_of_anamnesis(model: ModelOutputs, ideal: ModelOutputs, initial: ModelOutputs) -> float:
    """Ratio of the model's relearning steps to the ideal's.

        (relearn_steps(model) + .01) / (relearn_steps(ideal) + .01)

    Below 1 the model relearns faster than the ideal. The .01, absent in the source, keeps the ratio finite
    for an ideal model that needs no step.

    Trap: where relearn_censored is 1 it is a bound: a lower one if the model's steps were capped, an upper
    one if the ideal's were.

    Raises ValueError where relearn_steps does.
    """
    return anamnesis_index(_relearned(model, initial).steps, _relearned(ideal, initial).steps)


def _features(model: ModelOutputs) -> tuple[Tensor, Tensor]:
    """Return the features of forget and retain: from the forward pass, else computed now."""
    if model.forget.features is not None and model.retain.features is not None:
        return model.forget.features, model.retain.features
    subject = model.model_itself
    forget, retain = (
        penultimate_features(subject.model, images, device=subject.device)
        for images in (subject.forget, subject.retain)
    )
    return forget, retain


def _relearned(model: ModelOutputs, initial: ModelOutputs) -> Relearned:
    """Relearn once per model, for all metrics that need it."""
    subject, known = model.model_itself, initial.metric("forget_score")
    return model.once(
        f"relearned to {known}",
        lambda: relearn_steps(subject.model, subject.forget, known, seed=model.seed, device=subject.device),
    )
