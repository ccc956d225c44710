"""Fisher forgetting: noise on the weights that the retain set does not determine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.unlearn.blocks import classifier_of
from lethe.unlearn.fisher_diagonal import fisher_diagonal
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.settings import Positive

LARGEST_DEVIATION = 1e-3
CLASSIFIER_FACTOR = 10


def check_classifier(model: nn.Module, data: ForgetData) -> None:
    """Raise ValueError for a model that does not end in a linear classifier."""
    classifier_of(model, data)


@register(
    "fisher",
    source="Golatkar et al. 2020, arXiv:1911.04933; as in Jia et al. 2023, arXiv:2304.04934",
    resolve=(check_classifier,),
    needs=("retain", "labels"),
    augments=(),
    source_augments="crop and flip in every loader",
)
def fisher(model: nn.Module, data: ForgetData, *, fisher_alpha: Positive = 1e-10) -> Unlearned:
    """Add normal noise to every weight, the less the more the retain set determines it.

        theta <- theta + s e    e ~ N(0, 1)    s = min(sqrt(fisher_alpha / F), 1e-3), x 10 in the classifier
        F = mean over retain of (d log p(y | x) / d theta)^2    eval mode, true labels, image by image

    The variance s^2 is proportional to 1 / F. The classifier is the linear layer that computes the logits,
    with its bias. `facts` has the percentage of the weights at the bound: at 100 the noise does not depend on
    the data. Noise of at most 1e-3 (1e-2 in the classifier) changes hardly a prediction of an ordinary
    network, whatever alpha is: by itself it does not forget.

    Flags:
        fisher_alpha: variance of the noise where F is 1

    Raises ValueError for a model without a linear classifier.

    Departures: the published code finds the classifier by a last dimension of 10, which other layers may have
    and the classifier's weight has not; here its place decides. No 1e-8 is added to each derivative.
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
            bounded += int((deviation >= LARGEST_DEVIATION).sum())
            scale = deviation.clamp(max=LARGEST_DEVIATION)
            if name.startswith(f"{classifier}."):
                scale *= CLASSIFIER_FACTOR
            weight.add_(scale * normal_like(weight, noise))
    total = sum(p.numel() for p in student.parameters())
    return Unlearned(student, facts={"noise_at_bound_percent": 100 * bounded / total})


def normal_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of a weight's shape, type and device."""
    return torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
