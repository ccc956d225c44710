"""The initial model, unchanged: the baseline of every method."""

from __future__ import annotations

from torch import nn

from lethe.unlearn.impl import ForgetData, copy_of, register


@register("default", "raw", "do_nothing", "original", leaves_weights=True, needs=(), augments=())
def default(model: nn.Module, data: ForgetData) -> nn.Module:
    """Return the initial model as it is.

        theta <- theta_0

    The baseline of every method.
    """
    return copy_of(model)
