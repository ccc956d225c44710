"""Membership attacks against scikit-learn itself: the SVC family, the regression, the loss threshold."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.svm import SVC

from lethe.evaluation import ModelOutputs, Outputs, evaluate
from lethe.evaluation.entropies import modified_entropy
from lethe.evaluation.loss_threshold import auc, tpr_at_1_fpr
from lethe.evaluation.membership import MINIMUM, Decision, Undecided, attacked, member_share, non_member_share
from lethe.evaluation.model_outputs import DRAWS
from tests.drawn_outputs import SVC_FAMILY, by_class, drawn, model_outputs

FEW = settings(max_examples=20)
losses = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.0]), min_size=1, max_size=30).map(torch.tensor)


# The SVC family


def reference_share(members, non_members, target):
    features = np.concatenate([members, non_members]).reshape(len(members) + len(non_members), -1)
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(features, [1] * len(members) + [0] * len(non_members))
    return 100 - 100 * attack.predict(np.reshape(target, (len(target), -1))).mean()


def test_the_share_is_that_of_scikit_learn_directly():
    rng = np.random.default_rng(0)
    sets = rng.normal(0, 1, 200), rng.normal(0.8, 1, 150), rng.normal(0.5, 1, 100)
    assert non_member_share(*map(torch.tensor, sets)) == pytest.approx(reference_share(*sets), abs=1.0)


def test_the_share_of_vectors_is_that_of_scikit_learn_directly():
    rng = np.random.default_rng(0)
    sets = rng.dirichlet([4, 1, 1], 100), rng.dirichlet([2, 1, 1], 100), rng.dirichlet([1, 1, 1], 100)
    assert non_member_share(*map(torch.tensor, sets)) == pytest.approx(reference_share(*sets), abs=1.0)


@pytest.mark.parametrize("right", [(95, 70), (70, 95), (100, 99)])
def test_merging_identical_points_changes_nothing(right):
    members, non_members = (np.arange(100) < n for n in right)
    target = np.array([0, 1, 1])
    expected = reference_share(members.astype(float), non_members.astype(float), target)
    assert non_member_share(*map(torch.tensor, (members, non_members, target))) == pytest.approx(expected)


def test_copies_of_separated_members_are_0_and_copies_of_non_members_100():
    members, non_members = torch.linspace(0.9, 1.0, 30), torch.linspace(0.0, 0.1, 30)
    assert non_member_share(members, non_members, members) == 0.0
    assert non_member_share(members, non_members, non_members) == 100.0


# mia_lr


def reference_member_share(members, non_members, target):
    features = np.concatenate([members, non_members]).reshape(-1, 1)
    attack = LogisticRegression(class_weight="balanced").fit(
        features, [True] * len(members) + [False] * len(non_members)
    )
    return 100 * attack.predict(np.reshape(target, (-1, 1))).mean()


@FEW
@given(st.integers(0, 10**6))
def test_the_member_share_is_that_of_scikit_learn_directly(seed):
    rng = np.random.default_rng(seed)
    sets = rng.gamma(1, 0.2, 200), rng.gamma(2, 0.3, 50), rng.gamma(1.5, 0.3, 80)
    assert member_share(*map(torch.tensor, sets)) == pytest.approx(reference_member_share(*sets))


def test_the_member_share_by_hand():
    # Symmetric around 2, and balanced whatever the numbers: what is nearer to 1 than to 3 is a member.
    members, non_members = torch.full((90,), 1.0), torch.full((10,), 3.0)
    assert member_share(members, non_members, torch.tensor([0.0, 1.9, 2.1, 9.0, 9.0])) == pytest.approx(40.0)


def test_mia_lr_reads_the_entropy_of_the_first_draw():
    model = by_class()
    sets = [
        -(o.probabilities * o.probabilities.log()).sum(1).numpy()
        for o in (model.members, model.non_members, model.forget)
    ]
    assert model.metric("mia_lr") == pytest.approx(reference_member_share(*sets))


def test_mia_lr_never_sees_a_test_image_of_the_forgotten_class():
    model = by_class()
    sure = torch.where(model.test.labels[:, None] == 0, torch.tensor([90.0, 0.0, 0.0]), model.test.logits)
    assert replace(model, test=Outputs(sure, model.test.labels)).metric("mia_lr") == model.metric("mia_lr")


def test_mia_lr_counts_members_and_the_svc_family_non_members():
    sure = drawn(40, sharpness=30.0, labels=[1, 2] * 20, seed=1)
    unsure = Outputs(torch.tensor([[1.0, 0.0, 0.0]] * 40), torch.tensor([1, 2] * 20))
    remembers, forgot = (model_outputs(forget=forget, retain=sure, test=unsure) for forget in (sure, unsure))
    assert (remembers.metric("mia_lr"), remembers.metric("mia_entropy")) == (100.0, 0.0)
    assert (forgot.metric("mia_lr"), forgot.metric("mia_entropy")) == (0.0, 100.0)


@pytest.mark.parametrize(("members", "non_members", "target"), [(9, 10, 1), (10, 9, 1), (10, 10, 0)])
def test_sets_too_small_for_the_regression_say_the_minimum(members, non_members, target):
    reason = f"expected at least {MINIMUM} members .* got {members}, {non_members} and {target}"
    with pytest.raises(ValueError, match=reason):
        member_share(torch.zeros(members), torch.zeros(non_members), torch.zeros(target))


@pytest.mark.parametrize("name", SVC_FAMILY)
def test_each_attack_tells_members_from_non_members(name):
    sure = drawn(40, sharpness=30.0, labels=[1, 2] * 20, seed=1)
    unsure = Outputs(torch.tensor([[1.0, 0.0, 0.0]] * 40), torch.tensor([1, 2] * 20))
    assert model_outputs(forget=sure, retain=sure, test=unsure).metric(name) == 0.0
    assert model_outputs(forget=unsure, retain=sure, test=unsure).metric(name) == 100.0


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("mia_correctness", lambda o: (o.logits.argmax(1) == o.labels).numpy().astype(float)),
        ("mia_confidence", lambda o: o.probabilities[range(len(o)), o.labels].numpy()),
        ("mia_entropy", lambda o: -(o.probabilities * o.probabilities.log()).sum(1).numpy()),
        ("mia_m_entropy", lambda o: modified_entropy(o.logits, o.labels).numpy()),
        ("mia_prob", lambda o: o.probabilities.numpy()),
    ],
)
def test_each_attack_reads_its_feature(name, feature):
    model = model_outputs()
    expected = reference_share(feature(model.members), feature(model.non_members), feature(model.forget))
    assert model.metric(name) == pytest.approx(expected, abs=1e-9)


def test_a_feature_that_is_always_the_same_is_no_error():
    same = np.ones(20)
    assert non_member_share(*[torch.tensor(same)] * 3) == reference_share(same, same, same) == 0.0


@FEW
@given(st.integers(0, 10**6))
def test_the_share_is_a_percentage(seed):
    rng = np.random.default_rng(seed)
    assert 0 <= non_member_share(*(torch.tensor(rng.normal(size=n)) for n in (15, 12, 7))) <= 100


def test_members_are_drawn_by_seed_from_retain():
    rows = [set(map(tuple, model_outputs(seed=seed).members.logits.tolist())) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0] < set(map(tuple, model_outputs().retain.logits.tolist()))
    assert model_outputs(seed=3).metric("mia_entropy") == model_outputs(seed=3).metric("mia_entropy")


def test_a_small_retain_set_is_taken_whole():
    retain = drawn(45, sharpness=4.0, labels=[0, 1, 2] * 15)
    model = model_outputs(retain=retain, test=drawn(120, sharpness=2.0, labels=[0, 1, 2] * 40))
    assert sorted(model.members.logits.tolist()) == sorted(retain.logits.tolist())
    assert len(model.non_members) == 45


def test_the_forgotten_class_is_on_neither_side():
    model = by_class()
    assert (
        model.members.labels.bincount().tolist()
        == model.non_members.labels.bincount().tolist()
        == [0, 40, 40]
    )


def test_all_test_images_are_non_members_where_no_whole_class_went():
    model = model_outputs()
    assert sorted(model.non_members.logits.tolist()) == sorted(model.test.logits.tolist())


@FEW
@given(
    st.lists(st.integers(0, 3), max_size=80),
    st.lists(st.integers(0, 3), max_size=80),
    st.booleans(),
    st.integers(0, 99),
)
def test_both_sides_have_the_same_classes_in_every_draw(retain, test, whole, seed):
    """However unbalanced the sets are: of each class as many as the smaller set has, and no row twice."""
    gone = (3,) if whole else ()
    retain = [label for label in retain if label not in gone]
    of_retain, of_test = (
        Outputs(torch.zeros(len(y), 4), torch.tensor(y, dtype=torch.int64)) for y in (retain, test)
    )
    model = ModelOutputs(of_test, of_retain, of_test, validation=None, forget_classes=gone, seed=seed)
    expected = [0 if c in gone else min(retain.count(c), test.count(c)) for c in range(4)]
    assert len(model.draws) == DRAWS
    for members, non_members in model.draws:
        assert of_retain.labels[members].bincount(minlength=4).tolist() == expected
        assert of_test.labels[non_members].bincount(minlength=4).tolist() == expected
        assert len(members.unique()) == len(members) and len(non_members.unique()) == len(non_members)


# Undecided


def confident(probabilities, classes=2):
    """Outputs of class 0, whose true class has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return Outputs(torch.stack([p.log(), (1 - p).log()], dim=1), torch.zeros(len(p), dtype=torch.int64))


@pytest.mark.parametrize(
    "name", ["mia_correctness", "mia_confidence", "mia_entropy", "mia_m_entropy", "mia_prob", "mia", "mia_lr"]
)
def test_an_attack_on_what_is_always_the_same_is_undecided(name):
    same = confident([0.9] * 20)
    reason = r"^undecided: this attack calls 0 to 100 % of the forget images non-members"
    with pytest.raises(Undecided, match=reason):
        model_outputs(forget=same, retain=same, test=same).metric(name)


def test_an_attack_that_hangs_on_the_draw_is_undecided():
    """A third of the retain images are less sure than all test images: the forget images lie where a draw has
    more of them or fewer.
    """
    retain = confident([0.2] * 60 + [0.6] * 60)
    test = confident([0.6] * 20 + [0.2] * 20)
    model = model_outputs(forget=confident([0.6] * 30), retain=retain, test=test)
    with pytest.raises(Undecided, match="calls 0 to 100 %"):
        model.metric("mia")
    assert model.attacks["mia_confidence"].scores.shape == (30,)


def test_scores_within_the_tolerance_of_0_count_as_either():
    same = confident([0.9] * 20)

    def tell(members, non_members, target, draws):
        return [Decision(torch.tensor([-1.0] * 5 + [0.5, -0.5, 0.0] + [1.0] * 12), 0.6) for _ in draws]

    model = model_outputs(forget=same, retain=same, test=same)
    assert attacked(model, "toy", lambda o: o.losses, tell) == 30.0
    assert (model.attacks["toy"].lowest, model.attacks["toy"].highest) == (25.0, 40.0)


def test_an_undecided_attack_leaves_a_gap_without_it():
    same = confident([0.9] * 20)
    undecided = model_outputs(forget=same, retain=same, test=same)
    ideal = model_outputs(forget=confident([0.1] * 10 + [0.9] * 10), retain=same, test=same)
    values, reasons = evaluate(names=("mia", "avg_gap", "avg_gap_without_mia"), model=undecided, ideal=ideal)
    assert values == {"avg_gap_without_mia": pytest.approx(50 / 3)}
    assert reasons["mia"].undecided and reasons["avg_gap"].undecided
    assert reasons["avg_gap"].reason == "undecided: mia is. See avg_gap_without_mia"


def test_test_images_of_the_forgotten_class_do_not_change_the_attack():
    model = by_class()
    other = replace(
        model, test=Outputs(model.test.logits.where(model.test.labels[:, None] > 0, 9.0), model.test.labels)
    )
    assert model.metric("mia") == other.metric("mia")
    assert model.metric("test_forget_loss") != other.metric("test_forget_loss")


@pytest.mark.parametrize(
    ("members", "non_members", "target"), [(9, 10, 1), (10, 9, 1), (0, 10, 1), (10, 0, 1), (10, 10, 0)]
)
def test_sets_too_small_for_the_attack_say_the_minimum(members, non_members, target):
    wanted = f"expected at least {MINIMUM} members .* got {members}, {non_members} and {target}"
    with pytest.raises(ValueError, match=wanted):
        non_member_share(torch.zeros(members), torch.zeros(non_members), torch.zeros(target))


def test_a_test_split_of_the_forgotten_class_alone_leaves_no_non_member():
    model = replace(by_class(), test=drawn(20, labels=[0] * 20))
    with pytest.raises(ValueError, match="got 0, 0 and 30"):
        model.metric("mia")


# The loss threshold


def test_auc_by_hand():
    # pairs (forget, test): 1 < 2, 1 < 4, 3 > 2, 3 < 4, 4 > 2, 4 = 4 -> 3 and a half of 6
    assert auc(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([2.0, 4.0])) == pytest.approx(3.5 / 6)


@given(losses, losses)
def test_auc_is_that_of_scikit_learn_and_the_complement_when_swapped(forget, test):
    members = [1] * len(forget) + [0] * len(test)
    assert auc(forget, test) == pytest.approx(
        roc_auc_score(members, -torch.cat([forget, test]).numpy()), abs=1e-12
    )
    assert auc(forget, test) + auc(test, forget) == pytest.approx(1, abs=1e-12)


@given(losses)
def test_auc_of_identical_sets_is_one_half(some):
    assert auc(some, some) == pytest.approx(0.5, abs=1e-12)


def test_auc_of_exchangeable_sets_is_one_half_on_average():
    """Exactly so over all divisions of the same losses: the AUCs of a division and its opposite sum to 1."""
    losses = torch.tensor([0.1, 0.4, 0.4, 1.5, 2.0, 7.0])
    divisions = list(itertools.combinations(range(6), 3))
    values = [
        auc(losses[list(chosen)], losses[[i for i in range(6) if i not in chosen]]) for chosen in divisions
    ]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=1e-12)


def test_auc_is_high_where_forget_still_has_the_smaller_loss():
    model = model_outputs(forget=drawn(40, sharpness=50.0), test=drawn(120, sharpness=-50.0))
    assert model.metric("mia_auc") == 1.0
    assert model.metric("mia_tpr_at_1_fpr") == 1.0


def test_an_infinite_loss_ranks_last():
    assert auc(torch.tensor([math.inf]), torch.tensor([1.0, math.inf])) == pytest.approx(0.25)


def test_tpr_at_1_fpr_by_hand():
    # of 200 test losses 0, 1, ..., 199 two may be called member: the threshold is 2
    assert tpr_at_1_fpr(torch.tensor([0.0, 1.5, 2.0, 50.0]), torch.arange(200.0)) == 0.5


@given(st.integers(0, 10**6), st.integers(100, 450))
def test_tpr_at_1_fpr_is_that_of_scikit_learns_curve(seed, n):
    rng = np.random.default_rng(seed)
    forget, test = rng.integers(0, 300, 60) / 7, rng.integers(0, 300, n) / 5
    fpr, tpr, _ = roc_curve([1] * 60 + [0] * n, -np.concatenate([forget, test]), drop_intermediate=False)
    assert tpr_at_1_fpr(torch.tensor(forget), torch.tensor(test)) == pytest.approx(
        tpr[fpr <= 0.01].max(), abs=1e-12
    )


def test_thresholds_on_too_few_images_say_the_minimum():
    with pytest.raises(ValueError, match="expected at least 1 forget and 1 test image, got 0 and 3"):
        auc(torch.zeros(0), torch.zeros(3))
    with pytest.raises(ValueError, match="expected at least 1 forget and 100 test images, got 5 and 99"):
        tpr_at_1_fpr(torch.zeros(5), torch.zeros(99))
