"""Fisher forgetting: noise where the retain set does not pin the weights down."""

from __future__ import annotations

import torch
from torch import nn

from unlearn.blocks import classifier_of
from unlearn.fisher_diagonal import fisher_diagonal
from unlearn.impl import ForgetData, Unlearned, copy_of, register
from unlearn.settings import Positive

GREATEST = 1e-3  # standard deviation
IN_CLASSIFIER = 10


def check_classifier(model: nn.Module, data: ForgetData) -> None:
    """ValueError for a model that does not end in a linear classifier."""
    classifier_of(model, data)


@register(
    "fisher",
    source="Golatkar et al. 2020, arXiv:1911.04933; as in Jia et al. 2023, arXiv:2304.04934",
    resolve=(check_classifier,),
    augments=(),
    source_augments="crop and flip in every loader",
)
def fisher(model: nn.Module, data: ForgetData, *, fisher_alpha: Positive = 1e-10) -> Unlearned:
    """Add normal noise to every weight, the less the more the retain set determines it.

        theta <- theta + s e    e ~ N(0, 1)    s = min(sqrt(fisher_alpha / F), 1e-3), ten times that in the classifier
        F = mean over retain of (d log p(y | x) / d theta)^2    eval mode, true labels, image by image

    It is the variance s^2 that goes with 1 / F. The classifier is the linear layer that gives the logits, its
    bias included. `facts` says for which percentage of the weights the bound decided: at 100 the noise knows
    nothing of the data. Noise of at most 1e-3 (1e-2 in the classifier) changes hardly a prediction of an
    ordinary network, whatever alpha is: by itself it does not forget.

    Flags:
        fisher_alpha: variance of the noise where F is 1

    Raises ValueError for an alpha that is not positive, or a model without a linear classifier.

    Departures: the published code finds the classifier by a last dimension of 10, which other layers may have
    and the classifier's weight has not; here it is found by its place. No 1e-8 is added to each derivative.
    The published default alpha, .2, puts every weight at the bound, where 1e-10 leaves about half of them
    below.
    """
    student = copy_of(model)
    classifier, noise = classifier_of(student, data), data.generator("fisher")
    information = fisher_diagonal(
        student, data.retain, data.device, labels="true", progress=data.progress, label="fisher"
    )
    bounded = 0
    with torch.no_grad():
        for name, weight in student.named_parameters():
            deviation = (fisher_alpha / information[name]).sqrt()
            bounded += int((deviation >= GREATEST).sum())
            scale = deviation.clamp(max=GREATEST) * (
                IN_CLASSIFIER if name.startswith(f"{classifier}.") else 1
            )
            weight.add_(
                scale * torch.randn(weight.shape, generator=noise, dtype=weight.dtype).to(weight.device)
            )
    return Unlearned(
        student,
        facts={"noise_at_bound_percent": 100 * bounded / sum(p.numel() for p in student.parameters())},
    )
