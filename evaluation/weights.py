"""Distances of a model's weights from the initial model's."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lethe.evaluation.impl import register
from lethe.evaluation.model_outputs import ModelOutputs
from lethe.models import uncompiled


def weight_distance(model: nn.Module, initial: nn.Module) -> float:
    """Return the Euclidean norm of the change of all parameters.

        sqrt( sum_p |theta_p - theta_0p|^2 )    p over the parameters (no buffers), summed in float64

    Raises ValueError if the two differ in names or shapes of parameters.
    """
    return math.sqrt(
        sum(float((one.double() - other.double()).square().sum()) for one, other in _pairs(model, initial))
    )


def changed_share(model: nn.Module, initial: nn.Module) -> float:
    """Return the share of changed parameter elements, in [0, 1]. Raises the ValueError of weight_distance."""
    pairs = _pairs(model, initial)
    return sum(int((one != other).sum()) for one, other in pairs) / sum(one.numel() for one, _ in pairs)


def _pairs(model: nn.Module, initial: nn.Module) -> list[tuple[Tensor, Tensor]]:
    ours, theirs = (
        {name: p.detach().cpu() for name, p in uncompiled(one).named_parameters()} for one in (model, initial)
    )
    other = sorted(name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name))
    if other or not ours:
        first = f"{', '.join(other[:3])}{', ...' if len(other) > 3 else ''}"
        what = f"other shapes or none of {first}" if other else "a model without parameters"
        raise ValueError(
            f"expected a model with the initial model's parameters, got {what}. Compare models of one "
            "architecture"
        )
    return [(ours[name], theirs[name]) for name in ours]


def _shape(parameters: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(parameters[name].shape) if name in parameters else None


@register("weight_distance", unit="distance", better="near the ideal's")
def distance_of_weights(model: ModelOutputs, initial: ModelOutputs) -> float:
    """Euclidean distance of all parameters to the initial model's.

        sqrt( sum_p |theta_p - theta_0p|^2 )    p over the parameters; running means of batch norm are none

    0 for unchanged weights.

    Trap: it depends on the architecture and on the training, and does not measure forgetting. An ideal model
    trained from the same initial weights is far away.

    Raises ValueError if the two differ in names or shapes of parameters.
    """
    return weight_distance(model.model_itself.model, initial.model_itself.model)


@register("weights_changed", unit="fraction", better="near the ideal's")
def share_of_weights_changed(model: ModelOutputs, initial: ModelOutputs) -> float:
    """Share of parameter elements that differ from the initial model's.

        |{i : theta_i != theta_0i}| / |theta|

    0 for unchanged weights, the share of the mask for a method that switches weights off.

    Trap: a weight that was 0 and is switched off does not count.

    Raises ValueError if the two differ in names or shapes of parameters.
    """
    return changed_share(model.model_itself.model, initial.model_itself.model)
