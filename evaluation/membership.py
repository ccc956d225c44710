"""Membership inference with a trained classifier: does the forget set look as if it had been trained on?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evaluation import kernel_svm
from evaluation.entropies import entropy, modified_entropy
from evaluation.evidence import Evidence, Outputs
from evaluation.impl import BAD_TEACHING, register

MINIMUM = 10
COST = 3.0
TIE = 1e-6  # a decision value nearer to 0 is one
SOURCE = "features: Song and Mittal 2021, arXiv:2003.10595; protocol: Jia et al. 2023, arXiv:2304.04934"


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
    """What the classifier of `non_member_share` says of each target: (m,) float64, negative for non-member, 0 for a tie.

        f(x) = sum_i a_i s_i exp(-gamma |x - x_i|^2) + b    s_i = 1 for a member, -1 for a non-member,  gamma = 1 / d

    Identical points enter once, weighted by their number, and `kernel_svm` solves for a and b; where it can't, libsvm does.
    Raises ValueError as non_member_share.
    """
    _check_sizes(len(members), len(non_members), len(target))
    known, asked = (_columns(torch.cat([members.double(), non_members.double()]).cpu()), _columns(target.double().cpu()))
    sides = torch.ones(len(known), 1, dtype=torch.float64)
    sides[len(members) :] = -1.0
    points, counts = torch.cat([known, sides], dim=1).unique(dim=0, return_counts=True)
    features, sides, gamma = points[:, :-1].contiguous(), points[:, -1], 1 / known.shape[1]
    try:
        scores = kernel_svm.fit(features, sides, COST * counts.double(), gamma).decision(asked)
    except kernel_svm.NotSolved:
        scores = _by_libsvm(features, sides, counts, asked)
    return scores.where(scores.abs() > TIE, 0.0)


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
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    _check_sizes(len(members), len(non_members), len(target))
    known = torch.cat([members, non_members]).double().cpu().reshape(-1, 1).numpy()
    is_member = np.repeat([1, 0], [len(members), len(non_members)])
    attack = LogisticRegression(class_weight="balanced", max_iter=1000).fit(known, is_member)
    return 100 * float(np.mean(attack.predict(target.double().cpu().reshape(-1, 1).numpy())))


def _check_sizes(members: int, non_members: int, target: int) -> None:
    if min(members, non_members) < MINIMUM or not target:
        raise ValueError(
            f"expected at least {MINIMUM} members (retain), {MINIMUM} non-members (test) and 1 forget image, "
            f"got {members}, {non_members} and {target}. Evaluate on larger sets."
        )


def attacked(model: Evidence, name: str, feature: Callable[[Outputs], Tensor]) -> float:
    """The non-member share (percent) of the forget set by one feature of each image. The scores are kept under the metric's name.

    Members are as many retain images, drawn by seed, as there are test images; non-members are the test images, without
    the forgotten classes. Departs from the published code, which takes the first retain images.
    """
    scores = member_scores(feature(model.members), feature(model.non_members), feature(model.forget))
    model.member_scores[name] = scores
    return called_non_member(scores)


@register("mia_correctness", unit="percent", better="near the ideal's", source=SOURCE)
def mia_correctness(model: Evidence) -> float:
    """Percent of forget that an SVC on correctness (0 or 1) calls non-member.

        100 |{x in forget : svc(1[argmax f(x) = y]) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: one bit an image. Most models are 0 or 100 here.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return attacked(model, "mia_correctness", lambda outputs: outputs.correct)


@register("mia_confidence", unit="percent", better="near the ideal's", source=SOURCE)
def mia_confidence(model: Evidence) -> float:
    """Percent of forget that an SVC on the probability of the true class calls non-member.

        100 |{x in forget : svc(p_y) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return attacked(model, "mia_confidence", lambda outputs: outputs.true_probabilities)


@register("mia_entropy", unit="percent", better="near the ideal's", source=SOURCE)
def mia_entropy(model: Evidence) -> float:
    """Percent of forget that an SVC on the entropy calls non-member.

        100 |{x in forget : svc(H(p)) = non-member}| / |forget|    H(p) = -sum_j p_j log p_j

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return attacked(model, "mia_entropy", lambda outputs: entropy(outputs.logits))


@register("mia_m_entropy", unit="percent", better="near the ideal's", source=SOURCE)
def mia_m_entropy(model: Evidence) -> float:
    """Percent of forget that an SVC on the modified entropy calls non-member.

        100 |{x in forget : svc(M(p, y)) = non-member}| / |forget|    M(p, y) = -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: here an image's value depends on that image alone. In public code it depends on the batch, and pairs p with the wrong logarithm.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return attacked(model, "mia_m_entropy", lambda outputs: modified_entropy(outputs.logits, outputs.labels))


@register("mia_prob", unit="percent", better="near the ideal's", source=SOURCE)
def mia_prob(model: Evidence) -> float:
    """Percent of forget that an SVC on the softmax vector calls non-member.

        100 |{x in forget : svc(p_1, ..., p_C) = non-member}| / |forget|

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Trap: where a whole class was forgotten, the attack has seen no image of it. What it says of vectors that are near none of its own
    is its offset's sign, for all of them: 0 or 100, whatever was forgotten.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return attacked(model, "mia_prob", lambda outputs: outputs.probabilities)


@register("mia", unit="percent", better="near the ideal's", source=SOURCE)
def mia(model: Evidence) -> float:
    """The same number as mia_confidence. Compare with the ideal's, not with 50.

        mia = mia_confidence

    Trap: counts non-members, so a model that still knows everything is near 0. Neither 50 nor 100 is the aim: compare with the ideal's.

    Raises ValueError for fewer than 10 members or non-members, or no forget image.
    """
    return model.metric("mia_confidence")


@register("mia_lr", unit="percent", better="near the ideal's", source=f"{BAD_TEACHING}, their code")
def mia_lr(model: Evidence) -> float:
    """Percent of forget that a logistic regression on the entropy calls member.

        100 |{x in forget : r(H(x)) = member}| / |forget|    r = LogisticRegression(class_weight="balanced"), H = entropy

    Members are all retain images, non-members all test images, those of a class that was forgotten whole too.

    Trap: it counts members, the SVC family counts non-members. A model that still knows everything is near 100 here, and near 0 there.

    Raises ValueError for fewer than 10 retain or test images, or no forget image.
    """
    return member_share(*(entropy(outputs.logits) for outputs in (model.retain, model.test, model.forget)))
