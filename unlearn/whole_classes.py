"""The check of methods that forget whole classes and refuse a part of one."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lethe.unlearn.impl import ForgetData


def only_whole_classes(method: str) -> Callable[[nn.Module, ForgetData], None]:
    """Return a check for `resolve`: it raises ValueError for a request that is not whole classes."""

    def check_whole(model: nn.Module, data: ForgetData) -> None:
        partly = sorted(set(data.forget.classes) - set(data.forget_classes))
        if partly:
            raise ValueError(
                f"{method}: expected a forget request for whole classes, got one that takes a part of class "
                f"{partly[0]}. Ask for all of it, or choose another method"
            )

    return check_whole
