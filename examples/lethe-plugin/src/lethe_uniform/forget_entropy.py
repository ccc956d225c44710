"""How unsure a model is about what it was to forget."""

from __future__ import annotations

from torch.special import entr

from lethe import ModelOutputs, register_metric


@register_metric("forget_entropy", unit="nats", better="near the ideal's")
def forget_entropy(model: ModelOutputs) -> float:
    """The mean entropy of the predictions on the forget set, from 0 (sure) to log classes (even).

    -mean over forget of sum_j p_j log p_j
    """
    return float(entr(model.forget.probabilities).sum(dim=1).mean())
