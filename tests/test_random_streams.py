"""Random streams: decided by a seed and a purpose alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lethe.training import generator_for
from tests.hypothesis_settings import FEW


def numbers(*purpose):
    return torch.rand(4, generator=generator_for(*purpose)).tolist()


def test_the_same_seed_and_purpose_give_the_same_numbers():
    assert numbers(1, "train") == numbers(1, "train")


@pytest.mark.parametrize(
    "other", [(2, "train"), (1, "method"), (1, "train", 0), (1,), (-1, "train"), (1, "train", "0")]
)
def test_another_seed_or_purpose_gives_other_numbers(other):
    assert numbers(*other) != numbers(1, "train")


def test_purposes_are_not_just_joined():
    assert numbers(1, "ab", "c") != numbers(1, "a", "bc")


def test_a_generator_depends_on_no_global_state():
    before = torch.get_rng_state()
    first = numbers(1, "train")
    torch.manual_seed(99)
    assert numbers(1, "train") == first
    torch.set_rng_state(before)


@FEW
@given(st.integers(), st.integers())
def test_streams_of_different_seeds_differ(one, other):
    assert (numbers(one, "x") == numbers(other, "x")) == (one == other)
