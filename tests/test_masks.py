"""Masks applied and lifted, and weights switched off."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lethe.models import Mask, apply_mask, lift_mask, switched_off
from tests.hypothesis_settings import FEW
from tests.layered_models import images, sequential
from tests.seeded import states_equal


def drawn(seed, layer="3", shape=(5, 6), share=0.5):
    return Mask(layer, torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share)


def by_hand(model, *masks):
    """The output of sequential() with its layer "3" computed as (W * M_1 * ... * M_k) h + b."""
    weight = model[3].weight.detach().clone()
    for mask in masks:
        weight = weight * mask.keep.float()
    return model[4:](F.linear(model[:3](images()), weight, model[3].bias))


@pytest.mark.parametrize("bias", [False, True])
def test_a_masked_model_computes_with_w_times_m(bias):
    model = sequential(bias=bias)
    expected = by_hand(model, drawn(1))
    apply_mask(model, drawn(1))
    assert torch.equal(model(images()), expected)


def test_several_masks_multiply():
    model = sequential()
    expected = by_hand(model, drawn(1), drawn(2, share=0.8))
    apply_mask(model, drawn(1))
    apply_mask(model, drawn(2, share=0.8))
    assert torch.equal(model(images()), expected)


def test_a_mask_switches_off_a_weight_that_is_not_finite():
    model = sequential()
    with torch.no_grad():
        model[3].weight[0, 0] = float("inf")
    keep = torch.ones(5, 6, dtype=torch.bool)
    keep[0, 0] = False
    apply_mask(model, Mask("3", keep))
    assert model(images()).isfinite().all()


@FEW
@given(st.permutations(range(10)), st.permutations(range(10)), st.booleans())
def test_masks_lifted_in_any_order_give_the_model_back_bit_for_bit(applied, lifted, bias):
    model, masks = sequential(bias=bias), [drawn(seed, share=0.9) for seed in range(10)]
    before = copy.deepcopy(model.state_dict())
    for i in applied:
        apply_mask(model, masks[i])
    for i in lifted:
        lift_mask(model, masks[i])
    assert states_equal(model.state_dict(), before)


@FEW
@given(st.permutations(range(4)), st.integers(0, 3))
def test_after_some_are_lifted_the_others_still_act(order, count):
    model, masks = sequential(), [drawn(seed, share=0.8) for seed in range(4)]
    expected = by_hand(model, *(masks[i] for i in order[count:]))
    for mask in masks:
        apply_mask(model, mask)
    for i in order[:count]:
        lift_mask(model, masks[i])
    assert torch.equal(model(images()), expected)


def test_special_values_come_back_bit_for_bit():
    model = sequential()
    with torch.no_grad():
        model[3].weight[0] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3e38])
    before = model[3].weight.detach().clone().view(torch.int32)
    apply_mask(model, drawn(1, share=0.0))
    lift_mask(model, drawn(1, share=0.0))
    assert torch.equal(model[3].weight.detach().view(torch.int32), before)


def test_the_parameter_object_comes_back():
    model = sequential()
    weight = model[3].weight
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert model[3].weight is weight


def test_the_layer_is_a_plain_linear_layer_again():
    model = sequential()
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert type(model[3]) is nn.Linear and dict(model[3].named_children()) == {}


def test_the_parameters_keep_their_order():
    model = sequential(bias=True)
    before = list(dict(model.named_parameters()))
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert list(dict(model.named_parameters())) == before


def test_applying_the_same_mask_twice_takes_two_lifts():
    model = sequential()
    expected = by_hand(model, drawn(1))
    apply_mask(model, drawn(1))
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    assert torch.equal(model(images()), expected)


def test_a_mask_that_was_never_applied_cannot_be_lifted():
    with pytest.raises(ValueError, match="expected a mask that was put on layer '3' by apply_mask"):
        lift_mask(sequential(), drawn(1))


def test_another_mask_than_the_applied_one_cannot_be_lifted():
    model = sequential()
    apply_mask(model, drawn(1))
    with pytest.raises(ValueError, match="expected a mask that was put on layer '3' by apply_mask"):
        lift_mask(model, drawn(2))


def test_a_mask_cannot_be_lifted_twice():
    model = sequential()
    apply_mask(model, drawn(1))
    lift_mask(model, drawn(1))
    with pytest.raises(ValueError, match="expected a mask that was put on"):
        lift_mask(model, drawn(1))


@pytest.mark.parametrize("act", [apply_mask, lift_mask, switched_off])
@pytest.mark.parametrize("layer", ["9", "2", ""])
def test_a_mask_for_a_layer_that_is_not_there_is_refused(act, layer):
    with pytest.raises(ValueError, match=f"expected a model with a linear layer '{layer}', got one without"):
        act(sequential(), drawn(1, layer=layer))


@pytest.mark.parametrize("act", [apply_mask, lift_mask, switched_off])
def test_a_mask_of_another_shape_is_refused(act):
    with pytest.raises(ValueError, match=r"expected a mask of shape \(5, 6\) for layer '3', got \(6, 5\)"):
        act(sequential(), drawn(1, shape=(6, 5)))


def test_a_refused_mask_leaves_the_model_alone():
    model = sequential()
    with pytest.raises(ValueError, match="expected a mask of shape"):
        apply_mask(model, drawn(1, shape=(6, 5)))
    assert type(model[3]) is nn.Linear


@pytest.mark.parametrize(
    "keep", [torch.ones(5, 6), torch.ones(5, 6, dtype=torch.int64), torch.ones(30, dtype=torch.bool)]
)
def test_a_mask_is_a_matrix_of_bools(keep):
    with pytest.raises(ValueError, match=r"mask: expected a bool tensor \(m, n\), got"):
        Mask("3", keep)


def test_kappa_count_is_the_number_of_weights_switched_off():
    assert Mask("3", torch.tensor([[True, False, False], [True, True, False]])).kappa_count == 3


def test_a_change_of_the_mask_after_it_was_applied_does_not_reach_the_model():
    model, keep = sequential(), torch.ones(5, 6, dtype=torch.bool)
    expected = model(images())
    apply_mask(model, Mask("3", keep))
    keep[:] = False
    assert torch.equal(model(images()), expected)


def test_a_masked_model_can_be_copied():
    model = sequential()
    apply_mask(model, drawn(1))
    twin = copy.deepcopy(model)
    lift_mask(twin, drawn(1))
    assert torch.equal(model(images()), by_hand(twin, drawn(1)))


def test_a_weight_that_is_switched_off_has_no_gradient():
    model = sequential()
    apply_mask(model, drawn(1))
    model(images()).sum().backward()
    gradient = model[3].parametrizations.weight.original.grad
    assert (gradient[~drawn(1).keep] == 0).all() and (gradient[drawn(1).keep] != 0).any()


def test_switched_off_writes_zeros_there_alone():
    model, keep = sequential(bias=True), drawn(1).keep
    before = copy.deepcopy(model.state_dict())
    switched_off(model, drawn(1))
    expected = before | {"3.weight": before["3.weight"] * keep}
    assert states_equal(model.state_dict(), expected) and not torch.equal(
        before["3.weight"], expected["3.weight"]
    )


def test_a_model_switched_off_computes_as_one_masked():
    masked, written = sequential(), sequential()
    apply_mask(masked, drawn(1))
    switched_off(written, drawn(1))
    assert torch.equal(masked(images()), written(images()))


def test_switching_off_under_another_mask_is_for_good():
    model = sequential()
    apply_mask(model, drawn(1))
    switched_off(model, drawn(2))
    lift_mask(model, drawn(1))
    assert (model[3].weight[~drawn(2).keep] == 0).all()
