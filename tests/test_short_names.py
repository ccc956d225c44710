"""Names that are cut and still tell apart what they name."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lethe.evaluation import Outputs
from lethe.report.prediction_charts import class_bars, confusion
from lethe.report.short_names import shortened

PLANTS = ["Corn_(maize)___Common_rust", "Corn_(maize)___healthy", "Corn_(maize)___Northern_Leaf_Blight", "ox"]


def test_a_name_is_cut_where_that_leaves_it_unlike_the_others():
    assert shortened(["a very long name", "another one", "ox"], 8) == ["a very …", "another…", "ox"]
    assert shortened(["corn (maize) rust", "corn (maize) healthy", "ox"], 10) == [
        "corn …rust",
        "corn …lthy",
        "ox",
    ]
    assert shortened(["a long name, 1, at the end", "a long name, 2, at the end"], 10) == [
        "0: a long…",
        "1: a long…",
    ]
    assert shortened(["same", "same"], 8) == ["0: same", "1: same"]


@given(st.lists(st.text("ab…:01 ", max_size=30), max_size=30))
def test_no_two_names_are_alike_and_none_is_too_long(names):
    found = shortened(names, 8)
    assert len(found) == len(names) == len(set(found)) and all(len(own) <= 8 for own in found)


@given(st.lists(st.text(max_size=8), unique=True, max_size=9))
def test_names_that_fit_are_left_alone(names):
    assert shortened(names, 8) == names


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="expected room for 5 characters of 10 names, got 4. Give more"):
        shortened(["name"] * 10, 4)


def test_every_picture_tells_classes_with_one_beginning_apart():
    outputs = Outputs(torch.eye(4) * 9, torch.arange(4))
    for picture in (class_bars({"initial": outputs}, PLANTS), confusion("initial", outputs, PLANTS)):
        shown = set(re.findall(r">([^<]*Corn[^<]*)</text>", picture.svg))
        assert len(shown) == 3 and all(len(name) <= 14 for name in shown)
    many = Outputs(torch.zeros(4, 1000), torch.arange(4))
    svg = class_bars({"initial": many}, [f"Corn_(maize)___Northern_Leaf_Blight_{n}" for n in range(1000)]).svg
    assert len(set(re.findall(r">([^<]*Corn[^<]*|\d+: [^<]*|\d+…[^<]*)</text>", svg))) == 20
