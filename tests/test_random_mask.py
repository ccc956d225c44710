"""random_mask: exactly so many weights, drawn equally often, whatever is asked."""

import math
from dataclasses import replace

import pytest
import torch

from lethe.unlearn import ForgetData, unlearn
from tests.bars import CLASS_1, SEVEN_IMAGES, SIZE, fixture_model, fixture_splits, fixture_trained  # noqa: F401 (fixtures)


@pytest.mark.parametrize(("kappa", "count"), [(1, 1), (0.25, 30), ("50%", 60), ("100%", SIZE), (SIZE, SIZE)])
def test_random_mask_switches_exactly_kappa_weights_off(kappa, count, model, splits):
    result = unlearn("random_mask", model, ForgetData.of(splits, CLASS_1), kappa=kappa)
    assert (model[5].weight != 0).all()
    assert (result.model[5].weight == 0).sum() == count == result.mask.kappa_count
    assert result.mask.layer == "5"


def test_random_mask_draws_every_weight_equally_often(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    seeds, share = 200, 0.25
    off = sum(
        (~unlearn("random_mask", model, replace(data, seed=seed), kappa=share).mask.keep).double()
        for seed in range(seeds)
    )
    variance = seeds * share * (1 - share)
    assert (off - seeds * share).abs().max() < 4.5 * math.sqrt(variance)
    chi_square = ((off - seeds * share).square() / variance).sum().item()
    assert abs(chi_square - (SIZE - 1)) < 5 * math.sqrt(
        2 * (SIZE - 1)
    )  # neither too uneven nor too even to be drawn


def test_random_mask_does_not_look_at_the_request(model, splits):
    masks = [
        unlearn("random_mask", model, ForgetData.of(splits, request)).mask.keep
        for request in (CLASS_1, SEVEN_IMAGES)
    ]
    assert torch.equal(*masks)


def test_random_mask_takes_another_layer_by_name_or_index(model, splits):
    data = ForgetData.of(splits, CLASS_1)
    assert unlearn("random_mask", model, data, mask_layer="1").mask.layer == "1"  # a name where it is one
    assert unlearn("random_mask", model, data, mask_layer="-1").mask.layer == "7"
    with pytest.raises(ValueError, match="--mask_layer: expected a linear layer, got '2', a BatchNorm1d"):
        unlearn("random_mask", model, data, mask_layer="2")
