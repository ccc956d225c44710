"""The ideal model, the reference of every method."""

from __future__ import annotations

from torch import nn

from lethe.unlearn.impl import ForgetData, copy_of, register


@register("retrain", "ideal", "exact", needs=("ideal",), augments=())
def retrain(model: nn.Module, data: ForgetData) -> nn.Module:
    """Return the ideal model: the initial model's recipe and seed, trained without the forget set.

        theta <- argmin over theta of mean CE(f_theta(x), y)    (x, y) in retain, from the initial weights on

    On the command line it is the ideal model's checkpoint, or is trained here without one. Raises ValueError
    if the data has no `ideal`, or one of another architecture.
    """
    if data.ideal is None:
        raise ValueError(
            "retrain: expected the ideal model, got none. Give ForgetData an `ideal`, a function that "
            "returns it"
        )
    ideal = copy_of(data.ideal())
    check_architecture(model, ideal, "retrain")
    return ideal


def check_architecture(model: nn.Module, ideal: nn.Module, method: str) -> None:
    """Raise ValueError for an ideal model whose weights differ in names or shapes from the initial one's."""
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (model, ideal)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{method}: expected an ideal model of the initial model's architecture, got another. Train it "
            "by the same recipe"
        )
