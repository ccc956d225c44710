"""MIMU's rankings by hand and by their definitions, and the mask that a score gives."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lethe.data import ImageSet, Normalisation
from lethe.unlearn import ForgetData
from lethe.unlearn.mimu.ranking import (
    Comparison,
    comparisons_of,
    continuous,
    every_class,
    keep_largest_out,
    scores_of,
)
from tests.seeded import assert_close, normal


def test_the_continuous_ranking_puts_what_serves_the_class_alone_first():
    #                 forget only  everybody  nobody  the others
    q = torch.tensor([[10.0, 10.0, -10.0, -10.0], [-10.0, 10.0, -10.0, 10.0], [-10.0, 10.0, -10.0, 10.0]])
    assert every_class(q)[0].tolist() == [20.0, 0.0, 0.0, -20.0]
    assert keep_largest_out(every_class(q)[0], 1, (2, 2)).tolist() == [[False, True], [True, True]]


def test_the_continuous_ranking_is_the_class_minus_the_mean_of_the_others():
    q = normal(5, 7)
    for f in range(5):
        others = [q[c] for c in range(5) if c != f]
        assert_close(every_class(q)[f], q[f] - sum(others) / 4)


def test_the_continuous_ranking_needs_two_classes():
    with pytest.raises(ValueError, match="ranking: expected the logits of at least two classes, got 1"):
        every_class(torch.zeros(1, 7))


@pytest.mark.parametrize("k", [1, 7, 19, 20])
def test_exactly_kappa_weights_go(k):
    keep = keep_largest_out(normal(20).round(), k, (4, 5))
    assert keep.dtype == torch.bool
    assert keep.shape == (4, 5)
    assert (~keep).sum() == k


def test_among_equal_scores_the_first_weight_goes():
    assert keep_largest_out(torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]), 3, (2, 3)).flatten().tolist() == [
        1,
        0,
        1,
        0,
        0,
        1,
    ]


def lean_data(forget_rows):
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images = ImageSet(
        torch.zeros(9, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(9), Normalisation((0.0,), (1.0,))
    )
    forget = torch.isin(torch.arange(9), torch.tensor(forget_rows))
    return ForgetData(images.subset(forget), images.subset(~forget), images.subset(torch.tensor([0])), 3)


Q = {0: torch.tensor([1.0, 10.0]), 1: torch.tensor([2.0, 20.0]), 2: torch.tensor([5.0, 50.0])}


def q_of_images(images):
    """The sum and the number of their indexes."""
    return torch.tensor([float(images.indexes.sum()), float(len(images))])


def unasked(*_):
    raise AssertionError("a request asked for what it does not need")


@pytest.mark.parametrize(
    ("rows", "by_class", "of_images", "expected"),
    [
        ([3, 4, 5], lambda: Q, unasked, [2 - (1 + 5) / 2, 20 - 30.0]),
        ([3, 4, 5, 6, 7, 8], lambda: Q, unasked, [((2 - 1) + (5 - 1)) / 2, (10 + 40) / 2]),
        ([4], unasked, q_of_images, [4 - (3 + 5), 1 - 2]),
        ([0, 1, 8], unasked, q_of_images, [((0 + 1 - 2) + (8 - (6 + 7))) / 2, ((2 - 1) + (1 - 2)) / 2]),
        (
            [0, 1, 2, 8],
            lambda: Q,
            q_of_images,
            [((1 - (2 + 5) / 2) + (8 - 13)) / 2, ((10 - 35) + (1 - 2)) / 2],
        ),
    ],
    ids=["a class", "two classes", "an image", "images of two classes", "a class and an image"],
)
def test_lean_is_forget_minus_retain(rows, by_class, of_images, expected):
    assert continuous(comparisons_of(lean_data(rows), by_class, of_images)).tolist() == pytest.approx(
        expected
    )


# Six weights. The top 2: M^f = {0, 1}, M^1 = {1, 3}, M^2 = {0, 4}; the top 3: {0, 1, 2}, {0, 1, 3}, {0, 4,
# 5}.
FORGOTTEN = torch.tensor([9.0, 8.0, 7.0, 0.0, 0.0, 1.0])
RETAINED = torch.tensor([[5.0, 9.0, 1.0, 8.0, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0, 8.0, 2.0]])


def masked(ranking, kappa, topk=2):
    return (
        (~keep_largest_out(scores_of(ranking, [Comparison(FORGOTTEN, RETAINED)], topk), kappa, (2, 3)))
        .flatten()
        .nonzero()
        .flatten()
        .tolist()
    )


def test_the_continuous_ranking_by_hand():
    # s = 9 - 7, 8 - 5, 7 - 0.5, 0 - 4, 0 - 4, 1 - 1
    assert [masked("continuous", kappa) for kappa in (1, 2, 3, 4)] == [[2], [1, 2], [0, 1, 2], [0, 1, 2, 5]]


def test_the_binary_ranking_by_hand():
    # s = 1 - 1/2 for 0 and 1 (the continuous score prefers 1), 0 for 2 and 5 (prefers 2), -1/2 for 3 and 4
    assert [masked("binary", kappa) for kappa in (1, 2, 3, 4, 5)] == [
        [1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 5],
        [0, 1, 2, 3, 5],
    ]


def test_the_set_difference_may_be_fewer_than_kappa_or_none():
    assert masked("set_difference", 4) == []
    assert masked("set_difference", 6, topk=3) == [2]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
@example(3, 3, 1, 3, 0)  # shares that are equal, added in another order
def test_binary_and_set_difference_are_their_definitions(classes, requests, topk, kappa, seed):
    """Sets and sorts in plain Python, on coarse logits so that there are ties."""
    q = (
        normal(requests, 1 + classes, 8, seed=seed).mul(2).round().mul(36)
    )  # every mean over 1 to 4 of 1 to 3 is exact: ties stay ties
    comparisons = [Comparison(own[0], own[1:]) for own in q]
    marks = [[{*sorted(range(8), key=lambda i: (-row[i], i))[:topk]} for row in own.tolist()] for own in q]
    s = [sum(own[0][i] - own[1:, i].mean() for own in q) / requests for i in range(8)]
    share = [
        sum((i in own[0]) - sum(i in other for other in own[1:]) / classes for own in marks) / requests
        for i in range(8)
    ]
    by_binary = sorted(range(8), key=lambda i: (-round(float(share[i]), 6), -round(float(s[i]), 6), i))
    of_request, of_others = (
        set().union(*(own[0] for own in marks)),
        set().union(*(m for own in marks for m in own[1:])),
    )
    by_difference = sorted(of_request - of_others, key=lambda i: (-round(float(s[i]), 6), i))

    def gone(ranking):
        return (
            (~keep_largest_out(scores_of(ranking, comparisons, topk), kappa, (2, 4)))
            .flatten()
            .nonzero()
            .flatten()
            .tolist()
        )

    assert gone("binary") == sorted(by_binary[:kappa])
    assert gone("set_difference") == sorted(by_difference[:kappa])
