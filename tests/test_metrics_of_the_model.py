"""Metrics that ask the model itself, or the clock: weights by hand, what is left beside the functions that
measure it.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lethe.data import ImageSet
from lethe.evaluation import (
    OF_MANY,
    ModelOutputs,
    Outputs,
    Times,
    chosen,
    evaluate,
    is_undecided,
    needs_of,
    outputs_of,
    penultimate_features,
    probe_score,
    relearn_steps,
)
from lethe.evaluation.weights import changed_share, weight_distance
from lethe.experiment import measure as measurement
from lethe.experiment.measure import measure, model_outputs
from lethe.unlearn import ForgetData

ALL = chosen(["all"])
COSTLY = ["probe_score", "probe_gap", "relearn_steps", "relearn_censored", "anamnesis_index"]


def linear(weight, bias=(0.0, 0.0)):
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


# Weights


def test_the_distance_of_weights_by_hand():
    one, other = linear([[1.0, 2.0], [3.0, 4.0]]), linear([[1.0, 2.0], [3.0, 1.0]], (4.0, 0.0))
    assert weight_distance(one, other) == 5.0
    assert changed_share(one, other) == pytest.approx(2 / 6)


def test_it_is_the_norm_of_the_flat_parameters():
    torch.manual_seed(0)
    one, other = (
        nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
    )
    flat = [nn.utils.parameters_to_vector(model.parameters()).detach() for model in (one, other)]
    assert weight_distance(one, other) == pytest.approx(float(torch.dist(*flat)), rel=1e-6)
    assert weight_distance(one, other) == weight_distance(other, one)


def test_the_same_model_has_distance_0_and_nothing_changed():
    model = linear([[1.0, 2.0], [3.0, 4.0]])
    assert (weight_distance(model, model), changed_share(model, model)) == (0.0, 0.0)


def test_running_means_are_no_parameters():
    one, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean += 1
    assert weight_distance(one, other) == 0.0


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (nn.Linear(3, 2), "other shapes or none of weight"),
        (nn.Sequential(nn.Linear(2, 2)), "other shapes or none of 0.bias, 0.weight, bias, ..."),
    ],
)
def test_a_model_with_other_parameters_is_refused(other, says):
    reason = f"expected a model with the initial model's parameters, got {says}. Compare models of one"
    with pytest.raises(ValueError, match=reason):
        weight_distance(linear([[1.0, 2.0], [3.0, 4.0]]), other)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="got a model without parameters"):
        changed_share(nn.Flatten(), nn.Flatten())


# Seconds


def seconds(unlearn, ideal):
    some = Outputs(torch.zeros(1, 2), torch.tensor([0]))
    return evaluate(
        names=["unlearn_seconds", "ideal_seconds", "speedup"],
        times=Times(unlearn, ideal),
        ideal=ModelOutputs(some, some, some, None, (), seed=1),
    )


def test_the_speedup_is_the_ratio_of_the_seconds():
    assert seconds(4.0, 10.0) == ({"unlearn_seconds": 4.0, "ideal_seconds": 10.0, "speedup": 2.5}, {})


def test_an_ideal_model_that_does_not_know_its_seconds_is_a_reason():
    values, reasons = seconds(4.0, None)
    assert values == {"unlearn_seconds": 4.0}
    assert {why.reason for why in reasons.values()} == {
        "expected an ideal model with the duration of its training, got one without. Train it anew"
    }


def test_a_method_that_took_no_time_has_no_speedup():
    values, reasons = seconds(0.0, 10.0)
    assert "speedup" not in values
    assert reasons["speedup"].reason.startswith("expected unlearn_seconds above 0, got 0.0")


# What is left


@pytest.fixture(scope="module")
def world():
    """Three clouds, of which class 0 goes; a model that knows all of them, one that never saw class 0."""
    torch.manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randn(240, 6) + 2.5 * nn.functional.one_hot(labels, 6)
    data = ForgetData.of_tensors(images[:180], labels[:180], labels[:180] == 0)
    test = ImageSet.of_tensors(images[180:], labels[180:])
    return data, test, trained(data.train), trained(data.retain)


def trained(images):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images.images), images.labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def measured(world):
    data, test, initial, ideal = world
    return measure(
        ideal, {"initial": initial, "ideal": ideal}, data, test, metrics=ALL, times=Times(1.0, 3.0)
    )


def test_every_metric_is_measured_but_what_nobody_gave(measured):
    of_audits = {metric.name for metric in ALL if not OF_MANY.isdisjoint(needs_of(metric.function))}
    of_thirds = {metric.name for metric in ALL if needs_of(metric.function) == ("model", "memorisation")}
    of_base_models = {f"{model}_{name}" for name in of_thirds for model in ("initial", "ideal")}
    decided = {name for name in measured.undefined if not is_undecided(name, measured.undefined)}
    assert decided == of_audits | of_thirds | of_base_models | {
        "mia_tpr_at_1_fpr",
        "initial_mia_tpr_at_1_fpr",
        "ideal_mia_tpr_at_1_fpr",
        "zrf",
        "initial_zrf",
        "ideal_zrf",
    }
    assert "100 test images" in measured.undefined["mia_tpr_at_1_fpr"].reason
    assert measured.undefined["zrf"].reason.startswith("needs an incompetent teacher")


def test_a_model_compared_with_itself_has_the_best_values(measured):
    assert {name: measured.model[name] for name in ("probe_gap", "anamnesis_index", "rUA", "tow")} == {
        "probe_gap": 0.0,
        "anamnesis_index": 1.0,
        "rUA": 0.0,
        "tow": 1.0,
    }
    assert (
        measured.initial["weight_distance"]
        == measured.initial["weights_changed"]
        == measured.initial["relearn_steps"]
        == 0
    )


def test_the_probe_is_that_of_the_features(world, measured):
    data, _, initial, _ = world
    forget, retain = (penultimate_features(initial, images) for images in (data.forget, data.retain))
    assert measured.initial["probe_score"] == probe_score(
        forget, data.forget.labels, retain, data.retain.labels, seed=data.seed
    )


def test_the_steps_are_those_of_relearning(world, measured):
    data, _, _, ideal = world
    again = relearn_steps(ideal, data.forget, measured.initial["forget_score"], seed=data.seed)
    assert again.steps > 0
    assert (measured.ideal["relearn_steps"], measured.ideal["relearn_censored"]) == (
        again.steps,
        again.censored,
    )
    assert measured.model["anamnesis_index"] == pytest.approx(1)


def test_a_model_is_relearned_once(world, monkeypatch):
    data, test, initial, ideal = world
    calls = []
    monkeypatch.setattr(
        "lethe.evaluation.internal_knowledge.relearn_steps",
        lambda *args, **options: calls.append(1) or relearn_steps(*args, **options),
    )
    measure(ideal, {"initial": initial, "ideal": ideal}, data, test, metrics=chosen(COSTLY))
    assert len(calls) == 3  # of the unlearned, the initial and the ideal model


def test_an_initial_model_that_knows_nothing_is_a_reason(world):
    data, test, _, ideal = world
    wrong = nn.Linear(6, 3)
    nn.init.zeros_(wrong.weight)
    nn.init.constant_(wrong.bias, 0.0)
    wrong.bias.data[1] = 1.0
    measured = measure(ideal, {"initial": wrong}, data, test, metrics=chosen(["relearn_steps"]))
    assert measured.undefined["relearn_steps"].reason.startswith(
        "expected the initial model's forget_score in percent, above 0"
    )


def test_the_forward_pass_keeps_the_features(world):
    """No pass of their own; of a model without such a layer, a reason."""
    data, test, initial, _ = world
    passes = []
    handle = initial.register_forward_hook(lambda *_: passes.append(1))
    outputs = model_outputs(initial, data, test, features=True)
    seen = len(passes)
    outputs.metric("probe_score")
    handle.remove()

    assert (seen, len(passes)) == (4, 4)  # two images to find the layer, then forget, retain and test
    torch.testing.assert_close(outputs.forget.features, penultimate_features(initial, data.forget))
    assert outputs.test.features is None


def test_a_pass_over_many_images_shows_its_progress(world, monkeypatch):
    data, test, initial, _ = world
    monkeypatch.setattr(measurement, "forward_batch", lambda _: 7)
    bars = {}

    def watched(steps, label):
        bars[label] = len(steps)
        return steps

    whole = model_outputs(initial, replace(data, progress=watched), test, name="initial model")

    sets = {"forget": data.forget, "retain": data.retain, "test": test}
    assert bars == {
        f"initial model, {name} images": math.ceil(len(images) / 7) for name, images in sets.items()
    }
    assert [len(whole.sets[name]) for name in sets] == [len(images) for images in sets.values()]


def test_a_model_without_a_linear_layer_is_a_reason(world):
    data, test, _, _ = world
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6), nn.Flatten())
    measured = measure(model, {"initial": model}, data, test, metrics=chosen(["probe_score", "forget_score"]))
    assert measured.undefined["probe_score"].reason.startswith(
        "expected a model whose last linear layer sees one vector an image"
    )
    assert math.isfinite(measured.model["forget_score"])


def test_a_layer_that_is_watched_is_let_go_of():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    batches = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))] * 2
    outputs = outputs_of(model, batches, model[1])
    assert outputs.features.shape == (8, 3) and not outputs.features.is_inference()
    assert not model[1]._forward_pre_hooks
    assert outputs.subset(torch.tensor([0, 7])).features.shape == (2, 3)
