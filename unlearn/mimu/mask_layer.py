"""--mask_layer auto: a mask of every linear layer that can be masked, of which the best is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lethe.flag_error import FlagError
from lethe.models import Mask, MaskedLayer, find_layer, linear_layers, switched_off
from lethe.system.timed import timed
from lethe.unlearn.amount import AUTO
from lethe.unlearn.impl import ForgetData, Unlearned, check_model, masked_layer, own_layer
from lethe.unlearn.mimu.kappa import ALIKE, Choice, Rung, judged
from lethe.unlearn.mimu.ranking import keep_largest_out

CountsOf = Callable[[MaskedLayer], dict[str, int]]


@dataclass(frozen=True)
class Answer:
    """A method's mask of one layer: the kappa largest of scores (N,) are switched off.

    choice: what images say of it, if they were asked. history, facts: of the method's result.
    """

    layer: MaskedLayer
    scores: Tensor
    kappa: int
    choice: Choice | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def resolved_counts(
    model: nn.Module, data: ForgetData, mask_layer: str | None, counts: CountsOf
) -> dict[str, int]:
    """Return the amounts as numbers of weights of the masked layer; none if the layer is yet to be chosen.

    counts: of a layer; raises ValueError for an amount that the layer does not have. Raises ValueError for a
    layer that can't be masked, and if none can.
    """
    if mask_layer == AUTO:
        candidates(model, data, counts)
        return {}
    return counts(masked_layer(model, data, mask_layer))


def candidates(model: nn.Module, data: ForgetData, counts: CountsOf) -> list[MaskedLayer]:
    """Return the linear layers that can be masked and that have the amounts; the architecture's choice first.

    Raises ValueError if there is none.
    """
    check_model(model, data)
    found, refused = [], []
    for name in _names(model, data):
        try:
            layer = masked_layer(model, data, name or "0")  # a model that is the layer has no name for it
            counts(layer)
            found.append(layer)
        except FlagError as error:
            refused.append(f"{name} ({error})")
    if not found:
        reasons = "; ".join(refused) or "it has no linear layer"
        raise FlagError(
            "mask_layer",
            f"expected a model with a linear layer that can be masked, got one without: {reasons}. Choose "
            "other amounts, or another --arch",
        )
    return found


def _names(model: nn.Module, data: ForgetData) -> list[str]:
    """Return the linear layers by name, the architecture's choice first, then in forward order."""
    names = list(linear_layers(model, data.some_images))
    try:
        own = find_layer(model, own_layer(model), data.some_images)
    except FlagError:  # it can't be masked, but another layer may
        return names
    return [own, *(name for name in names if name != own)]


def masked(
    student: nn.Module,
    data: ForgetData,
    mask_layer: str | None,
    counts: CountsOf,
    answer: Callable[[MaskedLayer], Answer],
    stages: dict[str, float],
) -> Unlearned:
    """Mask a layer of the student, in place, by `answer(layer)`.

    With `--mask_layer auto` every candidate is answered for, and the best answer is taken (`best_of`); the
    facts have what images say of the masks of all layers.
    """
    choice: Choice | None
    if mask_layer == AUTO:
        answers = [answer(layer) for layer in candidates(student, data, counts)]
        with timed(stages, "kappa"):
            choices = [it.choice or judged(student, it.layer, data, it.scores, it.kappa) for it in answers]
        at = best_of([choice.best for choice in choices])
        best, choice = answers[at], choices[at]
        facts = {**best.facts, "layer_scores": _in_words(answers, choices)}
    else:
        best = answer(masked_layer(student, data, mask_layer))
        choice, facts = best.choice, best.facts
    mask = Mask(best.layer.name, keep_largest_out(best.scores, best.kappa, best.layer.shape))
    switched_off(student, mask)
    if choice is None:
        return Unlearned(student, mask, best.history, facts, stages, "step")
    return Unlearned(student, mask, best.history, facts | choice.facts, stages, "step", **choice.told)


def best_of(rungs: Sequence[Rung]) -> int:
    """Return the place of the best mask, given one of each layer, the architecture's choice first.

    Masks that meet their targets come before others, then the least cost decides (`Rung.cost`). Costs that
    differ by less than ALIKE are alike, and the first of such masks is taken.
    """
    met = [rung.meets_targets for rung in rungs]
    allowed = [at for at in range(len(rungs)) if met[at] or not any(met)]
    least = min(rungs[at].cost for at in allowed)
    return next(at for at in allowed if rungs[at].cost <= least + ALIKE)


def _in_words(answers: Sequence[Answer], choices: Sequence[Choice]) -> str:
    said = []
    for answer, choice in zip(answers, choices, strict=True):
        best, layer = choice.best, answer.layer
        said.append(
            f"{layer.name}: {best.kappa} of {layer.size} weights, forget score {best.forget_score:.2f} %, "
            f"retain drop {best.retain_drop:.2f}"
        )
    return "; ".join(said)
