"""The metrics that are registered, what they are computed from, and which have a value or a reason."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest
import torch
from torch import nn

from lethe.evaluation import METRICS, Attack, MetricFacts, Missing, Outputs, evaluate, needs_of, outputs_of
from lethe.evaluation.impl import Better, Unit
from tests.drawn_outputs import SVC_FAMILY, by_class, drawn, model_outputs

THE_FIVE = {"forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score"}
WHOLE_CLASS = {f"test_{name}" for name in THE_FIVE}
AGAINST_THE_IDEAL = {
    "avg_gap",
    "avg_gap_without_mia",
    "rUA",
    "tow",
    "fidelity",
    "js_divergence",
    "activation_distance",
}
OTHER_NEEDS = {"rf_js_divergence": "initial", "zrf": "incompetent"}
COSTLY = {"probe_score", "probe_gap", "relearn_steps", "relearn_censored", "anamnesis_index"}
SECONDS = {"unlearn_seconds", "ideal_seconds", "speedup"}
OF_THE_MODEL_ITSELF = {*COSTLY, "weight_distance", "weights_changed"}
THIRDS = ("low", "middle", "high")
OF_THIRDS = {f"{name}_memorised_{third}" for name in ("forget_score", "mia") for third in THIRDS}
NEEDS = {
    **dict.fromkeys(OF_THIRDS, ("model", "memorisation")),
    **dict.fromkeys({*AGAINST_THE_IDEAL, "probe_gap"}, ("model", "ideal")),
    **dict.fromkeys(
        ("rf_js_divergence", "weight_distance", "weights_changed", "relearn_steps", "relearn_censored"),
        ("model", "initial"),
    ),
    **dict.fromkeys(("ideal_seconds", "speedup"), ("times", "ideal")),
    "unlearn_seconds": ("times",),
    "anamnesis_index": ("model", "ideal", "initial"),
    "zrf": ("model", "incompetent"),
}
MIA = {"mia", *SVC_FAMILY, "mia_lr", "mia_auc", "mia_tpr_at_1_fpr"}
OF_MANY = {
    **dict.fromkeys(
        [
            "klom_forget_p95",
            "klom_retain_p95",
            "klom_validation_p95",
            "forgetting_quality",
            "forgetting_score",
        ],
        ("models", "oracles"),
    ),
    **dict.fromkeys(["ulira_accuracy", "ulira_auc", "ulira_tpr_at_1_fpr"], ("shadows",)),
    **dict.fromkeys([f"ulira_auc_memorised_{third}" for third in THIRDS], ("shadows", "memorisation")),
}
EVERY_METRIC = (
    THE_FIVE | WHOLE_CLASS | {"test_loss", "test_score"} | MIA | AGAINST_THE_IDEAL | set(OTHER_NEEDS)
)
EVERY_METRIC |= SECONDS | OF_THE_MODEL_ITSELF | OF_THIRDS


# Registration


def test_all_metrics_are_registered_by_importing_the_package():
    assert set(METRICS.names) == EVERY_METRIC | set(OF_MANY)


@pytest.mark.parametrize("metric", list(METRICS), ids=lambda metric: metric.name)
def test_each_registration_is_complete(metric):
    assert metric.facts.unit in set(get_args(Unit)) - {""}
    assert metric.facts.better in set(get_args(Better)) - {""}
    assert metric.summary.endswith(".") or ":" in metric.summary
    assert needs_of(metric.function) == (NEEDS | OF_MANY).get(metric.name, ("model",))
    assert metric.facts.costly == (metric.name in COSTLY | OF_THIRDS)
    assert metric.facts.whole_class == (metric.name in WHOLE_CLASS)


def test_units_are_those_of_the_definitions():
    units = {name: METRICS[name].facts.unit for name in EVERY_METRIC | set(OF_MANY)}
    nats = {name for name in units if name.endswith(("_loss", "js_divergence")) or name.startswith("klom")}
    assert {name for name, unit in units.items() if unit == "nats"} == nats
    assert {name for name, unit in units.items() if unit == "points"} == {
        "avg_gap",
        "avg_gap_without_mia",
        "rUA",
        "probe_gap",
    }
    assert {name for name, unit in units.items() if unit == "distance"} == {
        "activation_distance",
        "weight_distance",
    }
    assert {name for name, unit in units.items() if unit == "seconds"} == {"unlearn_seconds", "ideal_seconds"}
    assert {name for name, unit in units.items() if unit == "ratio"} == {"speedup", "anamnesis_index"}
    assert {name for name, unit in units.items() if unit == "steps"} == {"relearn_steps"}
    fractions = {"forget_probability", "test_forget_probability", "mia_auc", "mia_tpr_at_1_fpr", "tow", "zrf"}
    fractions |= {"weights_changed", "relearn_censored"} | set(OF_MANY) - nats
    assert {name for name, unit in units.items() if unit == "fraction"} == fractions


def test_facts_are_frozen():
    with pytest.raises(FrozenInstanceError):
        MetricFacts().unit = "nats"  # type: ignore[misc]


@pytest.mark.slow
def test_importing_the_package_does_not_load_scikit_learn():
    code = """
import lethe.evaluation, sys
print([m for m in ('sklearn', 'scipy', 'mlflow') if m in sys.modules])
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# Outputs


FLAT, THREE = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
NOT_FINITE = "got NaN or infinity for {} of 2 images"


def beginning_with(value: float) -> torch.Tensor:
    return torch.tensor([[0.0, value], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), THREE, r"expected logits \(N, C\) with C >= 2, got shape \(3,\)"),
        (torch.zeros(3, 1), THREE, r"C >= 2, got shape \(3, 1\)"),
        (FLAT.long(), THREE, "expected floating-point logits, got torch.int64"),
        (FLAT, THREE[:2], r"labels of shape \(3,\), got torch.int64 of shape \(2,\)"),
        (FLAT, torch.zeros(3), "expected int64 labels of shape .* got torch.float32"),
        (FLAT, torch.tensor([0, 1, 2]), "expected labels from 0 to 1, got 0 to 2"),
        (FLAT, torch.tensor([0, 1, -1]), "expected labels from 0 to 1, got -1 to 1"),
        (beginning_with(math.nan), torch.tensor([0, 1]), NOT_FINITE.format(1)),
        (beginning_with(math.inf), torch.tensor([0, 1]), NOT_FINITE.format(1)),
        (torch.full((2, 2), -math.inf), torch.tensor([0, 1]), NOT_FINITE.format(2)),
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


@pytest.mark.parametrize(
    "mask", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones(4, 1, dtype=torch.bool)]
)
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


# ModelOutputs


def test_the_test_split_is_divided_by_the_forgotten_classes():
    model = by_class()
    assert set(model.test_forget.labels.tolist()) == {0}
    assert set(model.test_retain.labels.tolist()) == {1, 2}
    assert len(model.test_forget) + len(model.test_retain) == len(model.test)


@pytest.mark.parametrize("part", ["test_forget", "test_retain"])
def test_without_a_forgotten_class_the_test_split_is_whole(part):
    with pytest.raises(ValueError, match="no whole class was forgotten"):
        getattr(model_outputs(), part)


def test_evidence_refuses_sets_with_different_classes():
    with pytest.raises(ValueError, match="expected as many classes in every set"):
        model_outputs(test=drawn(10, classes=4))


def test_evidence_refuses_a_class_that_does_not_exist():
    with pytest.raises(ValueError, match=r"expected forgotten classes from 0 to 2, got \[3\]"):
        replace(model_outputs(), forget_classes=(3,))


def test_evidence_refuses_a_retain_set_that_still_has_the_forgotten_class():
    reason = r"expected no image of the forgotten classes \(0,\) in retain, got 1"
    with pytest.raises(ValueError, match=reason):
        model_outputs(retain=drawn(3, labels=[0, 1, 2]), forget_classes=(0,))


def test_a_metric_is_computed_once(monkeypatch):
    calls = []

    def counted(*asked):
        calls.append(asked)
        return Attack(torch.tensor([1.0, -1.0]), 50.0, 50.0)

    monkeypatch.setattr("lethe.evaluation.membership._attack", counted)
    model = model_outputs()
    assert model.metric("mia") == model.metric("mia_confidence") == model.metric("MIA") == 50.0
    assert len(calls) == 1


def test_a_metric_that_needs_an_ideal_says_so():
    reason = r"avg_gap needs an ideal model. Call evaluate\(model=..., ideal=...\)"
    with pytest.raises(ValueError, match=reason):
        model_outputs().metric("avg_gap")


def test_an_unknown_metric_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown metric 'forget_los'\. Did you mean 'forget_loss'"):
        model_outputs().metric("forget_los")


# evaluate


@pytest.mark.parametrize("make", [model_outputs, by_class])
@pytest.mark.parametrize("with_ideal", [False, True])
def test_every_metric_has_a_value_or_a_reason(make, with_ideal):
    values, reasons = evaluate(
        model=make(), initial=make(), incompetent=make(), **({"ideal": make()} if with_ideal else {})
    )
    assert values.keys() | reasons.keys() == EVERY_METRIC
    assert not values.keys() & reasons.keys()
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    expected = {} if make is by_class else dict.fromkeys(WHOLE_CLASS, "no whole class was forgotten")
    expected |= dict.fromkeys(
        OF_THE_MODEL_ITSELF, "needs the model itself, not its outputs alone. Give ModelOutputs its subject"
    )
    expected |= dict.fromkeys(SECONDS, "needs the seconds that the models took to make")
    expected |= dict.fromkeys(OF_THIRDS, "needs the memorisation of the forget images")
    if not with_ideal:
        expected |= dict.fromkeys(
            [*AGAINST_THE_IDEAL, "probe_gap", "anamnesis_index"], "needs an ideal model"
        )
        expected |= dict.fromkeys(
            ["ideal_seconds", "speedup"], "needs the seconds that the models took to make and an ideal model"
        )
    assert {name: why.reason for name, why in reasons.items()} == expected


def test_percentages_and_fractions_stay_in_their_range():
    values, _ = evaluate(model=by_class())
    for name, value in values.items():
        highest = {"percent": 100, "fraction": 1, "nats": math.inf}[METRICS[name].facts.unit]
        assert 0 <= value <= highest


def test_chosen_names_in_any_case_and_once_each():
    values, reasons = evaluate(model=model_outputs(), names=["RUA", "Forget_Score", "forget_score"])
    assert list(values) == ["forget_score"]
    assert reasons == {"rUA": Missing("needs an ideal model")}


def test_an_unknown_name_is_an_error_before_anything_is_computed():
    with pytest.raises(ValueError, match=r"unknown metric 'test_scor'\. Did you mean 'test_score'"):
        evaluate(model=model_outputs(), names=["mia", "test_scor"])


def test_without_a_model_everything_is_missing():
    assert evaluate(names=["mia"]) == ({}, {"mia": Missing("needs a model to evaluate")})
    assert evaluate(names=["rUA"])[1] == {"rUA": Missing("needs a model to evaluate and an ideal model")}


def test_sets_that_are_too_small_are_a_reason():
    values, reasons = evaluate(
        model=model_outputs(test=drawn(9)), names=["mia", "mia_tpr_at_1_fpr", "test_score"]
    )
    assert list(values) == ["test_score"]
    assert (
        "at least 10 members" in reasons["mia"].reason
        and "100 test images" in reasons["mia_tpr_at_1_fpr"].reason
    )


def test_progress_sees_every_metric():
    seen = []

    def watched(metrics):
        for metric in metrics:
            seen.append(metric.name)
            yield metric

    evaluate(model=model_outputs(), names=["test_loss", "test_score"], progress=watched)
    assert seen == ["test_loss", "test_score"]


def test_a_users_own_metric_from_a_file_and_nan_is_a_reason(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def mia(model):\n    return 0.25\n\ndef broken(model):\n    return float('nan')\n"
    )
    names = [f"{tmp_path}/mine.py:mia", f"{tmp_path}/mine.py:broken"]
    model = model_outputs()
    assert evaluate(model=model, names=names) == (
        {"mia": 0.25},
        {"broken": Missing("the result is not a number")},
    )
    assert model.metric("mia") == model.metric("mia_confidence")


def test_outputs_on_other_images_are_refused():
    other = model_outputs(forget=drawn(40, seed=99))
    reason = "expected the same forget images for model and ideal, got other labels"
    with pytest.raises(ValueError, match=reason):
        evaluate(model=model_outputs(), ideal=other)


def test_another_batching_gives_the_same_values():
    torch.manual_seed(0)
    model, images = nn.Linear(6, 3), torch.randn(400, 6)
    labels = images[:, :3].argmax(1)

    def seen(size):
        parts = {"forget": slice(0, 50), "retain": slice(50, 250), "test": slice(250, 400)}
        sets = {
            n: outputs_of(model, zip(images[s].split(size), labels[s].split(size), strict=True))
            for n, s in parts.items()
        }
        return evaluate(model=model_outputs(**sets))[0]

    first, second = seen(400), seen(7)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
