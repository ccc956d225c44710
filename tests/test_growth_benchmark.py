"""The benchmark of growth: what grows, its exponents, and a run in a process of its own."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import growth

pytestmark = pytest.mark.usefixtures("empty_place")


def test_one_size_grows_at_a_time():
    options = growth.options_of(["--images", "1000", "2000", "--classes", "10", "20", "--layers", "8x4"])
    sizes = growth.growing(options)

    assert [size["images"] for size in sizes["images"]] == [1000, 2000]
    assert [(size["images"], size["classes"]) for size in sizes["classes"]] == [(20_000, 10), (20_000, 20)]
    assert sizes["layer"] == [{"images": 20_000, "classes": 10, "layer": "8x4"}]


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(1.0, 10.0, 1.0), (1.0, 100.0, 2.0), (3.0, 3.0, 0.0), (2.0, 0.2, -1.0)]
)
def test_the_exponent_is_the_slope_of_the_logarithms(before, after, expected):
    assert growth.exponent(before, after, 10.0) == pytest.approx(expected)


def test_what_is_too_fast_to_measure_has_no_exponent():
    assert math.isnan(growth.exponent(0.0, 1.0, 10.0))


def test_it_prints_a_line_for_each_run_and_the_exponents(monkeypatch, capsys):
    """Time as the images, memory as their root: of 300 and 1,200 images."""

    def measured(size, method):
        parts = dict.fromkeys(growth.PARTS, size["images"] / 100)
        return parts | {"MiB": math.sqrt(size["images"])}

    monkeypatch.setattr(growth, "measured", measured)
    words = ["--images", "300", "1200", "--classes", "3", "--layers", "8x4", "--rest", "1000"]
    assert growth.main([*words, "--json", "numbers.json"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:-1]]

    assert [row[:2] for row in rows] == [
        ["images", "300"],
        ["images", "1200"],
        ["images", "exponent"],
        ["classes", "3"],
        ["layer", "8x4"],
    ]
    assert rows[2][2:] == ["1.00"] * 5 + ["0.50"]
    assert len(json.loads(Path("numbers.json").read_text())["runs"]) == 4


@pytest.mark.slow
def test_a_run_has_a_process_of_its_own():
    found = growth.measured({"images": 300, "classes": 3, "layer": "8x4"}, "random_mask")

    assert set(found) == set(growth.PARTS)
    assert found["MiB"] > 50 and found["total"] > found["evaluate"] > 0
