"""Every metric against an independent truth: by hand, by scikit-learn, or by a property that it must have."""

import itertools
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from sklearn.svm import SVC
from torch import nn

from evaluation import METRICS, Evidence, MetricFacts, Outputs, evaluate, needs_of, outputs_of
from evaluation.classification import mean, percent
from evaluation.entropies import cross_entropy, entropy, modified_entropy
from evaluation.gap import mean_gap, ua_ra_ta_mia
from evaluation.impl import Better, Unit
from evaluation.loss_threshold import auc, tpr_at_1_fpr
from evaluation.membership import MINIMUM, member_share, non_member_share

THE_FIVE = {"forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score"}
WHOLE_CLASS = {f"test_{name}" for name in THE_FIVE}
SVC_FAMILY = ["mia_correctness", "mia_confidence", "mia_entropy", "mia_m_entropy", "mia_prob"]
AGAINST_THE_IDEAL = {"avg_gap", "rUA", "tow", "fidelity", "js_divergence", "activation_distance"}
OTHER_NEEDS = {"rf_js_divergence": "initial", "zrf": "incompetent"}
COSTLY = {"probe_score", "probe_gap", "relearn_steps", "relearn_censored", "anamnesis_index"}
SECONDS = {"unlearn_seconds", "ideal_seconds", "speedup"}
OF_THE_MODEL_ITSELF = {*COSTLY, "weight_distance", "weights_changed"}
NEEDS = {
    **dict.fromkeys({*AGAINST_THE_IDEAL, "probe_gap"}, ("model", "ideal")),
    **dict.fromkeys(("rf_js_divergence", "weight_distance", "weights_changed", "relearn_steps", "relearn_censored"), ("model", "initial")),
    **dict.fromkeys(("ideal_seconds", "speedup"), ("times", "ideal")),
    "unlearn_seconds": ("times",),
    "anamnesis_index": ("model", "ideal", "initial"),
    "zrf": ("model", "incompetent"),
}
MIA = {"mia", *SVC_FAMILY, "mia_lr", "mia_auc", "mia_tpr_at_1_fpr"}
EVERY_METRIC = THE_FIVE | WHOLE_CLASS | {"test_loss", "test_score"} | MIA | AGAINST_THE_IDEAL | set(OTHER_NEEDS)
EVERY_METRIC |= SECONDS | OF_THE_MODEL_ITSELF


def outputs(probabilities, labels):
    return Outputs(torch.tensor(probabilities, dtype=torch.float64).log(), torch.tensor(labels))


def drawn(n, *, classes=3, sharpness=1.0, labels=None, seed=0):
    """n random outputs whose true class has its logit raised by `sharpness`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator) if labels is None else torch.tensor(labels)
    logits = torch.randn(n, classes, generator=generator)
    return Outputs(logits + sharpness * nn.functional.one_hot(y, classes), y)


def evidence(*, forget=None, retain=None, test=None, forget_classes=(), seed=1):
    return Evidence(
        forget=forget or drawn(40, sharpness=2.0, seed=1),
        retain=retain or drawn(300, sharpness=4.0, seed=2),
        test=test or drawn(120, sharpness=2.0, seed=3),
        validation=None,
        forget_classes=forget_classes,
        seed=seed,
    )


def by_class():
    """Class 0 forgotten whole."""
    return evidence(
        forget=drawn(30, sharpness=-1.0, labels=[0] * 30, seed=4),
        retain=drawn(200, sharpness=3.0, labels=[1, 2] * 100, seed=5),
        test=drawn(120, sharpness=2.0, labels=[0, 1, 2] * 40, seed=6),
        forget_classes=(0,),
    )


UNTIMED = settings(deadline=None)
FEW = settings(deadline=None, max_examples=20)
logits_and_labels = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=4), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)
losses = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.0]), min_size=1, max_size=30).map(torch.tensor)


# Registration


def test_all_metrics_are_registered_by_importing_the_package():
    assert set(METRICS.names) == EVERY_METRIC


@pytest.mark.parametrize("metric", list(METRICS), ids=lambda metric: metric.name)
def test_each_registration_is_complete(metric):
    assert metric.facts.unit in set(get_args(Unit)) - {""}
    assert metric.facts.better in set(get_args(Better)) - {""}
    assert metric.summary.endswith(".") or ":" in metric.summary
    assert needs_of(metric.function) == NEEDS.get(metric.name, ("model",))
    assert metric.facts.costly == (metric.name in COSTLY)
    assert metric.facts.whole_class == (metric.name in WHOLE_CLASS)


def test_units_are_those_of_the_definitions():
    units = {name: METRICS[name].facts.unit for name in EVERY_METRIC}
    nats = {name for name in EVERY_METRIC if name.endswith(("_loss", "js_divergence"))}
    assert {name for name, unit in units.items() if unit == "nats"} == nats
    assert {name for name, unit in units.items() if unit == "points"} == {"avg_gap", "rUA", "probe_gap"}
    assert {name for name, unit in units.items() if unit == "distance"} == {"activation_distance", "weight_distance"}
    assert {name for name, unit in units.items() if unit == "seconds"} == {"unlearn_seconds", "ideal_seconds"}
    assert {name for name, unit in units.items() if unit == "ratio"} == {"speedup", "anamnesis_index"}
    assert {name for name, unit in units.items() if unit == "steps"} == {"relearn_steps"}
    fractions = {"forget_probability", "test_forget_probability", "mia_auc", "mia_tpr_at_1_fpr", "tow", "zrf"}
    fractions |= {"weights_changed", "relearn_censored"}
    assert {name for name, unit in units.items() if unit == "fraction"} == fractions


def test_facts_are_frozen():
    with pytest.raises(FrozenInstanceError):
        MetricFacts().unit = "nats"  # type: ignore[misc]


def test_importing_the_package_does_not_load_scikit_learn():
    code = "import evaluation, sys; print([m for m in ('sklearn', 'scipy', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Outputs


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"expected logits \(N, C\) with C >= 2, got shape \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), r"C >= 2, got shape \(3, 1\)"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "expected floating-point logits, got torch.int64"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"labels of shape \(3,\), got torch.int64 of shape \(2,\)"),
        (torch.zeros(3, 2), torch.zeros(3), "expected int64 labels of shape .* got torch.float32"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "expected labels from 0 to 1, got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), "expected labels from 0 to 1, got -1 to 1"),
        (torch.tensor([[0.0, math.nan], [0.0, 0.0]]), torch.tensor([0, 1]), "got NaN or infinity for 1 of 2 images"),
        (torch.tensor([[0.0, math.inf], [0.0, 0.0]]), torch.tensor([0, 1]), "got NaN or infinity for 1 of 2 images"),
        (torch.full((2, 2), -math.inf), torch.tensor([0, 1]), "got NaN or infinity for 2 of 2 images"),
    ],
)
def test_outputs_refuse_what_is_no_logits_and_labels(logits, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        Outputs(logits, labels)
    assert "\n" not in str(error.value) and str(error.value).count(". ") == 1


def test_probabilities_are_float64_cached_and_sum_to_one():
    some = drawn(5)
    assert some.probabilities.dtype == torch.float64
    assert some.probabilities is some.probabilities
    torch.testing.assert_close(some.probabilities.sum(1), torch.ones(5, dtype=torch.float64))


def test_a_masked_class_has_probability_zero_and_an_infinite_loss():
    some = Outputs(torch.tensor([[-math.inf, 0.0, 0.0]]), torch.tensor([0]))
    assert some.true_probabilities.item() == 0.0
    assert some.losses.item() == math.inf


def test_subset_keeps_what_the_mask_names():
    some = drawn(4, labels=[0, 1, 2, 1])
    assert some.subset(some.labels == 1).labels.tolist() == [1, 1]
    assert some.subset(torch.tensor([2, 0])).labels.tolist() == [2, 0]
    assert len(some.subset(torch.zeros(4, dtype=torch.bool))) == 0


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones(4, 1, dtype=torch.bool)])
def test_subset_refuses_another_mask(mask):
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(4,\) or int64 indexes"):
        drawn(4).subset(mask)


def test_outputs_of_runs_in_eval_mode_and_restores_each_module():
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9), nn.BatchNorm1d(3))
    model[2].eval()
    images, labels = torch.randn(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    got = outputs_of(model, zip(images.split(3), labels.split(3), strict=True))
    assert [m.training for m in model] == [True, True, False] and model.training
    torch.testing.assert_close(got.logits, model.eval()(images).detach())
    assert torch.equal(got.labels, labels)
    assert not got.logits.requires_grad and not got.logits.is_inference()


def test_outputs_of_restores_the_mode_when_the_model_fails():
    model = nn.Linear(2, 3).train()
    with pytest.raises(RuntimeError):
        outputs_of(model, [(torch.zeros(1, 5), torch.tensor([0]))])
    assert model.training


def test_outputs_of_no_batch_is_an_error():
    with pytest.raises(ValueError, match="expected at least 1 batch of images and labels, got 0"):
        outputs_of(nn.Linear(2, 3), [])


# Evidence


def test_the_test_split_is_divided_by_the_forgotten_classes():
    model = by_class()
    assert set(model.test_forget.labels.tolist()) == {0}
    assert set(model.test_retain.labels.tolist()) == {1, 2}
    assert len(model.test_forget) + len(model.test_retain) == len(model.test)


@pytest.mark.parametrize("part", ["test_forget", "test_retain"])
def test_without_a_forgotten_class_the_test_split_is_whole(part):
    with pytest.raises(ValueError, match="no whole class was forgotten"):
        getattr(evidence(), part)


def test_evidence_refuses_sets_with_different_classes():
    with pytest.raises(ValueError, match="expected as many classes in every set"):
        evidence(test=drawn(10, classes=4))


def test_evidence_refuses_a_class_that_does_not_exist():
    with pytest.raises(ValueError, match=r"expected forgotten classes from 0 to 2, got \[3\]"):
        replace(evidence(), forget_classes=(3,))


def test_evidence_refuses_a_retain_set_that_still_has_the_forgotten_class():
    with pytest.raises(ValueError, match=r"expected no image of the forgotten classes \(0,\) in retain, got 1"):
        evidence(retain=drawn(3, labels=[0, 1, 2]), forget_classes=(0,))


def test_a_metric_is_computed_once(monkeypatch):
    calls = []

    def counted(*features):
        calls.append(features)
        return torch.tensor([1.0, -1.0])

    monkeypatch.setattr("evaluation.membership.member_scores", counted)
    model = evidence()
    assert model.metric("mia") == model.metric("mia_confidence") == model.metric("MIA") == 50.0
    assert len(calls) == 1


def test_a_metric_that_needs_an_ideal_says_so():
    with pytest.raises(ValueError, match=r"avg_gap needs an ideal model. Call evaluate\(model=..., ideal=...\)"):
        evidence().metric("avg_gap")


def test_an_unknown_metric_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown metric 'forget_los'\. Did you mean 'forget_loss'"):
        evidence().metric("forget_los")


# Loss, probability, score

FORGET = outputs([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], [0, 1])
RETAIN = outputs([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.4, 0.5, 0.1], [0.3, 0.4, 0.3]], [1, 2, 1, 2])
TEST = outputs([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.4, 0.4]], [0, 1, 1, 2])
BY_HAND = {
    "forget_loss": (math.log(2) + math.log(5)) / 2,
    "retain_loss": -(2 * math.log(0.8) + math.log(0.5) + math.log(0.3)) / 4,
    "forget_probability": 0.35,
    "forget_score": 50.0,
    "retain_score": 75.0,
    "test_loss": -(math.log(0.9) + math.log(0.4) + math.log(0.8) + math.log(0.4)) / 4,
    "test_score": 50.0,
}
WHOLE_CLASS_BY_HAND = {
    "test_forget_loss": -math.log(0.9),
    "test_forget_probability": 0.9,
    "test_forget_score": 100.0,
    "test_retain_loss": -(math.log(0.4) + math.log(0.8) + math.log(0.4)) / 3,
    "test_retain_score": 100 / 3,
}


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_metrics_by_hand(name, expected):
    assert evidence(forget=FORGET, retain=RETAIN, test=TEST).metric(name) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), WHOLE_CLASS_BY_HAND.items())
def test_whole_class_metrics_by_hand(name, expected):
    forget = FORGET.subset(FORGET.labels == 0)
    model = evidence(forget=forget, retain=RETAIN, test=TEST, forget_classes=(0,))
    assert model.metric(name) == pytest.approx(expected, abs=1e-12)


def test_cross_entropy_is_the_log_loss_of_scikit_learn():
    some = drawn(50, classes=5)
    expected = log_loss(some.labels.numpy(), some.probabilities.numpy(), labels=range(5))
    assert mean(cross_entropy(some.logits, some.labels)) == pytest.approx(expected, rel=1e-12)


def test_the_mean_is_over_samples_not_batches():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
    images, labels = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    whole = outputs_of(model, [(images, labels)])
    batched = outputs_of(model, zip(images.split(5), labels.split(5), strict=True))
    assert mean(batched.losses) == pytest.approx(mean(whole.losses), rel=1e-6)
    by_batches = (mean(whole.losses[:5]) + mean(whole.losses[5:])) / 2
    assert mean(batched.losses) != pytest.approx(by_batches, rel=1e-3)


def test_the_mean_is_summed_in_float64():
    assert mean(torch.full((3,), 0.1)) == pytest.approx(float(torch.tensor(0.1)), rel=1e-15)
    assert mean(torch.tensor([1e8] + [1.0] * 999)) == pytest.approx((1e8 + 999) / 1000, rel=1e-15)


def test_the_mean_of_no_image_is_an_error():
    with pytest.raises(ValueError, match="expected at least 1 image, got 0"):
        mean(torch.zeros(0))


@UNTIMED
@given(st.lists(st.booleans(), min_size=1))
def test_scores_are_percentages(correct):
    assert percent(torch.tensor(correct)) == pytest.approx(100 * sum(correct) / len(correct))
    assert 0 <= percent(torch.tensor(correct)) <= 100


# Entropies


def test_entropy_by_hand():
    got = entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]).log())
    expected = [0.0, math.log(2), -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_modified_entropy_by_hand():
    got = modified_entropy(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log(), torch.tensor([1]))
    assert got.item() == pytest.approx(-0.8 * math.log(0.2) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9), rel=1e-12)


def test_modified_entropy_is_finite_where_a_probability_is_zero_or_one():
    certain = torch.tensor([[1.0, 0.0, 0.0]]).log().repeat(2, 1)
    got = modified_entropy(certain, torch.tensor([0, 1]))
    assert got[0] == 0.0
    assert got[1].item() == pytest.approx(-2 * math.log(1e-30))


def test_modified_entropy_keeps_its_digits_where_a_probability_rounds_to_one():
    # p = (1 - e^-50, e^-50): log(1 - p_0) = -50, which 1 - p in float64 has lost.
    got = modified_entropy(torch.tensor([[50.0, 0.0]]), torch.tensor([1]))
    assert got.item() == pytest.approx(100.0, rel=1e-12)


@UNTIMED
@given(logits_and_labels)
def test_modified_entropy_is_its_definition_image_by_image(case):
    logits, labels = torch.tensor(case[0]), torch.tensor(case[1])
    expected = []
    for row, y in zip(case[0], case[1], strict=True):
        top = max(row)
        weights = [math.exp(z - top) for z in row]
        p = [w / sum(weights) for w in weights]
        rest = [math.fsum(w for k, w in enumerate(weights) if k != j) / sum(weights) for j in range(4)]

        def log(q):
            return math.log(max(q, 1e-30))

        expected.append(-rest[y] * log(p[y]) - sum(p[j] * log(rest[j]) for j in range(4) if j != y))
    torch.testing.assert_close(modified_entropy(logits, labels), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9)


@UNTIMED
@given(logits_and_labels, st.randoms(use_true_random=False))
def test_modified_entropy_depends_on_the_image_alone(case, random):
    logits, labels = torch.tensor(case[0]), torch.tensor(case[1])
    together = modified_entropy(logits, labels)
    alone = torch.cat([modified_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(modified_entropy(logits[order], labels[order]), together[order], atol=1e-12, rtol=1e-12)
    assert bool((together >= 0).all() and together.isfinite().all())


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
    attack = LogisticRegression(class_weight="balanced").fit(features, [True] * len(members) + [False] * len(non_members))
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


def test_mia_lr_reads_the_entropy_of_all_retain_and_all_test_images():
    model = by_class()
    sets = [-(o.probabilities * o.probabilities.log()).sum(1).numpy() for o in (model.retain, model.test, model.forget)]
    assert model.metric("mia_lr") == pytest.approx(reference_member_share(*sets))


def test_mia_lr_counts_members_and_the_svc_family_non_members():
    sure = drawn(40, sharpness=30.0, seed=1)
    unsure = Outputs(torch.tensor([[1.0, 0.0, 0.0]] * 40), torch.tensor([1, 2] * 20))
    remembers, forgot = (evidence(forget=forget, retain=sure, test=unsure) for forget in (sure, unsure))
    assert (remembers.metric("mia_lr"), remembers.metric("mia_entropy")) == (100.0, 0.0)
    assert (forgot.metric("mia_lr"), forgot.metric("mia_entropy")) == (0.0, 100.0)


@pytest.mark.parametrize(("members", "non_members", "target"), [(9, 10, 1), (10, 9, 1), (10, 10, 0)])
def test_sets_too_small_for_the_regression_say_the_minimum(members, non_members, target):
    with pytest.raises(ValueError, match=f"expected at least {MINIMUM} members .* got {members}, {non_members} and {target}"):
        member_share(torch.zeros(members), torch.zeros(non_members), torch.zeros(target))


@pytest.mark.parametrize("name", SVC_FAMILY)
def test_each_attack_tells_members_from_non_members(name):
    sure = drawn(40, sharpness=30.0, seed=1)
    unsure = Outputs(torch.tensor([[1.0, 0.0, 0.0]] * 40), torch.tensor([1, 2] * 20))
    assert evidence(forget=sure, retain=sure, test=unsure).metric(name) == 0.0
    assert evidence(forget=unsure, retain=sure, test=unsure).metric(name) == 100.0


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
    model = evidence()
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
    rows = [set(map(tuple, evidence(seed=seed).members.logits.tolist())) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert len(rows[0]) == 120
    assert rows[0] < set(map(tuple, evidence().retain.logits.tolist()))
    assert evidence(seed=3).metric("mia") == evidence(seed=3).metric("mia")


def test_a_small_retain_set_is_taken_whole():
    retain = drawn(50, sharpness=4.0)
    assert sorted(evidence(retain=retain).members.logits.tolist()) == sorted(retain.logits.tolist())


def test_the_forgotten_class_is_no_non_member():
    model = by_class()
    assert model.non_members is model.test_retain
    assert len(model.non_members) == 80
    assert len(model.members) == min(len(model.test), len(model.retain))


def test_all_test_images_are_non_members_where_no_whole_class_went():
    model = evidence()
    assert model.non_members is model.test


def test_test_images_of_the_forgotten_class_do_not_change_the_attack():
    model = by_class()
    other = replace(model, test=Outputs(model.test.logits.where(model.test.labels[:, None] > 0, 9.0), model.test.labels))
    assert model.metric("mia") == other.metric("mia")
    assert model.metric("test_forget_loss") != other.metric("test_forget_loss")


@pytest.mark.parametrize(("members", "non_members", "target"), [(9, 10, 1), (10, 9, 1), (0, 10, 1), (10, 0, 1), (10, 10, 0)])
def test_sets_too_small_for_the_attack_say_the_minimum(members, non_members, target):
    wanted = f"expected at least {MINIMUM} members .* got {members}, {non_members} and {target}"
    with pytest.raises(ValueError, match=wanted):
        non_member_share(torch.zeros(members), torch.zeros(non_members), torch.zeros(target))


def test_a_test_split_of_the_forgotten_class_alone_leaves_no_non_member():
    model = replace(by_class(), test=drawn(20, labels=[0] * 20))
    with pytest.raises(ValueError, match="got 20, 0 and 30"):
        model.metric("mia")


# The loss threshold


def test_auc_by_hand():
    # pairs (forget, test): 1 < 2, 1 < 4, 3 > 2, 3 < 4, 4 > 2, 4 = 4 -> 3 and a half of 6
    assert auc(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([2.0, 4.0])) == pytest.approx(3.5 / 6)


@UNTIMED
@given(losses, losses)
def test_auc_is_that_of_scikit_learn_and_the_complement_when_swapped(forget, test):
    members = [1] * len(forget) + [0] * len(test)
    assert auc(forget, test) == pytest.approx(roc_auc_score(members, -torch.cat([forget, test]).numpy()), abs=1e-12)
    assert auc(forget, test) + auc(test, forget) == pytest.approx(1, abs=1e-12)


@UNTIMED
@given(losses)
def test_auc_of_identical_sets_is_one_half(some):
    assert auc(some, some) == pytest.approx(0.5, abs=1e-12)


def test_auc_of_exchangeable_sets_is_one_half_on_average():
    """Over all ways to divide the same losses it is exactly that: a division and the opposite one come to 1."""
    losses = torch.tensor([0.1, 0.4, 0.4, 1.5, 2.0, 7.0])
    divisions = list(itertools.combinations(range(6), 3))
    values = [auc(losses[list(chosen)], losses[[i for i in range(6) if i not in chosen]]) for chosen in divisions]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=1e-12)


def test_auc_is_high_where_forget_still_has_the_smaller_loss():
    model = evidence(forget=drawn(40, sharpness=50.0), test=drawn(120, sharpness=-50.0))
    assert model.metric("mia_auc") == 1.0
    assert model.metric("mia_tpr_at_1_fpr") == 1.0


def test_an_infinite_loss_ranks_last():
    assert auc(torch.tensor([math.inf]), torch.tensor([1.0, math.inf])) == pytest.approx(0.25)


def test_tpr_at_1_fpr_by_hand():
    # of 200 test losses 0, 1, ..., 199 two may be called member: the threshold is 2
    assert tpr_at_1_fpr(torch.tensor([0.0, 1.5, 2.0, 50.0]), torch.arange(200.0)) == 0.5


@UNTIMED
@given(st.integers(0, 10**6), st.integers(100, 450))
def test_tpr_at_1_fpr_is_that_of_scikit_learns_curve(seed, n):
    rng = np.random.default_rng(seed)
    forget, test = rng.integers(0, 300, 60) / 7, rng.integers(0, 300, n) / 5
    fpr, tpr, _ = roc_curve([1] * 60 + [0] * n, -np.concatenate([forget, test]), drop_intermediate=False)
    assert tpr_at_1_fpr(torch.tensor(forget), torch.tensor(test)) == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)


def test_thresholds_on_too_few_images_say_the_minimum():
    with pytest.raises(ValueError, match="expected at least 1 forget and 1 test image, got 0 and 3"):
        auc(torch.zeros(0), torch.zeros(3))
    with pytest.raises(ValueError, match="expected at least 1 forget and 100 test images, got 5 and 99"):
        tpr_at_1_fpr(torch.zeros(5), torch.zeros(99))


# Against the ideal


def known(monkeypatch_values, **changes):
    """Evidence whose metrics have been computed already, with these values."""
    model = evidence(**changes)
    model._values.update({METRICS[name].function: value for name, value in monkeypatch_values.items()})
    return model


def test_avg_gap_by_hand():
    model = known({"forget_score": 10.0, "retain_score": 98.0, "test_score": 90.0, "mia": 80.0})
    ideal = known({"forget_score": 4.0, "retain_score": 99.0, "test_score": 93.0, "mia": 82.0})
    assert ua_ra_ta_mia(model) == (90.0, 98.0, 90.0, 80.0)
    assert METRICS["avg_gap"](model, ideal) == pytest.approx((6 + 1 + 3 + 2) / 4)
    assert METRICS["rUA"](model, ideal) == 6.0


def test_avg_gap_takes_the_test_score_of_the_other_classes_where_a_whole_class_went():
    model = by_class()
    assert ua_ra_ta_mia(model)[2] == model.metric("test_retain_score") != model.metric("test_score")


BEST = {"avg_gap": 0.0, "rUA": 0.0, "tow": 1.0, "fidelity": 100.0, "js_divergence": 0.0, "activation_distance": 0.0, "zrf": 1.0}


@pytest.mark.parametrize("make", [evidence, by_class])
def test_a_model_compared_with_itself_has_the_best_values(make):
    values, _ = evaluate(model=make(), ideal=make(), incompetent=make(), names=list(BEST))
    assert values == BEST


def test_tow_by_hand():
    model = known({"forget_score": 10.0, "retain_score": 98.0, "test_score": 90.0})
    ideal = known({"forget_score": 30.0, "retain_score": 99.0, "test_score": 80.0})
    assert METRICS["tow"](model, ideal) == pytest.approx(0.8 * 0.99 * 0.9)


def test_tow_takes_the_test_score_of_the_other_classes_where_a_whole_class_went():
    model, ideal = by_class(), replace(by_class(), test=drawn(120, sharpness=4.0, labels=[0, 1, 2] * 40, seed=9))
    ours, ideals = model.metric("test_retain_score"), ideal.metric("test_retain_score")
    assert METRICS["tow"](model, ideal) == pytest.approx(1 - abs(ours - ideals) / 100) != 1


@UNTIMED
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1))
def test_the_mean_gap_is_symmetric_and_no_larger_than_the_largest(pairs):
    ours, ideals = zip(*pairs, strict=True)
    assert mean_gap(ours, ideals) == pytest.approx(np.abs(np.subtract(ours, ideals)).mean())
    assert mean_gap(ours, ideals) == mean_gap(ideals, ours)


def test_the_mean_gap_needs_as_many_ideals():
    with pytest.raises(ValueError, match="expected as many ideal values as values, at least 1, got 1 and 2"):
        mean_gap([1.0, 2.0], [1.0])


def test_the_ideal_of_another_request_is_refused():
    _, reasons = evaluate(model=by_class(), ideal=replace(by_class(), forget_classes=()), names=["avg_gap", "tow"])
    assert all("Train the ideal model for the same forget request" in reasons[name] for name in ("avg_gap", "tow"))


# evaluate


@pytest.mark.parametrize("make", [evidence, by_class])
@pytest.mark.parametrize("with_ideal", [False, True])
def test_every_metric_has_a_value_or_a_reason(make, with_ideal):
    values, reasons = evaluate(model=make(), initial=make(), incompetent=make(), **({"ideal": make()} if with_ideal else {}))
    assert values.keys() | reasons.keys() == EVERY_METRIC
    assert not values.keys() & reasons.keys()
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    expected = {} if make is by_class else dict.fromkeys(WHOLE_CLASS, "no whole class was forgotten")
    expected |= dict.fromkeys(OF_THE_MODEL_ITSELF, "needs the model itself, not its outputs alone. Give the evidence its subject")
    expected |= dict.fromkeys(SECONDS, "needs the seconds that the models took to make")
    if not with_ideal:
        expected |= dict.fromkeys([*AGAINST_THE_IDEAL, "probe_gap", "anamnesis_index"], "needs an ideal model")
        expected |= dict.fromkeys(["ideal_seconds", "speedup"], "needs the seconds that the models took to make and an ideal model")
    assert reasons == expected


def test_percentages_and_fractions_stay_in_their_range():
    values, _ = evaluate(model=by_class())
    for name, value in values.items():
        highest = {"percent": 100, "fraction": 1, "nats": math.inf}[METRICS[name].facts.unit]
        assert 0 <= value <= highest


def test_chosen_names_in_any_case_and_once_each():
    values, reasons = evaluate(model=evidence(), names=["RUA", "Forget_Score", "forget_score"])
    assert list(values) == ["forget_score"]
    assert reasons == {"rUA": "needs an ideal model"}


def test_an_unknown_name_is_an_error_before_anything_is_computed():
    with pytest.raises(ValueError, match=r"unknown metric 'test_scor'\. Did you mean 'test_score'"):
        evaluate(model=evidence(), names=["mia", "test_scor"])


def test_without_a_model_everything_is_missing():
    assert evaluate(names=["mia"]) == ({}, {"mia": "needs a model to evaluate"})
    assert evaluate(names=["rUA"])[1] == {"rUA": "needs a model to evaluate and an ideal model"}


def test_sets_that_are_too_small_are_a_reason():
    values, reasons = evaluate(model=evidence(test=drawn(9)), names=["mia", "mia_tpr_at_1_fpr", "test_score"])
    assert list(values) == ["test_score"]
    assert "at least 10 members" in reasons["mia"] and "100 test images" in reasons["mia_tpr_at_1_fpr"]


def test_progress_sees_every_metric():
    seen = []

    def watched(metrics):
        for metric in metrics:
            seen.append(metric.name)
            yield metric

    evaluate(model=evidence(), names=["test_loss", "test_score"], progress=watched)
    assert seen == ["test_loss", "test_score"]


def test_a_users_own_metric_from_a_file_and_nan_is_a_reason(tmp_path):
    (tmp_path / "mine.py").write_text("def mia(model):\n    return 0.25\n\ndef broken(model):\n    return float('nan')\n")
    names = [f"{tmp_path}/mine.py:mia", f"{tmp_path}/mine.py:broken"]
    model = evidence()
    assert evaluate(model=model, names=names) == ({"mia": 0.25}, {"broken": "the result is not a number"})
    assert model.metric("mia") == model.metric("mia_confidence")


def test_evidence_of_other_images_is_refused():
    other = evidence(forget=drawn(40, seed=99))
    with pytest.raises(ValueError, match="expected the same forget images for model and ideal, got other labels"):
        evaluate(model=evidence(), ideal=other)


def test_another_batching_gives_the_same_values():
    torch.manual_seed(0)
    model, images = nn.Linear(6, 3), torch.randn(400, 6)
    labels = images[:, :3].argmax(1)

    def seen(size):
        parts = {"forget": slice(0, 50), "retain": slice(50, 250), "test": slice(250, 400)}
        sets = {n: outputs_of(model, zip(images[s].split(size), labels[s].split(size), strict=True)) for n, s in parts.items()}
        return evaluate(model=evidence(**sets))[0]

    first, second = seen(400), seen(7)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_margin_is_the_log_odds_of_the_true_class():
    some = drawn(50, sharpness=3.0)
    p = some.true_probabilities
    torch.testing.assert_close(some.margins, torch.log(p / (1 - p)))


def test_margin_keeps_its_digits_where_the_probability_rounds_to_1_and_may_be_infinite():
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, -math.inf, 0.0], [0.0, -math.inf, -math.inf]])
    assert Outputs(logits, torch.tensor([0, 1, 0])).margins.tolist() == [100.0 - math.log(2), -math.inf, math.inf]
