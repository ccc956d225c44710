"""Membership inference with a trained classifier: does the forget set look like training images?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lethe.evaluation import kernel_svm, logistic_regression
from lethe.evaluation.entropies import entropy, modified_entropy
from lethe.evaluation.impl import BAD_TEACHING, Undecided, register
from lethe.evaluation.interior_point import NotSolved
from lethe.evaluation.kernel_space import KernelSpace
from lethe.evaluation.model_outputs import Attack, ModelOutputs, Outputs

MINIMUM = 10
COST = 3.0
TIE = 1e-6  # decision values nearer to 0 are ties
TOLERANCE = 0.01  # ten times scikit-learn's: distance of its decision values from an exact solution's
REGRESSION_TOLERANCE = 1e-4  # of scikit-learn's LogisticRegression, which others use for the attack
LARGEST_SPREAD = 25.0  # points between the draws of an attack; beyond it the attack is undecided
SOURCE = "features: Song and Mittal 2021, arXiv:2003.10595; protocol: Jia et al. 2023, arXiv:2304.04934"

Draws = Sequence[tuple[Tensor, Tensor]]  # rows of members and rows of non-members
Classify = Callable[[Tensor, Tensor, Tensor, Draws], "list[Decision]"]


class Decision(NamedTuple):
    """Decision values of the targets, (m,) float64, negative for non-member, and their tolerance."""

    scores: Tensor
    tolerance: float


def non_member_share(members: Tensor, non_members: Tensor, target: Tensor) -> float:
    """Return the percentage of target that an SVC of members against non-members calls non-member.

        SVC(C=3, kernel="rbf", gamma="auto"): features -> member (1) or non-member (0)

    Features (n,) or (n, d), finite; the three sets may differ in n. A tie (all features equal) counts as
    member. Raises ValueError for fewer than 10 members or non-members, no target, or features that are not
    finite.
    """
    return called_non_member(member_scores(members, non_members, target))


def called_non_member(scores: Tensor) -> float:
    """Return the percentage of scores below 0 (non-member)."""
    return 100 * float((scores < 0).double().mean())


def member_scores(members: Tensor, non_members: Tensor, target: Tensor) -> Tensor:
    """Return the scores of `svm_decision`, (m,) float64. Raises ValueError as non_member_share."""
    return svm_decision(members, non_members, target).scores


def svm_decision(members: Tensor, non_members: Tensor, target: Tensor) -> Decision:
    """Return the decision value of each target by the classifier of `non_member_share`.

        f(x) = sum_i a_i s_i exp(-|x - x_i|^2 / d) + b    s_i = 1 for a member, -1 for a non-member

    `kernel_svm` solves for a and b; libsvm does if it does not converge. Where several b are optimal, the
    tolerance covers all of them. Raises ValueError as non_member_share.
    """
    everything = (torch.arange(len(members)), torch.arange(len(non_members)))
    return svm_decisions(members, non_members, target, [everything])[0]


def svm_decisions(members: Tensor, non_members: Tensor, target: Tensor, draws: Draws) -> list[Decision]:
    """Return for each draw the `svm_decision` of targets by the members and non-members in its rows.

    The draws share much work. Raises ValueError as non_member_share.
    """
    for chosen, others in draws:
        _check_sizes(len(chosen), len(others), len(target))
    of_members, of_others = (torch.cat(rows).unique() for rows in zip(*draws, strict=True))
    known = torch.cat([members.cpu()[of_members].double(), non_members.cpu()[of_others].double()])
    points, asked = _columns(known), _columns(target.double().cpu())
    sides = torch.ones(len(points), dtype=torch.float64)
    sides[len(of_members) :] = -1.0
    space = KernelSpace.of(points, 1 / points.shape[1])
    coordinates, trainer = space.coordinates_of(asked), kernel_svm.Trainer(space, sides, COST)
    decisions = []
    for chosen, others in draws:
        in_others = len(of_members) + torch.searchsorted(of_others, others)
        rows = torch.cat([torch.searchsorted(of_members, chosen), in_others])
        try:
            attack = trainer.fit(rows)
            scores, slack = attack.decision(coordinates), attack.slack
        except NotSolved:
            scores, slack = _by_libsvm(points[rows], sides[rows], asked), 0.0
        decisions.append(Decision(scores.where(scores.abs() > TIE, 0.0), slack + TOLERANCE))
    return decisions


def _by_libsvm(points: Tensor, sides: Tensor, asked: Tensor) -> Tensor:
    """Return the decision values by scikit-learn. Identical points enter once, weighted by their number."""
    from sklearn.svm import SVC

    sided, counts = torch.cat([points, sides[:, None]], dim=1).unique(dim=0, return_counts=True)
    attack = SVC(C=COST, kernel="rbf", gamma="auto", cache_size=1000, shrinking=False)
    attack.fit(sided[:, :-1].numpy(), sided[:, -1].numpy(), sample_weight=counts.double().numpy())
    return torch.from_numpy(attack.decision_function(asked.numpy()))


def _columns(features: Tensor) -> Tensor:
    columns = features.reshape(len(features), -1)
    broken = len(columns) - int(columns.isfinite().all(dim=1).sum())
    if broken:
        raise ValueError(
            f"expected finite features, got NaN or infinity for {broken} of {len(features)} images. Evaluate "
            "a model that did not diverge."
        )
    return columns


def member_share(members: Tensor, non_members: Tensor, target: Tensor) -> float:
    """Return the percentage of target that a logistic regression calls **member**.

        LogisticRegression(C=1, class_weight="balanced"): feature -> member (1) or non-member (0)

    Features (n,), finite; the three sets may differ in n. Members and non-members have the same total weight.
    Raises ValueError for fewer than 10 members or non-members, or no target.
    """
    return 100 - called_non_member(regression_decision(members, non_members, target).scores)


def regression_decision(members: Tensor, non_members: Tensor, target: Tensor) -> Decision:
    """Return the log-odds of each target by the classifier of `member_share`. Raises the same ValueError."""
    _check_sizes(len(members), len(non_members), len(target))
    known = torch.cat([members, non_members]).double().cpu().reshape(-1)
    sides, weights = torch.ones_like(known), torch.empty_like(known)
    sides[len(members) :] = -1.0
    # Half of the total weight for each side: class_weight="balanced".
    weights[: len(members)] = len(known) / (2 * len(members))
    weights[len(members) :] = len(known) / (2 * len(non_members))
    line = logistic_regression.fit(known, sides, weights)
    return Decision(line.at(target.double().cpu().reshape(-1)), REGRESSION_TOLERANCE)


def regression_decisions(
    members: Tensor, non_members: Tensor, target: Tensor, draws: Draws
) -> list[Decision]:
    """Return for each draw the `regression_decision` of targets. Raises ValueError as member_share."""
    return [regression_decision(members[chosen], non_members[others], target) for chosen, others in draws]


def _check_sizes(members: int, non_members: int, target: int) -> None:
    if min(members, non_members) < MINIMUM or not target:
        raise ValueError(
            f"expected at least {MINIMUM} members (retain), {MINIMUM} non-members (test) and 1 forget image, "
            f"got {members}, {non_members} and {target}. Evaluate on larger sets."
        )


def attacked(
    model: ModelOutputs, name: str, feature: Callable[[Outputs], Tensor], classify: Classify = svm_decisions
) -> float:
    """Return the percentage of forget called non-member, by one feature of each image.

    Keeps the attack in `model.attacks` under the metric's name. The value is that of the first draw
    (`ModelOutputs.draws` balances the classes; the published code takes the first retain images). Raises
    Undecided if the draws and the solver's tolerance spread the value over more than 25 points.
    """
    if name not in model.attacks:
        model.attacks[name] = _attack(model, feature, classify)
    attack = model.attacks[name]
    if attack.highest - attack.lowest > LARGEST_SPREAD:
        raise Undecided(
            f"this attack calls {attack.lowest:.0f} to {attack.highest:.0f} % of the forget images "
            "non-members, depending on which images it is trained on"
        )
    return called_non_member(attack.scores)


def _attack(model: ModelOutputs, feature: Callable[[Outputs], Tensor], classify: Classify) -> Attack:
    of_retain, of_test, of_forget = (feature(outputs) for outputs in (model.retain, model.test, model.forget))
    drawn = classify(of_retain, of_test, of_forget, model.draws)
    lowest = min(called_non_member(scores + tolerance) for scores, tolerance in drawn)
    highest = max(called_non_member(scores - tolerance) for scores, tolerance in drawn)
    return Attack(drawn[0].scores, lowest, highest)


@register("mia_correctness", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_correctness(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on correctness (0 or 1) calls non-member.

        100 |{x in forget : svc(1[argmax f(x) = y]) = non-member}| / |forget|

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Trap: one bit per image. Most models get 0 or 100.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return attacked(model, "mia_correctness", lambda outputs: outputs.correct)


@register("mia_confidence", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_confidence(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the probability of the true class calls non-member.

        100 |{x in forget : svc(p_y) = non-member}| / |forget|

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return attacked(model, "mia_confidence", lambda outputs: outputs.true_probabilities)


@register("mia_entropy", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_entropy(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the entropy calls non-member.

        100 |{x in forget : svc(H(p)) = non-member}| / |forget|    H(p) = -sum_j p_j log p_j

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return attacked(model, "mia_entropy", lambda outputs: entropy(outputs.logits))


@register("mia_m_entropy", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_m_entropy(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the modified entropy calls non-member.

        100 |{x in forget : svc(M(p, y)) = non-member}| / |forget|
        M(p, y) = -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Trap: not comparable with public code, where an image's value depends on the batch and pairs p with the
    wrong logarithm.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return attacked(model, "mia_m_entropy", lambda outputs: modified_entropy(outputs.logits, outputs.labels))


@register("mia_prob", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_prob(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the softmax vector calls non-member.

        100 |{x in forget : svc(p_1, ..., p_C) = non-member}| / |forget|

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Trap: where a whole class was forgotten, the attack is trained without that class, and is often undecided.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return attacked(model, "mia_prob", lambda outputs: outputs.probabilities)


@register(
    "mia",
    unit="percent",
    better="near the ideal's",
    source=SOURCE,
    groups=("headline", "summary", "overview", "attack"),
    column="MIA",
)
def mia(model: ModelOutputs) -> float:
    """The same number as mia_confidence. Compare with the ideal's, not with 50.

        mia = mia_confidence

    Trap: counts non-members, so a model that remembers everything is near 0. Neither 50 nor 100 is the aim:
    compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return model.metric("mia_confidence")


@register(
    "mia_lr",
    unit="percent",
    better="near the ideal's",
    source=f"{BAD_TEACHING}, their code",
    groups=("attack",),
)
def mia_lr(model: ModelOutputs) -> float:
    """Percent of forget that a logistic regression on the entropy calls member.

        100 |{x in forget : r(H(x)) = member}| / |forget|
        r = LogisticRegression(class_weight="balanced"), H = entropy

    Members and non-members are drawn as for the SVC family. The source takes all retain and all test images.

    Trap: it counts members, the SVC family counts non-members. A model that remembers everything is near 100
    here, and near 0 there.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is
    undecided.
    """
    return 100 - attacked(model, "mia_lr", lambda outputs: entropy(outputs.logits), regression_decisions)
