"""--kappa auto: the ladder, the judge and the choice, on a toy whose right mask is known by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import lethe
from lethe.data import ForgetRequest, ImageSet
from lethe.models import split_at
from lethe.unlearn import METHODS, ForgetData, resolved, unlearn
from lethe.unlearn.mimu.inputs import LayerInputs, RequestInputs, inputs_of, inputs_of_request
from lethe.unlearn.mimu.kappa import (
    MOST_ROUNDS,
    Choice,
    Judge,
    Rung,
    cheapest,
    climbed,
    ladder,
    refined_where_needed,
)
from lethe.unlearn.mimu.network import NetworkTraining, is_default, learned_network
from lethe.unlearn.mimu.objective import Objective
from lethe.unlearn.mimu.ranking import every_class
from tests.mimu_on_digits import bits, fixture_initial, fixture_model, forget, forget_class  # noqa: F401 (fixtures)
from tests.mimu_settings import CHEAP, LAYER

CLASSES = 10


@pytest.fixture(name="identity")
def fixture_identity():
    """z = h, logits = z: the weight on the diagonal of row c alone makes class c."""
    model = nn.Sequential(
        nn.Linear(CLASSES, CLASSES, bias=False), nn.ReLU(), nn.Linear(CLASSES, CLASSES, bias=False)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.eye(CLASSES))
    return split_at(model, "-2", torch.zeros(2, CLASSES))


def one_hot(*labels):
    return LayerInputs(torch.eye(CLASSES)[list(labels)], torch.tensor(labels))


NONE = LayerInputs(torch.empty(0, CLASSES), torch.empty(0, dtype=torch.int64))


def order(*first):
    """Scores that switch off these diagonal weights first, then the others in the layer."""
    scores = -torch.arange(CLASSES * CLASSES, dtype=torch.float32)
    for place, label in enumerate(first):
        scores[label * CLASSES + label] = 1000.0 - place
    return scores


def test_the_mask_of_the_one_right_weight_is_chosen(identity):
    """Weight (3, 3) makes class 3; the next ones of the order cost others."""
    inputs = RequestInputs(
        one_hot(3, 3), NONE, one_hot(*[c for c in range(10) if c != 3]), one_hot(*range(10))
    )
    judge = Judge(identity, inputs, (3,))
    choice = climbed(judge, order(3, 4, 5, 6))
    assert choice.best.kappa == 1
    # A class without logits is predicted as the first, 0: 3, 4, ... are wrong without their weights.
    first, second = choice.over_kappa.points[0], choice.over_kappa.points[1]
    assert first == (1, 0.0, 100.0)
    assert second == (2, 0.0, pytest.approx(100 * 8 / 9))
    assert choice.best.meets_targets
    assert choice.misses == ""


def test_a_larger_mask_is_chosen_where_the_first_weights_do_nothing(identity):
    useless = order()
    useless[1:5] = 900.0  # off the diagonal of row 0
    useless[33] = 800.0
    inputs = RequestInputs(one_hot(3), NONE, one_hot(0, 1, 2, 4), NONE)
    choice = climbed(Judge(identity, inputs, (3,)), useless)
    assert (
        choice.best.kappa == 5
    )  # the fifth largest is weight (3, 3); a ladder of 100 weights has 1, 2, 3, 5
    assert [point[1] for point in choice.over_kappa.points[:4]] == [100.0, 100.0, 100.0, 0.0]


def test_the_worse_of_training_and_validation_images_counts(identity):
    unseen = LayerInputs(
        torch.eye(CLASSES)[[3, 4]] + 2 * torch.eye(CLASSES)[[4, 4]] * 0, torch.tensor([3, 4])
    )
    inputs = RequestInputs(one_hot(3), NONE, one_hot(0, 1), unseen)
    (rung,) = Judge(identity, inputs, (3,)).rungs(order(3, 4), [2])
    assert (
        rung.retain_drop == 100.0
    )  # class 4 is lost on validation images; 0 and 1 are kept on training ones
    assert rung.forget_score == 0.0


def test_weights_that_must_stay_are_not_switched_off(identity):
    scores = order(3).masked_fill(order(3) < 1000.0, -torch.inf)
    inputs = RequestInputs(one_hot(3), NONE, one_hot(0, 1, 4), NONE)
    rungs = Judge(identity, inputs, (3,)).rungs(scores, [1, 30])
    assert [(rung.forget_score, rung.retain_drop) for rung in rungs] == [(0.0, 0.0)] * 2


def test_forgotten_images_of_a_class_that_stays_aim_at_the_score_of_unseen_ones(identity):
    wrong = LayerInputs(torch.eye(CLASSES)[[3, 5]], torch.tensor([3, 3]))  # one of two unseen threes is known
    inputs = RequestInputs(NONE, one_hot(3, 3), one_hot(3, 0, 1), wrong)
    judge = Judge(identity, inputs, ())
    untouched, gone = judge.rungs(order(0, 3), [1, 2])
    assert untouched.excess == 50.0  # 100 %, and the unseen ones 50 %
    assert gone.excess == 0.0
    assert gone.forget_score == 0.0


def rung(kappa, excess, drop):
    return Rung(kappa, excess, excess, 0.0, drop, torch.zeros(1))


@pytest.mark.parametrize(
    ("rungs", "kappa"),
    [
        ([rung(1, 50, 0), rung(2, 1, 0.0), rung(3, 0, 0.2)], 3),  # 1 percent more forgotten for 0.2 points
        ([rung(1, 50, 0), rung(2, 1, 0.0), rung(3, 0, 0.6)], 2),
        ([rung(1, 0, 0.04), rung(2, 0, 0.0)], 1),  # as good: the smaller
        ([rung(1, 0, 0.2), rung(2, 0, -0.1)], 2),
    ],
)
def test_the_cheapest_mask_is_chosen_and_among_equals_the_smallest(rungs, kappa):
    assert cheapest(rungs).kappa == kappa
    assert cheapest(rungs[::-1]).kappa == kappa


@pytest.mark.parametrize("size", [1, 2, 100, 8192])
def test_a_ladder_ascends_and_fits_the_layer(size):
    kappas = ladder(size)
    assert kappas == sorted(set(kappas))
    assert kappas[0] >= 1 and kappas[-1] <= size


def test_some_inputs_are_spread_over_the_set():
    found = LayerInputs(torch.arange(10.0)[:, None], torch.arange(10))
    assert found.some(4).labels.tolist() == [0, 2, 5, 7]
    assert found.some(10) is found


class FakeJudge:
    """Judges by a given list of costs, one a round."""

    def __init__(self, drops):
        self.drops, self.layer, self.asked = iter(drops), nn.Linear(10, 10), []
        self.layer.size, self.is_blind = 100, False

    def rungs(self, scores, kappas):
        self.asked += kappas
        return [rung(kappa, 0.0, next(self.drops)) for kappa in kappas]


@pytest.mark.parametrize(
    ("before", "after", "rounds", "best"),
    [
        (0.0, [], 0, 0.0),  # meets its targets: nothing is refined
        (3.0, [2.0, 0.0, -1.0], 2, 0.0),  # ends as soon as they are met
        (3.0, [2.0, 5.0, 4.0], MOST_ROUNDS, 2.0),  # a worse round is not taken
    ],
)
def test_refinement_is_done_where_it_is_needed_and_only_gains_are_kept(before, after, rounds, best):
    judge, seen = FakeJudge(after), []

    def refine(scores, kappa, number):
        seen.append((kappa, number))
        return scores

    choice = refined_where_needed(Choice(rung(2, 0.0, before), [], judge), refine)
    assert seen == [(5, number) for number in range(rounds)]  # at least 5 % of the layer
    assert (choice.rounds, choice.best.retain_drop) == (rounds, best)


def test_what_is_missed_is_said():
    judge = FakeJudge([])
    assert Choice(rung(2, 3.0, 1.5), [], judge).misses == (
        "missed its targets on training or validation images: 3.00 % of the images to forget are still "
        "predicted right, 3.00 points above the target, and the other images lost 1.50 points"
    )
    assert Choice(rung(2, 0.1, 0.3), [], judge).misses == ""


def test_the_rest_of_a_class_that_stays_is_judged_by_itself(identity):
    """A mask that loses class 3 costs the two retained threes everything, all the retained a tenth."""
    retain = one_hot(*[label for label in range(10) if label != 3] * 2, 3, 3)
    inputs = RequestInputs(NONE, one_hot(3, 3), retain, NONE)
    (lost,) = Judge(identity, inputs, ()).rungs(order(3), [1])
    assert (lost.forget_score, lost.retain_drop) == (0.0, 100.0)
    whole = replace(inputs, gone=inputs.images, images=NONE, retain=retain.without_classes((3,)))
    assert Judge(identity, whole, (3,)).rungs(order(3), [1])[0].retain_drop == 0.0


def test_single_images_without_validation_images_of_each_class_are_compared_with_none(identity):
    inputs = RequestInputs(NONE, one_hot(3, 4), one_hot(3, 4, 0), one_hot(3))  # none of class 4
    choice = climbed(Judge(identity, inputs, ()), order(3))
    assert len(inputs.by_kind()["unseen"]) == 0
    assert choice.misses.endswith("so that nothing tells whether they are forgotten")


def test_the_facts_are_of_the_mask_that_is_applied_also_after_refinement_by_hand(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    result = unlearn("MIMU", model, data, gcn_steps=2, refine_steps=3)
    judge = Judge(layer, inputs_of_request(model, layer, data), (3,))
    masked = judge.rungs(-result.mask.keep.flatten().float(), [result.mask.kappa_count])[0]
    assert result.facts["judged_forget_score"] == masked.forget_score
    assert result.over_kappa.chosen == masked.point


def test_few_retained_images_among_many_are_judged_by(model, digits, monkeypatch):
    monkeypatch.setattr("lethe.unlearn.mimu.inputs.MOST_IMAGES", 20)
    kept = torch.zeros(len(digits.train), dtype=torch.bool)
    kept[-1] = True
    nothing = digits.validation.subset(torch.zeros(len(digits.validation), dtype=torch.bool))
    data = ForgetData(digits.train.subset(~kept), digits.train.subset(kept), nothing, 10)
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    assert len(inputs_of_request(model, layer, data).retain) == 1


def test_one_image_a_class_is_drawn_at_least(model, digits, monkeypatch):
    monkeypatch.setattr("lethe.unlearn.mimu.inputs.MOST_IMAGES", 5)  # fewer than classes
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    inputs = inputs_of_request(model, layer, ForgetData.of(digits, ForgetRequest((3,))))
    assert (len(inputs.gone), len(inputs.retain)) == (1, 9)


def test_what_is_missed_is_a_warning_in_python(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    with pytest.warns(UserWarning, match="MIMU: missed its targets"):
        result = lethe.forget(model, data, "MIMU", ranking="set_difference")
    assert result.misses.startswith("missed its targets")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_is_judged(dtype, model, digits):
    images = ((digits.train.images[:300] / 16).to(dtype), digits.train.labels[:300])
    data = ForgetData.of_dataset(images, forget=images[1] == 3)
    result = unlearn("MIMU", copy.deepcopy(model).to(dtype), data)
    assert result.mask.kappa_count >= 1
    assert result.facts["judged_forget_score"] < 100


def test_a_layer_of_one_weight_has_one_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    data = ForgetData.of_tensors(torch.rand(8, 1), torch.arange(8) % 2, torch.arange(8) % 2 == 0)
    assert unlearn("MIMU", model, data, topk=1, gcn_steps=2).mask.kappa_count == 1


def test_validation_images_of_the_forgotten_class_are_judged(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    inputs = inputs_of_request(model, layer, data)
    assert 3 not in data.validation.classes
    assert inputs.unseen.labels.tolist() == digits.validation.labels.tolist()
    assert inputs.gone.labels.unique().tolist() == [3]
    assert len(inputs.gone) + len(inputs.retain) == len(digits.train)


def test_some_images_of_a_class_are_taken_whole_and_not_retained(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,), number=20))
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    inputs = inputs_of_request(model, layer, data)
    assert (len(inputs.gone), len(inputs.images)) == (0, 20)
    assert len(inputs.retain) == len(digits.train) - 20


def test_few_images_are_drawn_alike_from_every_class(model, digits, monkeypatch):
    monkeypatch.setattr("lethe.unlearn.mimu.inputs.MOST_IMAGES", 50)
    data = ForgetData.of(digits, ForgetRequest((3,)))
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    inputs = inputs_of_request(model, layer, data)
    assert inputs.gone.labels.tolist() == [3] * 5
    assert inputs.retain.labels.bincount(minlength=10).tolist() == [5, 5, 5, 0, 5, 5, 5, 5, 5, 5]


def test_auto_is_the_default_and_the_network_serves_every_kappa_of_the_ladder(model, digits):
    assert METHODS["MIMU"].hyperparameters["kappa"].default == "auto"
    cache = {}
    first = forget_class(model, digits, 1, cache, kappa="auto")
    assert len(cache) == 2  # the network, and the layer's inputs
    second = forget_class(model, digits, 3, cache, kappa="auto")
    assert len(cache) == 2
    assert second.facts["network_cached"] == 1
    assert torch.equal(second.mask.keep, forget_class(model, digits, 3, {}, kappa="auto").mask.keep)
    assert [kappa for kappa, *_ in first.over_kappa.points] == ladder(640)


def test_an_explicit_kappa_looks_at_no_validation_image(model, digits):
    given = forget_class(model, digits, 3, {}, kappa=60)
    nothing = digits.validation.subset(torch.zeros(len(digits.validation), dtype=torch.bool))
    data = ForgetData.of(digits, ForgetRequest((3,)))
    blind = ForgetData(data.forget, data.retain, nothing, 10, whole=digits.train)
    assert bits(unlearn("MIMU", model, blind, **CHEAP | {"kappa": 60}).model) == bits(given.model)
    assert given.over_kappa is None


def test_own_tensors_without_validation_images_are_judged_on_training_images(model, digits):
    train = digits.train.subset(torch.arange(300))
    data = ForgetData(
        train.of_classes(3), train.without_classes(3), ImageSet.subset(train, torch.zeros(300).bool()), 10
    )
    result = unlearn("MIMU", model, data, kappa="auto", gcn_steps=2, topk=40)
    assert result.mask.kappa_count >= 1


@pytest.mark.parametrize("method", ["MIMU", "logit_attribution"])
def test_auto_counts_no_weights_before_it_has_looked(method, model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    assert "kappa_count" not in resolved(method, model, data, {"kappa": "auto"})
    with pytest.raises(ValueError, match=r"--kappa: expected a count .*, or auto, got automatic"):
        resolved(method, model, data, {"kappa": "automatic"})


def test_attribution_chooses_by_the_same_ladder(model, digits):
    result = unlearn("logit_attribution", model, ForgetData.of(digits, ForgetRequest((3,))), kappa="auto")
    assert result.mask.kappa_count in ladder(640)
    assert result.facts["refine_rounds"] == 0


@pytest.mark.parametrize("request_", [ForgetRequest((3, 5)), ForgetRequest((3,), number=20)])
def test_several_classes_and_single_images_are_judged_too(request_, model, digits):
    result = forget(model, digits, request_, {}, kappa="auto")
    assert result.mask.kappa_count >= 1
    assert set(result.facts) >= {"judged_forget_score", "judged_retain_drop", "refine_rounds"}


def test_the_network_that_comes_with_lethe_is_for_the_defaults_of_every_flag(model, digits):
    defaults = {name: flag.default for name, flag in METHODS["MIMU"].hyperparameters.items()}
    names = NetworkTraining.__dataclass_fields__
    training = NetworkTraining(**{name: defaults[name] for name in names})
    objective = Objective(
        **{name: defaults[name] for name in Objective.__dataclass_fields__ if name != "kappa"}, kappa=7
    )
    assert is_default(objective, training)
    assert not is_default(objective, replace(training, gcn_steps=5))
    assert not is_default(replace(objective, rho=0.2), training)


def test_nothing_is_trained_with_the_defaults_and_a_network_of_its_own_by_other_flags(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    assert unlearn("MIMU", model, data).history == []
    assert len(unlearn("MIMU", model, data, gcn_steps=2).history) == 2
    assert unlearn("MIMU", model, data, kappa=60).history == []
    assert len(unlearn("MIMU", model, data, kappa=60, gcn_steps=2).history) == 2


def test_the_network_that_comes_with_lethe_knows_a_class_of_a_model_that_it_never_saw(model, digits):
    """A tenth of the layer, without any refinement, on test images."""
    layer = split_at(model, LAYER, torch.zeros(2, 1, 8, 8))
    network = learned_network(model, layer, ForgetData.of(digits, ForgetRequest((3,))))
    scores = every_class(torch.stack([network.by_class[label] for label in range(10)]))
    test = inputs_of(layer, digits.test, torch.device("cpu"))
    known = []
    for label in range(10):
        parts = RequestInputs(
            test.of_classes((label,)),
            test.of_classes(()),
            test.without_classes((label,)),
            test.of_classes(()),
        )
        known += Judge(layer, parts, (label,)).rungs(scores[label], [64])
    assert sum(rung.forget_score for rung in known) / 10 < 10
    assert sum(rung.retain_drop for rung in known) / 10 < 6
