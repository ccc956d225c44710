"""What a method is given: sets without a test set, streams, copies, progress; a method in a file."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

import lethe
from lethe.data import ForgetRequest, ImageSet
from lethe.system.progress_place import progress_bar
from lethe.unlearn import ForgetData, copy_of, unlearn
from tests.bars import (
    CLASS_1,
    PER_CLASS,
    SEVEN_IMAGES,
    fixture_model,  # noqa: F401
    fixture_splits,  # noqa: F401
    fixture_trained,  # noqa: F401
    same_bits,
)


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (ForgetRequest((1,)), {1}),
        (ForgetRequest((1, 3)), {1, 3}),
        (ForgetRequest((1,), number=PER_CLASS), {1}),
        (ForgetRequest((1,), number=PER_CLASS - 1), set()),
        (ForgetRequest((-1,), number=7), set()),
        (ForgetRequest(indexes=(0, 1, 2)), set()),
    ],
)
def test_validation_loses_a_class_that_goes_whole_and_only_then(request_, gone, splits):
    data = ForgetData.of(splits, request_)
    kept = splits.validation.subset(
        torch.tensor([label not in gone for label in splits.validation.labels.tolist()])
    )
    assert data.forget_classes == tuple(sorted(gone))
    assert data.validation.indexes.tolist() == kept.indexes.tolist()


def test_forget_data_has_no_test_set(splits):
    assert not [f.name for f in fields(ForgetData) if "test" in f.name]
    data = ForgetData.of(splits, CLASS_1)
    assert not any(getattr(data, f.name) is splits.test for f in fields(ForgetData))


@pytest.mark.parametrize("request_", [CLASS_1, SEVEN_IMAGES, ForgetRequest((0, 1, 2))])
def test_forget_and_retain_set_together_are_the_training_set_in_its_order(request_, splits):
    data = ForgetData.of(splits, request_)
    assert len(data.forget) + len(data.retain) == len(splits.train)
    assert data.train.digest == splits.train.digest


def test_streams_differ_by_purpose_and_seed_and_repeat(splits):
    data = ForgetData.of(splits, CLASS_1)

    def first(data, *purpose):
        return torch.randint(2**31, (), generator=data.generator(*purpose)).item()

    draws = [first(data, "a"), first(data, "b"), first(data, "a", 1), first(replace(data, seed=2), "a")]
    assert len(set(draws)) == 4
    assert first(data, "a") == draws[0]


def test_a_copy_is_in_eval_mode_and_trainable(model):
    model.train().requires_grad_(False)
    copied = copy_of(model)
    assert not any(m.training for m in copied.modules())
    assert all(p.requires_grad for p in copied.parameters())
    assert all(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_new_method_is_a_file_with_a_function(tmp_path, model, splits):
    file = tmp_path / "mine.py"
    file.write_text(
        "from lethe.unlearn import copy_of\n\n\n"
        "def forget_nothing(model, data, *, times: int = 1):\n"
        '    """Add nothing.\n\n    Flags:\n        times: how often\n    """\n'
        "    return copy_of(model)\n"
    )
    data = ForgetData.of(splits, CLASS_1)
    assert same_bits(
        unlearn(f"{file}:forget_nothing", model, data, times=3).model.state_dict(), model.state_dict()
    )
    with pytest.raises(ValueError, match=r"unknown flag of forget_nothing '--time'\. Did you mean '--times'"):
        unlearn(f"{file}:forget_nothing", model, data, time=3)


def test_progress_wraps_what_takes_long(model, splits):
    seen = SimpleNamespace(steps=0)

    def progress(steps, label, total=None):
        for step in steps:
            seen.steps += 1
            yield step

    unlearn("SFT", model, ForgetData.of(splits, CLASS_1, progress=progress), sft_steps=5)
    assert seen.steps == 5


def test_sets_that_were_made_one_by_one_are_numbered_one_after_the_other():
    forget = ImageSet.of_tensors(torch.rand(2, 3), torch.tensor([1, 1]))
    retain = ImageSet.of_tensors(torch.rand(3, 3), torch.tensor([0, 1, 0]))
    data = ForgetData(forget, retain, forget.subset(torch.zeros(2, dtype=torch.bool)), 2)
    assert data.train.indexes.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(data.train.images[:], torch.cat([forget.images, retain.images]))
    assert replace(data, seed=2).retain.indexes.tolist() == [2, 3, 4]


def test_an_image_that_is_forgotten_and_retained_is_refused(splits):
    some = splits.train.subset(torch.arange(5))
    with pytest.raises(ValueError, match=r"without a common image, got image \d+ in both"):
        ForgetData(some.subset(torch.tensor([1, 4])), some.subset(torch.tensor([0, 4])), some, 4)


def test_progress_is_shown_unless_it_is_silenced(splits, capsys):
    assert ForgetData.of(splits, CLASS_1).progress is progress_bar
    assert list(lethe.silent(range(2), "steps")) == [0, 1]
    assert capsys.readouterr().err == ""


def test_a_device_without_float64_is_refused():
    with pytest.raises(ValueError, match="expected a device with float64, .* got 'mps'. Use cpu"):
        ForgetData.of_tensors(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([0]), device="mps")
