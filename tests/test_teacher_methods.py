"""What the methods share that learn from a teacher, from noise, or from what lies across a boundary."""

import pytest
import torch
from torch import nn

from lethe.unlearn import unlearn
from lethe.unlearn.forget_and_retain import with_share_of_retain
from tests.columns import classifier, data_of, fixture_model, fixture_trained_on, images_of  # noqa: F401 (fixtures)

METHODS_HERE = ["bad_teacher", "UNSIR", "boundary_shrink", "boundary_expanding", "LoTUS"]


def cut_to_whole_class(name):
    return data_of(1) if name == "UNSIR" else data_of(part=[0, 5, 6, 11])


def rate_of(name):
    return "impair_lr" if name == "UNSIR" else "unlearn_lr"


@pytest.mark.parametrize("name", METHODS_HERE)
def test_divergence_is_an_error(name, model):
    setting = {} if name == "UNSIR" else {"unlearn_epochs": 6}
    rate = rate_of(name)
    with pytest.raises(FloatingPointError, match=f"{name} diverged in epoch .*Choose a smaller --{rate}"):
        unlearn(name, model, cut_to_whole_class(name), **{rate: 1e37}, **setting)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        *((name, {rate_of(name): 0.0}, f"--{rate_of(name)}: expected a number > 0") for name in METHODS_HERE),
        ("UNSIR", {"repair_lr": 0.0}, "--repair_lr: expected a number > 0"),
        ("UNSIR", {"noise_images": 0}, "--noise_images: expected an integer >= 1"),
        ("UNSIR", {"noise_copies": 0}, "--noise_copies: expected an integer >= 1"),
        *((name, {"batch_size": 0}, "--batch_size: expected an integer >= 1") for name in METHODS_HERE),
        *(
            (name, {"unlearn_epochs": 0}, "--unlearn_epochs: expected an integer >= 1")
            for name in METHODS_HERE
            if name != "UNSIR"
        ),
        *(
            (name, {"retain_share": 0.0}, "--retain_share: expected a number above 0 and at most 1")
            for name in ("bad_teacher", "LoTUS")
        ),
        *(
            (name, {"retain_share": 1.1}, "--retain_share: expected a number above 0 and at most 1")
            for name in ("bad_teacher", "LoTUS")
        ),
        ("bad_teacher", {"teacher_temperature": 0.0}, "--teacher_temperature: expected a number > 0"),
        ("LoTUS", {"lotus_alpha": 0.0}, "--lotus_alpha: expected a number above 0 and at most 50"),
        ("LoTUS", {"lotus_alpha": 51.0}, "--lotus_alpha: expected a number above 0 and at most 50"),
        ("boundary_shrink", {"bound": 0.0}, "--bound: expected a number > 0"),
        ("UNSIR", {"impair_epochs": 0}, "--impair_epochs: expected an integer >= 1"),
        ("UNSIR", {"repair_epochs": -1}, "--repair_epochs: expected an integer >= 0"),
        ("UNSIR", {"noise_steps": 0}, "--noise_steps: expected an integer >= 1"),
        ("UNSIR", {"retained_per_class": 0}, "--retained_per_class: expected an integer >= 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(name, setting, message, model):
    with pytest.raises(ValueError, match=message):
        unlearn(name, model, cut_to_whole_class(name), **setting)


@pytest.mark.parametrize("name", METHODS_HERE)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_no_batch_size_is_too_small_for_batch_norm(name, batch_size):
    setting = {"noise_images": 33, "noise_copies": 1} if name == "UNSIR" else {}
    result = unlearn(
        name, classifier(nn.BatchNorm1d(8)), cut_to_whole_class(name), batch_size=batch_size, **setting
    )
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


@pytest.mark.parametrize(("share", "count"), [(1.0, 36), (0.5, 18), (0.3, 10), (1e-6, 1)])
def test_a_share_of_retain_joins_the_forget_images(share, count):
    data = data_of(part=[0, 5, 6, 11])
    images, forgets = with_share_of_retain(data, share, "test")
    assert (int(forgets.sum()), int((~forgets).sum())) == (4, count)
    assert set(images.indexes[forgets].tolist()) == {0, 5, 6, 11}
    assert len(set(images.indexes.tolist())) == 4 + count
    assert images.labels.tolist() == list(range(4 + count))
    assert torch.equal(images.images, images_of(10).images[images.indexes])


@pytest.mark.parametrize("name", ["bad_teacher", "LoTUS"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [14]),  # the 4 forget images, and .3 of 36
        ({"retain_share": 0.5}, [22]),
        ({"batch_size": 5}, [5, 5, 4]),
    ],
)
def test_an_epoch_is_a_pass_over_forget_and_a_share_of_retain_in_batches(
    name, settings, expected, trained_on
):
    model, counts = trained_on
    unlearn(name, model, data_of(part=[0, 5, 6, 11]), unlearn_epochs=1, **settings)
    assert counts == expected


def test_the_share_of_retain_is_drawn_by_the_seed():
    drawn = [
        with_share_of_retain(data_of(1, seed=seed), 0.3, "test")[0].indexes.tolist() for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
