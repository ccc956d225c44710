"""Fisher forgetting by the model's own labels, with one variance per row of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.fisher import check_classifier, normal_like
from lethe.unlearn.fisher_diagonal import fisher_diagonal
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.passes import check_finite
from lethe.unlearn.settings import Positive

LARGEST_INVERSE, LARGEST_IN_CLASSIFIER = 1e3, 1e2  # of 1 / F
CLASSIFIER_FACTOR = 10
FORGOTTEN_VARIANCE = 1e-4


@register(
    "fisher_new",
    source="Golatkar et al. 2020, arXiv:1911.04933; as in Jia et al. 2023, arXiv:2304.04934",
    resolve=(check_classifier,),
    augments=(),
    source_augments="crop and flip in every loader",
)
def fisher_new(model: nn.Module, data: ForgetData, *, fisher_alpha: Positive = 1e-6) -> Unlearned:
    """Add normal noise of one variance per output to every weight, and reset the rows of forgotten classes.

        theta <- theta + sqrt(v) e                   e ~ N(0, 1)
        v = fisher_alpha mean_j min(1 / F_j, 1e3)    j: the inputs, dim 1; in the classifier 1e2, not 1e3
        v <- 10 v                                    in the classifier and in 1-d tensors
        theta <- sqrt(1e-4) e                        the classifier's row of a class that is forgotten whole
        F = mean over retain of sum_y p(y | x) (d log p(y | x) / d theta)^2    eval mode, exact

    The variance is one per output and, in a convolution, place of the kernel. The classifier is the linear
    layer that computes the logits; a row has its bias too.

    Flags:
        fisher_alpha: variance of the noise where F is 1

    Raises ValueError for a model without a linear classifier. It costs a backward pass per image and class.

    Departures: the published code's F squares the mean derivative of 32 images times their mean p(y), which
    is not Fisher's; its x 10 also hits the variance of the forgotten row; its default alpha, .2, destroys the
    model.
    """
    student = copy_of(model)
    classifier, noise = classifier_of(student, data), data.generator("fisher_new")
    information = fisher_diagonal(
        student, data.retain, data.device, labels="model", progress=data.progress, label="fisher_new"
    )
    with torch.no_grad():
        for name, weight in student.named_parameters():
            in_classifier = name.startswith(f"{classifier}.")
            spread = variance(information[name], fisher_alpha, in_classifier)
            if in_classifier and data.forget_classes:
                rows = list(data.forget_classes)
                weight[rows], spread[rows] = 0.0, FORGOTTEN_VARIANCE
            weight.add_(spread.sqrt() * normal_like(weight, noise))
    check_finite(student, {}, "fisher_new diverged", rate="fisher_alpha")
    return Unlearned(student)


def variance(information: Tensor, fisher_alpha: float, in_classifier: bool) -> Tensor:
    """Return v of one parameter tensor, in its shape, from the diagonal of its Fisher information."""
    largest = LARGEST_IN_CLASSIFIER if in_classifier else LARGEST_INVERSE
    v = fisher_alpha * (1 / information).clamp(max=largest)
    if v.ndim > 1:
        v = v.mean(1, keepdim=True).expand_as(information).clone()
    return v * CLASSIFIER_FACTOR if in_classifier or v.ndim <= 1 else v
