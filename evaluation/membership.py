"""Membership inference with a trained classifier: does the forget set look as if it had been trained on?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation import kernel_svm
from evaluation.entropies import entropy, modified_entropy
from evaluation.impl import BAD_TEACHING, Undecided, register
from evaluation.model_outputs import Attack, ModelOutputs, Outputs

MINIMUM = 10
COST = 3.0
TIE = 1e-6  # a decision value nearer to 0 is one
TOLERANCE = 0.01  # ten times scikit-learn's: how far a decision value may move between that and an exact solution
REGRESSION_TOLERANCE = 1e-4  # of LogisticRegression
LARGEST_SPREAD = 25.0  # points between the draws of an attack; beyond it the value is luck
SOURCE = "features: Song and Mittal 2021, arXiv:2003.10595; protocol: Jia et al. 2023, arXiv:2304.04934"

Tell = Callable[[Tensor, Tensor, Tensor], "Decision"]


class Decision(NamedTuple):
    """What a trained attack says of each target: (m,) float64, negative for non-member; and by how much any of it may be off."""

    scores: Tensor
    tolerance: float


def non_member_share(members: Tensor, non_members: Tensor, target: Tensor) -> float:
    """100 x the share of target that a classifier of members against non-members calls non-member, in [0, 100].

        SVC(C=3, kernel="rbf", gamma="auto"): features -> member (1) or non-member (0)

    Features (n,) or (n, d), finite; the three sets may differ in n. A tie, as where all features are equal, is called member.
    Raises ValueError for fewer than 10 members or non-members, no target, or features that are not finite.
    """
    return called_non_member(member_scores(members, non_members, target))


def called_non_member(scores: Tensor) -> float:
    """100 x the share of member scores that say non-member: below 0."""
    return 100 * float((scores < 0).double().mean())


def member_scores(members: Tensor, non_members: Tensor, target: Tensor) -> Tensor:
    """The scores of `svm_decision`: (m,) float64, negative for non-member, 0 for a tie. Raises ValueError as non_member_share."""
    return svm_decision(members, non_members, target).scores


def svm_decision(members: Tensor, non_members: Tensor, target: Tensor) -> Decision:
    """What the classifier of `non_member_share` says of each target.

        f(x) = sum_i a_i s_i exp(-gamma |x - x_i|^2) + b    s_i = 1 for a member, -1 for a non-member,  gamma = 1 / d

    Identical points enter once, weighted by their number, and `kernel_svm` solves for a and b; where it can't, libsvm does.
    Where several b are optimal, the tolerance reaches to all of them. Raises ValueError as non_member_share.
    """
    _check_sizes(len(members), len(non_members), len(target))
    known, asked = (_columns(torch.cat([members.double(), non_members.double()]).cpu()), _columns(target.double().cpu()))
    sides = torch.ones(len(known), 1, dtype=torch.float64)
    sides[len(members) :] = -1.0
    points, counts = torch.cat([known, sides], dim=1).unique(dim=0, return_counts=True)
    features, sides, gamma = points[:, :-1].contiguous(), points[:, -1], 1 / known.shape[1]
    try:
        attack = kernel_svm.fit(features, sides, COST * counts.double(), gamma)
        scores, slack = attack.decision(asked), attack.slack
    except kernel_svm.NotSolved:
        scores, slack = _by_libsvm(features, sides, counts, asked), 0.0
    return Decision(scores.where(scores.abs() > TIE, 0.0), slack + TOLERANCE)


def _by_libsvm(points: Tensor, sides: Tensor, counts: Tensor, asked: Tensor) -> Tensor:
    from sklearn.svm import SVC

    attack = SVC(C=COST, kernel="rbf", gamma="auto", cache_size=1000, shrinking=False)
    attack.fit(points.numpy(), sides.numpy(), sample_weight=counts.double().numpy())
    return torch.from_numpy(attack.decision_function(asked.numpy()))


def _columns(features: Tensor) -> Tensor:
    if not bool(features.isfinite().all()):
        broken = int((~features.reshape(len(features), -1).isfinite().all(dim=1)).sum())
        raise ValueError(
            f"expected finite features, got NaN or infinity for {broken} of {len(features)} images. Evaluate a model that did not diverge."
        )
    return features.reshape(len(features), -1)


def member_share(members: Tensor, non_members: Tensor, target: Tensor) -> float:
    """100 x the share of target that a logistic regression of members against non-members calls **member**, in [0, 100].

        LogisticRegression(C=1, class_weight="balanced"): feature -> member (1) or non-member (0)

    Features (n,), finite; the three sets may differ in n, and are weighted so that members and non-members count the same.
    Raises ValueError for fewer than 10 members or non-members, or no target.
    """
    return 100 - called_non_member(regression_decision(members, non_members, target).scores)


def regression_decision(members: Tensor, non_members: Tensor, target: Tensor) -> Decision:
    """The log odds of each target by the classifier of `member_share`. Raises ValueError as that."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    _check_sizes(len(members), len(non_members), len(target))
    known = torch.cat([members, non_members]).double().cpu().reshape(-1, 1).numpy()
    is_member = np.repeat([1, 0], [len(members), len(non_members)])
    attack = LogisticRegression(class_weight="balanced", max_iter=1000).fit(known, is_member)
    scores = torch.from_numpy(attack.decision_function(target.double().cpu().reshape(-1, 1).numpy()))
    return Decision(scores, REGRESSION_TOLERANCE)


def _check_sizes(members: int, non_members: int, target: int) -> None:
    if min(members, non_members) < MINIMUM or not target:
        raise ValueError(
            f"expected at least {MINIMUM} members (retain), {MINIMUM} non-members (test) and 1 forget image, "
            f"got {members}, {non_members} and {target}. Evaluate on larger sets."
        )


def attacked(model: ModelOutputs, name: str, feature: Callable[[Outputs], Tensor], tell: Tell = svm_decision) -> float:
    """The non-member share (percent) of the forget set by one feature of each image. The attack is kept under the metric's name.

    The value is that of the first draw of members and non-members (`ModelOutputs.draws`: as many of each class on both sides; the published
    code takes the first retain images, whatever their classes). Raises Undecided where the draws, or scores within the solver's tolerance
    of 0, put it more than 25 points apart.
    """
    if name not in model.attacks:
        model.attacks[name] = _attack(model, feature, tell)
    attack = model.attacks[name]
    if attack.highest - attack.lowest > LARGEST_SPREAD:
        raise Undecided(
            f"this attack calls {attack.lowest:.0f} to {attack.highest:.0f} % of the forget images non-members, "
            "depending on which images it is trained on"
        )
    return called_non_member(attack.scores)


def _attack(model: ModelOutputs, feature: Callable[[Outputs], Tensor], tell: Tell) -> Attack:
    of_retain, of_test, of_forget = (feature(outputs) for outputs in (model.retain, model.test, model.forget))
    drawn = [tell(of_retain[members], of_test[non_members], of_forget) for members, non_members in model.draws]
    lowest = min(called_non_member(scores + tolerance) for scores, tolerance in drawn)
    highest = max(called_non_member(scores - tolerance) for scores, tolerance in drawn)
    return Attack(drawn[0].scores, lowest, highest)


@register("mia_correctness", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_correctness(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on correctness (0 or 1) calls non-member.

        100 |{x in forget : svc(1[argmax f(x) = y]) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: one bit an image. Most models are 0 or 100 here.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return attacked(model, "mia_correctness", lambda outputs: outputs.correct)


@register("mia_confidence", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_confidence(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the probability of the true class calls non-member.

        100 |{x in forget : svc(p_y) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return attacked(model, "mia_confidence", lambda outputs: outputs.true_probabilities)


@register("mia_entropy", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_entropy(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the entropy calls non-member.

        100 |{x in forget : svc(H(p)) = non-member}| / |forget|    H(p) = -sum_j p_j log p_j

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return attacked(model, "mia_entropy", lambda outputs: entropy(outputs.logits))


@register("mia_m_entropy", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_m_entropy(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the modified entropy calls non-member.

        100 |{x in forget : svc(M(p, y)) = non-member}| / |forget|    M(p, y) = -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: here an image's value depends on that image alone. In public code it depends on the batch, and pairs p with the wrong logarithm.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return attacked(model, "mia_m_entropy", lambda outputs: modified_entropy(outputs.logits, outputs.labels))


@register("mia_prob", unit="percent", better="near the ideal's", source=SOURCE, groups=("attack",))
def mia_prob(model: ModelOutputs) -> float:
    """Percent of forget that an SVC on the softmax vector calls non-member.

        100 |{x in forget : svc(p_1, ..., p_C) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: where a whole class was forgotten, the attack has seen no image of it, and is often undecided.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return attacked(model, "mia_prob", lambda outputs: outputs.probabilities)


@register("mia", unit="percent", better="near the ideal's", source=SOURCE, groups=("headline", "summary", "overview", "attack"))
def mia(model: ModelOutputs) -> float:
    """The same number as mia_confidence. Compare with the ideal's, not with 50.

        mia = mia_confidence

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return model.metric("mia_confidence")


@register("mia_lr", unit="percent", better="near the ideal's", source=f"{BAD_TEACHING}, their code", groups=("attack",))
def mia_lr(model: ModelOutputs) -> float:
    """Percent of forget that a logistic regression on the entropy calls member.

        100 |{x in forget : r(H(x)) = member}| / |forget|    r = LogisticRegression(class_weight="balanced"), H = entropy

    Members and non-members are drawn as for the SVC family. The source takes all retain and all test images.

    Trap: it counts members, the SVC family counts non-members. A model that still knows everything is near 100 here, and near 0 there.

    Raises ValueError for fewer than 10 members or non-members, no forget image, or where the attack is undecided.
    """
    return 100 - attacked(model, "mia_lr", lambda outputs: entropy(outputs.logits), regression_decision)
