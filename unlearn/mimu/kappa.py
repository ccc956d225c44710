"""--kappa auto: the mask that forgets at the least cost, judged on images, and refined where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lethe.models import MaskedLayer
from lethe.system.timed import timed
from lethe.unlearn.amount import AUTO, count_of
from lethe.unlearn.impl import ForgetData, OverKappa
from lethe.unlearn.mimu.inputs import LayerInputs, RequestInputs, inputs_of_request
from lethe.unlearn.mimu.objective import masked_logits
from lethe.unlearn.mimu.refine import RefineSettings, refined_on
from lethe.unlearn.mimu.topk import hard_topk

LADDER = (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)  # shares of the layer's weights
FORGET_TARGET = 0.2  # percent of the forgotten class that may still be predicted right
DROP_TARGET = 0.2  # points that the other classes may lose
TOLERATED_EXCESS, TOLERATED_DROP = 0.8, 0.5  # a mask that is worse than these makes a warning
POINTS_OF_DROP = 2.0  # a point that the others lose costs as much as this many percent not forgotten
ALIKE = 0.1  # masks whose costs differ by less are alike, and the smaller one is chosen
MASKS_AT_ONCE = 4
MOST_JUDGED = 4_096  # retained training images
MOST_ROUNDS, STEPS_A_ROUND = 3, 20  # of refinement
FEWEST_REFINED = 0.05
TRAINED_FOR = 0.1  # share of the layer's weights that the network learns to switch off

BLIND = (
    "no validation images of every class of the single images to forget, so that nothing tells whether they "
    "are forgotten"
)

Refine = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Rung:
    """A mask, judged: kappa weights with the largest scores (N,) are switched off.

    forget_score: percent of the forgotten images that are still predicted right. excess: points by which it
    is above its target. retain_score, retain_drop: of the others, and the points that it fell by. Each is the
    worse value of training and validation images; where a part of a class is forgotten, the rest of its class
    is judged by itself too.
    """

    kappa: int
    forget_score: float
    excess: float
    retain_score: float
    retain_drop: float
    scores: Tensor

    @property
    def point(self) -> tuple[int, float, float]:
        return self.kappa, self.forget_score, self.retain_score

    @property
    def cost(self) -> float:
        return self.excess + POINTS_OF_DROP * self.retain_drop

    @property
    def meets_targets(self) -> bool:
        return self.excess <= 0 and self.retain_drop <= DROP_TARGET


@dataclass(frozen=True)
class Choice:
    """The chosen mask, those of the ladder, what judges them, and the rounds of refinement that it took."""

    best: Rung
    rungs: Sequence[Rung]
    judge: Judge
    rounds: int = 0

    def with_scores(self, scores: Tensor) -> Choice:
        """Return the choice of as many weights, but by other scores."""
        (best,) = self.judge.rungs(scores, [self.best.kappa])
        return replace(self, best=best)

    @property
    def told(self) -> dict[str, Any]:
        """What the method's result says of the choice."""
        return {"over_kappa": self.over_kappa, "misses": self.misses}

    @property
    def over_kappa(self) -> OverKappa | None:
        """The masks of all sizes; None if only one was judged."""
        if not self.rungs:
            return None
        return OverKappa([rung.point for rung in self.rungs], self.judge.initial, self.best.point)

    @property
    def facts(self) -> dict[str, int | float | str]:
        """What the chosen mask does to training and validation images, the worse of both."""
        return {
            "judged_forget_score": self.best.forget_score,
            "judged_retain_drop": self.best.retain_drop,
            "refine_rounds": self.rounds,
        }

    @property
    def misses(self) -> str:
        """What the mask misses by more than is tolerated; "" if nothing."""
        found, missed = self.best, []
        if found.excess > TOLERATED_EXCESS:
            missed.append(
                f"{found.forget_score:.2f} % of the images to forget are still predicted right, "
                f"{found.excess:.2f} points above the target"
            )
        if found.retain_drop > TOLERATED_DROP:
            missed.append(f"the other images lost {found.retain_drop:.2f} points")
        said = [BLIND] if self.judge.is_blind else []
        if missed:
            both = ", and ".join(missed)
            said.insert(0, f"missed its targets on training or validation images: {both}")
        return "; ".join(said)


def count_or_auto(kappa: int | float | str, size: int) -> int | None:
    """Return the number of weights that kappa means, None for auto. Raises ValueError as `count_of`."""
    return None if kappa == AUTO else count_of(kappa, size, "kappa", also=f", or {AUTO}")


class Judge:
    """Judge masks of a request by predictions on training and on validation images."""

    def __init__(self, layer: MaskedLayer, inputs: RequestInputs, forget_classes: tuple[int, ...]) -> None:
        """is_blind: single images are to be forgotten, and there is nothing to compare them with."""
        self.layer = layer
        unseen = inputs.unseen
        self.gone = [part for part in (inputs.gone, unseen.of_classes(forget_classes)) if len(part)]
        retain, unseen_others = inputs.retain.some(MOST_JUDGED), unseen.without_classes(forget_classes)
        rest = inputs.rest_of_classes.some(MOST_JUDGED)
        self.others = [part for part in (retain, unseen_others, rest) if len(part)]
        self.images = [inputs.images] if len(inputs.images) else []
        nothing = torch.ones(1, *layer.shape, device=layer.weight.device)
        self.before = [self._scores(part, nothing)[0] for part in self.others]
        forget_before = [self._scores(part, nothing)[0] for part in self.gone + self.images]
        self.initial = (max(forget_before), min(self.before))
        alike = inputs.unseen_alike
        self.is_blind = bool(self.images) and not len(alike)
        # Without validation images it is their own score before, so that nothing has to be done.
        like = alike if len(alike) else inputs.images
        self.image_target = self._scores(like, nothing)[0] if len(like) else 0.0

    def rungs(self, scores: Tensor, kappas: Iterable[int]) -> list[Rung]:
        """Return the masks that switch off the kappa largest scores, judged, for each kappa."""
        found: list[Rung] = []
        wanted = list(kappas)
        for start in range(0, len(wanted), MASKS_AT_ONCE):
            found += self._judged(scores, wanted[start : start + MASKS_AT_ONCE])
        return found

    def _judged(self, scores: Tensor, kappas: Sequence[int]) -> list[Rung]:
        off = torch.stack([hard_topk(scores, kappa) for kappa in kappas])
        off = off * (scores > -torch.inf)  # a weight that must stay
        # Binary scores are ranks in float64; the inputs of a half-precision layer are kept in float32.
        of_inputs = torch.promote_types(self.layer.weight.dtype, torch.float32)
        masks = (1 - off).view(-1, *self.layer.shape).to(of_inputs)
        gone = [self._scores(part, masks) for part in self.gone]
        images = [self._scores(part, masks) for part in self.images]
        after = [self._scores(part, masks) for part in self.others]
        rungs = []
        for at, kappa in enumerate(kappas):
            excesses = [0.0]
            excesses += [part[at] - FORGET_TARGET for part in gone]
            excesses += [part[at] - self.image_target for part in images]
            forget = max(part[at] for part in gone + images)
            retain = min(part[at] for part in after)
            drop = max(was - part[at] for was, part in zip(self.before, after, strict=True))
            rungs.append(Rung(kappa, forget, max(excesses), retain, drop, scores))
        return rungs

    def _scores(self, part: LayerInputs, masks: Tensor) -> list[float]:
        """Return the percentage of images that are predicted right under each mask."""
        with torch.no_grad():
            logits = masked_logits(self.layer, masks, part.h, part.images)
        right = logits.argmax(-1) == part.labels
        shares: list[float] = (100 * right.double().mean(-1)).tolist()
        return shares


def ladder(size: int) -> list[int]:
    """Return the numbers of weights to try, ascending, for a layer of `size` weights."""
    return sorted({max(1, round(share * size)) for share in LADDER})


def cheapest(rungs: Sequence[Rung]) -> Rung:
    """Return the smallest mask whose cost is within ALIKE of the least.

    cost = points of the forget score above its target + 2 x points that the others lost
    """
    least = min(rung.cost for rung in rungs)
    return min((rung for rung in rungs if rung.cost <= least + ALIKE), key=lambda rung: rung.kappa)


def climbed(judge: Judge, scores: Tensor) -> Choice:
    """Return the cheapest mask of the ladder."""
    rungs = judge.rungs(scores, ladder(judge.layer.size))
    return Choice(cheapest(rungs), rungs, judge)


def refined_where_needed(choice: Choice, refine: Refine) -> Choice:
    """Refine the scores of the chosen mask, round by round, until it meets its targets.

    A round's mask is chosen if it is cheaper. `refine(scores, kappa, round)` returns better scores for kappa
    weights: as many as the mask has, but at least FEWEST_REFINED of the layer.
    """
    best, scores, judge = choice.best, choice.best.scores, choice.judge
    kappa = max(best.kappa, round(FEWEST_REFINED * judge.layer.size))
    rounds = 0
    while rounds < MOST_ROUNDS and not best.meets_targets:
        scores = refine(scores, kappa, rounds)
        best = cheapest([best, *judge.rungs(scores, [kappa])])
        rounds += 1
    return replace(choice, best=best, rounds=rounds)


def judged(model: nn.Module, layer: MaskedLayer, data: ForgetData, scores: Tensor, kappa: int) -> Choice:
    """Return the mask that switches off the kappa largest scores, judged; there is nothing to choose."""
    judge = Judge(layer, inputs_of_request(model, layer, data), data.forget_classes)
    (best,) = judge.rungs(scores, [kappa])
    return Choice(best, [], judge)


def chosen(
    model: nn.Module,
    layer: MaskedLayer,
    data: ForgetData,
    scores: Tensor,
    stages: dict[str, float],
    settings: RefineSettings | None,
) -> Choice:
    """Return the mask that --kappa auto chooses for these scores; without settings it is never refined.

    Needs no test image. Its seconds are in stages `kappa` and `refinement`.
    """
    with timed(stages, "kappa"):
        inputs = inputs_of_request(model, layer, data)
        choice = climbed(Judge(layer, inputs, data.forget_classes), scores)
    by_kind = inputs.by_kind()
    lacks_unseen = len(by_kind["images"]) and not len(by_kind["unseen"])
    if settings is None or lacks_unseen:
        return choice

    def refine(scores: Tensor, kappa: int, number: int) -> Tensor:
        draws = data.generator("MIMU", "refine", number)
        return refined_on(
            by_kind,
            scores,
            layer,
            kappa,
            settings,
            steps=STEPS_A_ROUND,
            generator=draws,
            progress=data.progress,
        )

    with timed(stages, "refinement"):
        return refined_where_needed(choice, refine)
