"""Whether forgotten images of classes that stay lost more than the rest of their classes."""

import pytest
import torch

from lethe.evaluation import ModelOutputs, Outputs
from lethe.experiment.singled_out import not_singled_out

COUNT = 400  # images of class 0 in every set; as many of class 1


def outputs(*wrong: int, forgotten: tuple[int, ...] = ()) -> ModelOutputs:
    """A model that takes the first images of class 0 for class 1: so many of forget, retain and test."""
    sets = []
    for count in wrong:
        labels = torch.tensor([0, 1]).repeat_interleave(COUNT)
        predicted = labels.clone()
        predicted[:count] = 1
        sets.append(Outputs(torch.eye(2)[predicted], labels))
    forget, retain, test = sets
    if forgotten:  # retain has no image of a class that goes whole
        retain = retain.subset(retain.labels == 1)
    return ModelOutputs(forget.subset(forget.labels == 0), retain, test, None, forgotten, seed=1)


BEFORE = (0, 0, 0)


@pytest.mark.parametrize(
    ("after", "is_singled_out"),
    [
        ((40, 0, 0), True),
        ((40, 4, 4), True),  # both lost 1 point
        ((40, 40, 40), False),  # all lost alike
        ((40, 0, 40), False),  # test images alone pay
        ((40, 30, 0), False),  # retained ones alone pay
        ((200, 40, 0), False),  # told apart, but the rest lost 10 points
        ((3, 0, 0), False),  # 0.75 points
        ((6, 2, 0), False),  # 1 point more, which may be chance
        ((0, 0, 0), False),
    ],
)
def test_forgotten_images_are_singled_out_if_they_alone_lose(after, is_singled_out):
    assert (not_singled_out(outputs(*BEFORE), outputs(*after)) == "") == is_singled_out


def test_the_text_has_the_losses():
    assert not_singled_out(outputs(40, 0, 0), outputs(60, 8, 20)).startswith(
        "did not single the images out: those to forget lost 5.00 points, other images of their classes 2.00 "
        "(retained) and 5.00 (test)"
    )


def test_a_few_images_of_many_are_no_chance_if_the_rest_stays():
    """3 of 20 against 0 of 400: chance would make 2 errors of 1.9 points, not 15."""
    before, after = (outputs(count, 0, 0) for count in (0, 3))
    few = torch.arange(20)
    pair = [
        ModelOutputs(own.forget.subset(few), own.retain, own.test, None, (), seed=1)
        for own in (before, after)
    ]
    assert not_singled_out(*pair) == ""


def test_classes_that_go_whole_have_no_rest():
    assert not_singled_out(outputs(*BEFORE, forgotten=(0,)), outputs(400, 0, 400, forgotten=(0,))) == ""
