"""DualOptim: an optimiser of its own for the forget pass, with its own state.

Zhong, Luo, Liu 2025, arXiv:2504.15827.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from lethe.signature import Help
from lethe.training.optimizers import AdamW
from lethe.unlearn.settings import LearningRate

DECAY = 0.05
# Flags that methods did not always have: at None they are in no config_hash, as if they were not there.
LATER_FLAGS = frozenset({"dual_optimizer"})

DualOptimizer = Annotated[
    LearningRate,
    Help(
        "learning rate of an AdamW for the forget images alone (DualOptim, arXiv:2504.15827); none is one "
        "optimiser for both"
    ),
]


def forget_optimizer(student: nn.Module, rate: float | None) -> torch.optim.Optimizer | None:
    """Return AdamW (betas .9 and .999, weight decay .05) over all weights, for forget; None without a rate.

    Forgetting needs adaptive steps, since its gradients change by orders of magnitude; and its momentum must
    not leak into the steps on retain. Both optimisers decay all weights.
    """
    if rate is None:
        return None
    return AdamW(student.parameters(), lr=rate, weight_decay=DECAY)
