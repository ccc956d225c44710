"""Membership inference with a threshold on the loss, between forget and test images."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.evaluation.impl import register
from lethe.evaluation.model_outputs import ModelOutputs

SOURCE = "Yeom et al. 2018, arXiv:1709.01604"


def auc(forget: Tensor, test: Tensor) -> float:
    """Return the area under the ROC curve of "a forget image has a smaller loss than a test image".

        P(l_forget < l_test) + P(l_forget = l_test) / 2    over all pairs

    Losses (n,) and (m,) -> [0, 1]: above 0.5 forget looks like training images, below 0.5 its loss is larger
    than that of unseen images. O((n + m) log m). Raises ValueError if either is empty.
    """
    if not len(forget) or not len(test):
        raise ValueError(
            f"expected at least 1 forget and 1 test image, got {len(forget)} and {len(test)}. Evaluate on "
            "larger sets."
        )
    ordered = test.double().sort().values
    losses = forget.double()
    larger = len(test) - torch.searchsorted(ordered, losses, right=True).double()
    at_least = len(test) - torch.searchsorted(ordered, losses).double()
    return ((larger + at_least) / (2 * len(test))).mean().item()


def tpr_at_1_fpr(forget: Tensor, test: Tensor) -> float:
    """Return the share of forget called member at the loss threshold that calls 1 % of test member.

        mean(l_forget < t)    t: the largest with mean(l_test < t) <= 0.01

    Losses (n,) and (m,) -> [0, 1]; 0.01 for equal distributions. Needs at least 100 test images and 1 forget
    image, else raises ValueError. Source: Carlini et al. 2022, arXiv:2112.03570.
    """
    if not len(forget) or len(test) < 100:
        raise ValueError(
            f"expected at least 1 forget and 100 test images, got {len(forget)} and {len(test)}. Evaluate on "
            "larger sets."
        )
    threshold = test.double().sort().values[len(test) // 100]
    return (forget.double() < threshold).double().mean().item()


@register(
    "mia_auc",
    unit="fraction",
    better="near 0.5",
    source=SOURCE,
    better_of_classes="near the ideal's",
    groups=("headline",),
)
def mia_auc(model: ModelOutputs) -> float:
    """AUC of a loss threshold between forget (member) and all test images; 0.5 = indistinguishable.

        P(l_forget < l_test) + P(l_forget = l_test) / 2    l = -log p_y, over all pairs of the two sets

    Above 0.5 forget looks like training images, below 0.5 its loss is larger than that of unseen images.

    Trap: far below 0.5 is no success: an unusually large loss gives the forget images away as well. Where a
    whole class was forgotten, the ideal model is far below 0.5 too.

    Raises ValueError for no forget or no test image.
    """
    return auc(model.forget.losses, model.test.losses)


@register(
    "mia_tpr_at_1_fpr", unit="fraction", better="near 0.01", source="Carlini et al. 2022, arXiv:2112.03570"
)
def mia_tpr_at_1_fpr(model: ModelOutputs) -> float:
    """Share of forget called member at the loss threshold that calls at most 1 % of test member.

        mean over forget of 1[l < t]    t: the largest with mean over test of 1[l < t] <= 0.01,  l = -log p_y

    0.01 for equal distributions. Needs at least 100 test images and 1 forget image, else raises ValueError.
    """
    return tpr_at_1_fpr(model.forget.losses, model.test.losses)
