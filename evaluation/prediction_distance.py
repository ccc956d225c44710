"""Distances between the predictions of two models on the forget set, by image or by class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lethe.evaluation.classification import mean, percent
from lethe.evaluation.impl import BAD_TEACHING, register
from lethe.evaluation.model_outputs import ModelOutputs, Outputs


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of each pair of distributions.

        (KL(p, m) + KL(q, m)) / 2    m = (p + q) / 2,  KL(p, m) = sum_j p_j log(p_j / m_j),  0 log 0 = 0

    p and q (N, C), rows that sum to 1 -> (N,) nats in [0, ln 2], float64: 0 where p = q, ln 2 where they
    share no class. Raises ValueError for wrong shapes, and for rows that are not probabilities.
    """
    if p.ndim != 2 or p.shape != q.shape:
        raise ValueError(
            f"expected two tensors of probabilities (N, C), got shapes {tuple(p.shape)} and "
            f"{tuple(q.shape)}. Compare predictions on the same images."
        )
    p, q = _checked(p), _checked(q)
    m = (p + q) / 2
    both = sum(torch.special.xlogy(r, r) - torch.special.xlogy(r, m) for r in (p, q))
    return (both.sum(dim=1) / 2).clamp(0, math.log(2))


def _checked(probabilities: Tensor) -> Tensor:
    p = probabilities.double()
    sums = p.sum(dim=1)
    wrong = ~((p >= 0).all(dim=1) & ((sums - 1).abs() < 1e-5))
    if wrong.any():
        raise ValueError(
            f"expected rows of probabilities that are not negative and sum to 1, got {int(wrong.sum())} of "
            f"{len(p)} that are not "
            f"(the first sums to {sums[wrong][0].item():g}). Give softmaxes, not logits."
        )
    return p


def class_means(outputs: Outputs, classes: Tensor) -> Tensor:
    """Return the mean prediction for the images of each class.

        sum_{i : y_i = c} p_i / n_c

    classes (K,) int64 -> (K, C), float64. Raises ValueError for a class without an image.
    """
    members = (outputs.labels == classes.unsqueeze(1)).double()
    counts = members.sum(dim=1, keepdim=True)
    empty = classes[counts.squeeze(1) == 0].tolist()
    if empty:
        raise ValueError(
            f"expected test images of every class in forget, got none of {empty}. Evaluate on a larger test "
            "set."
        )
    return members @ outputs.probabilities / counts


def _on_forget(one: ModelOutputs, other: ModelOutputs) -> tuple[Outputs, Outputs]:
    if len(one.forget) != len(other.forget):
        raise ValueError(
            f"expected the same forget images for both models, got {len(one.forget)} and "
            f"{len(other.forget)}. Evaluate both on the same set."
        )
    return one.forget, other.forget


@register("fidelity", unit="percent", better="higher")
def fidelity(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Percent of forget for which the model and the ideal predict the same class.

        100 |{x in forget : argmax f(x) = argmax f_ideal(x)}| / |forget|

    The first of equal logits is the prediction. 100 is best.

    Trap: published tables call it FID. It is not the Frechet inception distance.
    """
    ours, ideals = _on_forget(model, ideal)
    return percent(ours.logits.argmax(dim=1) == ideals.logits.argmax(dim=1))


@register("js_divergence", unit="nats", better="lower", source=BAD_TEACHING)
def js_divergence(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Mean Jensen-Shannon divergence between the predictions of the model and of the ideal on forget.

        mean over x in forget of (KL(p, m) + KL(q, m)) / 2
        p = softmax f(x),  q = softmax f_ideal(x),  m = (p + q) / 2

    In [0, ln 2], 0 for identical predictions.

    Trap: this is the standard definition, in nats and per image. Public code computes KL(m, p) instead of
    KL(p, m), which is unbounded.
    """
    ours, ideals = _on_forget(model, ideal)
    return mean(jensen_shannon(ours.probabilities, ideals.probabilities))


@register(
    "rf_js_divergence",
    unit="nats",
    better="near the ideal's",
    source="Spartalis et al. 2025, arXiv:2503.18314",
)
def rf_js_divergence(model: ModelOutputs, initial: ModelOutputs) -> float:
    """JS divergence between the model on forget and the initial model on test, class by class.

        mean over classes c in forget of JSD(mean of softmax f(x) over x in forget of c, mean of softmax
        f_0(x) over x in test of c)

    In [0, ln 2]; the initial model's predictions on test images replace the ideal model's on forget, so no
    ideal model is needed. Raises ValueError if test has no image of a class in forget.

    Trap: lower is better, as in the source, where a part of a class was forgotten. For a whole class the
    initial model still predicts its test images and the ideal model does not: the value is near 0 before
    unlearning, and near ln 2 for the ideal model.

    Trap: the source's values are normalised over the whole matrix of classes and are not comparable.
    """
    classes = model.forget.labels.unique()
    return mean(jensen_shannon(class_means(model.forget, classes), class_means(initial.test, classes)))


@register("activation_distance", unit="distance", better="lower", source=BAD_TEACHING)
def activation_distance(model: ModelOutputs, ideal: ModelOutputs) -> float:
    """Mean Euclidean distance between the predictions of the model and of the ideal on forget.

        mean over x in forget of |softmax f(x) - softmax f_ideal(x)|_2

    In [0, sqrt 2], 0 for identical predictions.

    Trap: in spite of its name it compares probabilities, not the activations of a hidden layer.
    """
    ours, ideals = _on_forget(model, ideal)
    return mean((ours.probabilities - ideals.probabilities).norm(dim=1))


@register("zrf", unit="fraction", better="near the ideal's", source=BAD_TEACHING)
def zrf(model: ModelOutputs, incompetent: ModelOutputs) -> float:
    """Zero retrain forgetting: similarity of the predictions on forget to those of an untrained model.

        1 - mean over x in forget of JSD(softmax f(x), softmax f_incompetent(x))

    In nats, so in [1 - ln 2, 1]; 1 for identical predictions. The incompetent teacher has the model's
    architecture, and initial weights of another seed.

    Trap: this is the standard Jensen-Shannon divergence, in nats and per image. Public code computes KL(m, p)
    instead of KL(p, m), which is unbounded: its values are not comparable.

    Trap: 1 is not the aim. A model that never saw the forget set does not predict at random on it. Compare
    with the ideal's.
    """
    ours, untrained = _on_forget(model, incompetent)
    return 1 - mean(jensen_shannon(ours.probabilities, untrained.probabilities))
