"""Cross-entropy, margin, entropy and modified entropy of each image, in nats and float64.

All take logits (N, C) and are exact where a probability rounds to 0 or 1. Log-probabilities are valid logits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = math.log(1e-30)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image.

        -log p_y    p = softmax(logits)

    logits (N, C), labels (N,) -> (N,) nats, float64. Infinite where the true class has probability exactly 0.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of the true class for each image.

        z_y - log sum_(j != y) exp z_j = log(p_y / (1 - p_y))    p = softmax(z)

    logits (N, C), labels (N,) -> (N,) nats, float64. Infinite where the true class has probability exactly 0
    or 1.
    """
    z, true = logits.double(), labels.unsqueeze(1)
    return z.gather(1, true).squeeze(1) - z.scatter(1, true, -math.inf).logsumexp(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each prediction.

        -sum_j p_j log p_j    0 log 0 = 0

    logits (N, C) -> (N,) nats in [0, log C], float64.
    """
    return torch.special.entr(logits.double().softmax(dim=1)).sum(dim=1)


def modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the modified entropy: 0 for a sure and right prediction, large for a sure and wrong one.

        -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)

    logits (N, C), labels (N,) -> (N,) nats >= 0, float64. Each image's value depends on that image alone.
    Source: Song and Mittal 2021, arXiv:2003.10595. As in their code, logarithms are at least log 1e-30, which
    keeps the value finite at p = 0 and p = 1. Here log(1 - p) of the likeliest class is the logsumexp of the
    other logits, which loses no digits. Public unlearning code mixes the labels of a batch, and clamps the
    wrong logarithm.
    """
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    likeliest = log_p.argmax(dim=1, keepdim=True)
    log_rest = log_p.scatter(1, likeliest, -math.inf).logsumexp(dim=1, keepdim=True)
    log_not_p = torch.log1p(-p).scatter(1, likeliest, log_rest)
    true = labels.unsqueeze(1)
    of_true = log_not_p.gather(1, true).exp() * log_p.gather(1, true).clamp(min=FLOOR)
    of_others = (p * log_not_p.clamp(min=FLOOR)).scatter(1, true, 0.0).sum(dim=1)
    return -of_true.squeeze(1) - of_others
