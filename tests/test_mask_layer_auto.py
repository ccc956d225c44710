"""--mask_layer auto: the layer in which the class is separable, on models made by hand."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import lethe
import mlflow_forget
from lethe.data import ForgetRequest
from lethe.unlearn import ForgetData, resolved, unlearn
from lethe.unlearn.mimu.kappa import ALIKE, Rung
from lethe.unlearn.mimu.mask_layer import best_of
from tests.mimu_on_digits import bits, fixture_initial, fixture_model  # noqa: F401 (fixtures)

CLASSES = 6
AUTO = {"mask_layer": "auto"}
MASKS = [("logit_attribution", {}), ("MIMU", {"topk": 2})]


class ByClass(nn.Module):
    """`apart` tells the classes apart; `together` sees their number (1 to 6) alone, twice."""

    mask_layer = "together"

    def __init__(self):
        super().__init__()
        self.apart = nn.Linear(CLASSES, CLASSES, bias=False)
        self.together = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.apart.weight.copy_(torch.eye(CLASSES))
            self.together.weight.copy_(torch.eye(2))
        self.register_buffer("numbers", torch.arange(1.0, CLASSES + 1))

    def forward(self, x):
        number = (self.apart(x).relu() * self.numbers).sum(-1, keepdim=True)
        number = self.together(number.expand(-1, 2)).mean(-1, keepdim=True)
        return number * self.numbers - self.numbers.square() / 2  # largest for the class of this number


def one_after_the_other(own):
    """Each of both layers has one weight that makes a class. `own` is the architecture's choice."""
    model = nn.Sequential(
        nn.Linear(CLASSES, CLASSES, bias=False), nn.ReLU(), nn.Linear(CLASSES, CLASSES, bias=False)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.eye(CLASSES))
    model.mask_layer = own
    return model


def asking_for(*classes):
    labels = torch.arange(CLASSES).repeat(20)
    forgotten = torch.isin(labels, torch.tensor(classes))
    return ForgetData.of_tensors(torch.eye(CLASSES)[labels], labels, forgotten)


@pytest.mark.parametrize("kappa", ["auto", 1])
@pytest.mark.parametrize(("method", "settings"), MASKS)
def test_the_layer_in_which_the_class_is_separable_is_masked(method, settings, kappa):
    """The other layer's masks make all classes one, or none go."""
    result = unlearn(method, ByClass(), asking_for(3), kappa=kappa, **AUTO, **settings)
    assert result.mask.layer == "apart"
    assert (~result.mask.keep).nonzero().tolist() == [[3, 3]]
    assert result.facts["layer_scores"].endswith(
        "; apart: 1 of 36 weights, forget score 0.00 %, retain drop 0.00"
    )
    assert result.facts["judged_retain_drop"] == 0


def test_several_classes():
    result = unlearn("logit_attribution", ByClass(), asking_for(2, 3), kappa=2, **AUTO)
    assert (~result.mask.keep).nonzero().tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize(("own", "layer"), [("0", "0"), ("-1", "2")])
def test_the_architectures_choice_is_masked_where_both_layers_are_alike(own, layer):
    result = unlearn("logit_attribution", one_after_the_other(own), asking_for(3), kappa="auto", **AUTO)
    assert result.mask.layer == layer


def rung(excess, drop):
    return Rung(1, excess, excess, 0.0, drop, torch.zeros(1))


@pytest.mark.parametrize(
    ("rungs", "best"),
    [
        ([rung(0, 0.0), rung(0, -0.1)], 1),
        ([rung(0, 0.0), rung(0, -0.4 * ALIKE)], 0),  # alike: the architecture's choice
        ([rung(5, 0.0), rung(0, 0.1)], 1),  # the first one does not forget
        (
            [rung(0, 0.3), rung(0.2, -3.0), rung(0, 0.2)],
            2,
        ),  # one that meets its targets, whatever others cost
        ([rung(9, 1.0), rung(0, 5.0), rung(3, 1.0)], 2),  # none does: the cheapest
    ],
)
def test_masks_that_meet_their_targets_come_first_then_the_cheapest(rungs, best):
    assert best_of(rungs) == best


@pytest.mark.parametrize(("method", "settings"), [("logit_attribution", {}), ("MIMU", {"kappa": "auto"})])
def test_the_same_bits_again_and_as_with_the_layers_own_name(method, settings, model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    first = unlearn(method, model, data, **AUTO, **settings)
    again = unlearn(method, copy.deepcopy(model), replace(data, cache={}), **AUTO, **settings)
    assert bits(first.model) == bits(again.model)
    named = unlearn(method, model, data, mask_layer=first.mask.layer, **settings)
    assert bits(first.model) == bits(named.model)


def test_a_layer_that_lacks_the_amount_is_no_candidate():
    result = unlearn("logit_attribution", ByClass(), asking_for(3), kappa=5, **AUTO)
    assert result.mask.layer == "apart"  # `together` has four weights
    assert result.facts["layer_scores"].startswith("apart: 5 of 36")


def test_a_layer_that_cant_be_masked_is_no_candidate():
    model = one_after_the_other("-1")
    model[2] = nn.utils.parametrizations.weight_norm(model[2])
    assert unlearn("logit_attribution", model, asking_for(3), **AUTO).mask.layer == "0"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kappa": 37}, r"together \(--kappa: .*got 37.*\); apart \(--kappa: .*1 to 36.*got 37.*\)"),
        ({"kappa": "some"}, r"together .*; apart \(--kappa: .*, or auto, got some"),
    ],
)
def test_where_no_layer_qualifies_each_reason_is_given_before_anything_is_done(settings, says):
    expected = "--mask_layer: expected a model with a linear layer that can be masked, got one without: "
    with pytest.raises(ValueError, match=expected + says):
        resolved("logit_attribution", ByClass(), asking_for(3), AUTO | settings)


def test_a_model_without_a_linear_layer_is_refused():
    model = nn.Sequential(nn.Unflatten(1, (CLASSES, 1)), nn.Conv1d(CLASSES, CLASSES, 1), nn.Flatten())
    with pytest.raises(ValueError, match="got one without: it has no linear layer"):
        unlearn("logit_attribution", model, asking_for(3), **AUTO)


def test_amounts_wait_for_the_layer(model, digits):
    data = ForgetData.of(digits, ForgetRequest((3,)))
    assert resolved("MIMU", model, data, AUTO | {"kappa": 0.1}) == {}
    assert resolved("MIMU", model, data, {"kappa": 0.1}) == {"topk_count": 50, "kappa_count": 64}


def test_what_a_given_number_of_weights_misses_is_a_warning():
    with pytest.warns(UserWarning, match="missed its targets"):
        result = lethe.forget(ByClass(), asking_for(3), "logit_attribution", kappa=36, **AUTO)
    assert result.over_kappa is None


@pytest.fixture(name="swept", scope="module")
def fixture_swept(tmp_path_factory):
    """A sweep over kappa: the raw metrics of its runs, and the folder."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("swept")
        patched.chdir(folder)
        job = "--dataset digits --epochs 1 --ideal skip --metrics default --report skip --class_to_replace 3"
        code = mlflow_forget.main(
            [*job.split(), *"--unlearn logit_attribution --mask_layer auto --kappa 0.1 0.2".split()]
        )
    assert code == 0
    return [json.loads(path.read_text()) for path in folder.glob("eval/**/logit*.json")], folder


def test_a_run_records_the_layer_that_it_chose_and_the_scores_of_all(swept):
    runs, _ = swept
    for run in runs:
        layer = run["params"]["masked_layer"]
        assert layer in ("linear1", "linear2", "linear3")
        assert run["params"]["mask_layer"] == "auto"
        assert [said.split(":")[0] for said in run["facts"]["layer_scores"].split("; ")] == [
            *("linear2", "linear1", "linear3")
        ]
        assert f"{layer}: {run['params']['kappa_count']} of " in run["facts"]["layer_scores"]


def test_a_curve_over_kappa_is_of_one_layer(swept):
    runs, folder = swept
    drawn = [*folder.glob("**/forget_and_retain_over_kappa.svg")]
    assert len(drawn) == (len({run["params"]["masked_layer"] for run in runs}) == 1)
