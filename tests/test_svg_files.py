"""A picture as a file: XML that needs no page, with every word and number that the page says around it."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lethe.report.curve_charts import curves
from lethe.report.html_report import html_report, report_pictures
from lethe.report.kappa_chart import kappa_curve
from lethe.report.layer_charts import Layer, layer_map, weight_counts, weight_sizes
from lethe.report.palette import LIGHT
from lethe.report.svg import ticks
from lethe.report.svg_file import svg_file
from tests.report_facts import facts

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = [(64, 128, 819), (128, 512, 6554), (10, 64, 6), (512, 20, 3), (1, 1, 1), (3, 2000, 40), (4, 5, 0)]


def layer(rows, columns, off):
    """Random weights, and a mask that switches off the first `off` weights of a random order."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones(rows * columns, dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=generator)[:off]] = False
    return Layer("linear2", torch.randn(rows, columns, generator=generator), keep.view(rows, columns))


def pictures_of(own):
    return [picture for pictures in report_pictures(own).values() for picture in pictures]


def words_of(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


# The file


@pytest.fixture(scope="module", params=[10, 1000])
def pictures(request):
    return pictures_of(facts(request.param, rows=128, columns=512))


def test_every_picture_of_the_page_is_a_file_of_another_name(pictures):
    names = [picture.name for picture in pictures]

    assert {
        "class_probabilities",
        "confusion_ideal",
        "losses_unlearned",
        "attack_roc",
        "layer",
        "layer_weights",
    } <= set(names)
    assert {"unlearning_loss", "unlearning_score"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"\w+", name) for name in names)


def test_a_history_may_have_any_names():
    odd = ["a/b", "a b", "../a", "x" * 250, "ä" * 250]
    names = [
        picture.name
        for picture in curves(
            "After each epoch", [dict.fromkeys(odd, 1.0)] * 2, role="unlearned", step="epoch"
        )
    ]

    assert len(set(names)) == len(odd)
    assert all(len(name.encode()) < 250 and "/" not in name for name in names)


def test_a_file_needs_no_page(pictures):
    for picture in pictures:
        svg = svg_file(picture, "run")

        root = ElementTree.fromstring(svg)
        ground = next(root.iter(f"{SVG}rect"))
        width, height = (float(size) for size in root.get("viewBox").split()[2:])

        assert root.tag == f"{SVG}svg"
        assert not re.search(r"var\(|url\(|@import|script", svg)
        assert ground.get("fill") == LIGHT["paper"]
        assert [float(ground.get(side)) for side in ("width", "height")] == pytest.approx(
            [width, height], abs=0.1
        )


def test_a_file_says_what_the_page_says_around_the_picture(pictures):
    for picture in pictures:
        said = " ".join(words_of(svg_file(picture, "MIMU <b>class0</b>")))

        assert picture.title in said and "MIMU <b>class0</b>" in said
        assert all(key.text in said for key in picture.keys)
        assert picture.note in said


def test_the_picture_of_page_and_file_is_one(pictures):
    page = html_report(facts(10), pictures={"All": pictures})

    for picture in pictures:
        drawn = "".join(picture.parts)
        assert drawn in page
        assert re.sub(r"var\(--(\w+)\)", lambda role: LIGHT[role[1]], drawn) in svg_file(picture, "run")


def test_what_a_person_wrote_is_text_and_no_markup():
    name = r"$\frac$ <script> & "
    picture = kappa_curve([(1, 2.0, 90.0)], (99.0, 99.0), title=name, size=10)

    assert words_of(svg_file(picture, name))[:2] == [name.strip()] * 2


# The masked layer


def pixels_of(picture):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", picture.svg)[1]))).convert("RGB")
    )


@pytest.mark.parametrize(("rows", "columns", "off"), [shape for shape in SHAPES if max(shape[:2]) <= 480])
def test_black_pixels_are_the_weights_that_are_switched_off(rows, columns, off):
    own = layer(rows, columns, off)

    assert np.array_equal((pixels_of(layer_map(own)) == 0).all(-1), ~own.keep.numpy())


def test_no_weight_is_black_and_0_is_white():
    weight, keep = torch.tensor([[-5.0, 5.0], [0.0, 5.0]]), torch.tensor([[True, True], [True, False]])

    pixels = pixels_of(layer_map(Layer("a", weight, keep)))

    assert pixels.tolist() == [[[86, 180, 233], [230, 159, 0]], [[255, 255, 255], [0, 0, 0]]]


def test_one_outlier_does_not_pale_the_others():
    own = layer(20, 30, 5)
    own.weight[0, 0] = 1000.0
    own.weight[1, 1] = -3.0
    own.keep[1, 1] = True

    assert tuple(pixels_of(layer_map(own))[1, 1]) == pytest.approx((86, 180, 233), abs=40)


@pytest.mark.parametrize(("off", "rings"), [(3, 3), (600, 0)])
def test_few_marks_in_a_large_layer_are_ringed(off, rings):
    assert layer_map(layer(512, 20, off)).svg.count("<circle") == rings


@pytest.mark.parametrize(("rows", "columns", "off"), SHAPES)
def test_a_layer_of_any_shape_is_drawn_with_its_axes(rows, columns, off):
    picture = layer_map(layer(rows, columns, off))

    assert {"input neuron", "output neuron"} <= set(words_of(svg_file(picture, "run")))
    assert 130 < picture.height < 420
    assert f"{off:,} of {rows * columns:,} weights" in picture.alt


@pytest.mark.parametrize("outlier", [0.0, 1000.0, -1000.0])
@pytest.mark.parametrize(("rows", "columns", "off"), SHAPES)
def test_the_histogram_counts_every_weight_once(rows, columns, off, outlier):
    own = layer(rows, columns, off)
    own.weight[0, 0] = outlier

    _, counts = weight_counts(own.weight.double().numpy(), ~own.keep.numpy())

    assert (counts["initial"].sum(), counts["unlearned"].sum()) == (rows * columns, off)
    assert (counts["unlearned"] <= counts["initial"]).all()


def test_the_histogram_says_how_many_and_how_large():
    own = Layer("a", torch.tensor([[1.0, -2.0], [3.0, 40.0]]), torch.tensor([[True, False], [True, True]]))
    picture = weight_sizes(own)

    assert [key.text for key in picture.keys] == ["all 4", "switched off: 1"]
    assert "median size 2.5 of 4; median size 2 of 1" in picture.alt


def test_weights_that_are_all_0_are_drawn():
    own = Layer("a", torch.zeros(3, 4), torch.eye(3, 4).bool())

    assert (pixels_of(layer_map(own))[own.keep.numpy()] == 255).all()
    assert "all 12" in weight_sizes(own).keys[0].text


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize("picture", [layer_map, weight_sizes])
@pytest.mark.parametrize(
    ("weight", "keep", "message"),
    [
        (torch.zeros(3), ones(3), r"weights \(m, n\), got torch.float32 \(3,\). Give"),
        (torch.zeros(0, 3), ones(0, 3), r"weights \(m, n\), got torch.float32 \(0, 3\). Give"),
        (torch.zeros(2, 3), ones(3, 2), r"a bool mask .*\(2, 3\), got torch.bool \(3, 2\). Give"),
        (torch.zeros(2, 3), ones(2, 3).float(), r"a bool mask .*\(2, 3\), got torch.float32 \(2, 3\). Give"),
        (torch.tensor([[0.0, torch.nan, torch.inf]]), ones(1, 3), "finite .*, got .* for 2 of 3. Lower"),
    ],
)
def test_what_is_no_masked_layer_is_refused(picture, weight, keep, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        picture(Layer("a", weight, keep))


# Over kappa


def test_every_run_is_a_point_at_its_share_and_score_and_the_line_joins_the_means():
    picture = kappa_curve(
        [(10, 40.0, 90.0), (10, 60.0, 92.0), (30, 0.0, 80.0)], (100.0, 95.0), title="t", size=100
    )
    boxes = [part for part in picture.parts if part.startswith("<rect")]
    lines = [
        re.search(r'points="([^"]+)"', part)[1].split()
        for part in picture.parts
        if part.startswith("<polyline")
    ]
    centre = [[float(value) + 2.5 for value in re.findall(r'\b[xy]="([\d.]+)"', part)] for part in boxes]

    assert len(boxes) == 6 and all(len(points) == 2 for points in lines)
    forget = [[float(value) for value in point.split(",")] for point in lines[0]]
    assert forget[0] == pytest.approx(np.mean(centre[:2], axis=0), abs=0.1)
    assert forget[1] == pytest.approx(centre[2], abs=0.1)
    assert picture.alt == (
        "Scores in percent over 2 values of kappa: forget from 50 to 0, initial model 100; retain from 91 to "
        "80, initial model 95."
    )


def test_the_chosen_mask_is_marked_with_its_own_scores():
    points = [(1, 40.0, 99.0), (10, 3.0, 98.0), (30, 2.0, 90.0)]
    picture = kappa_curve(points, (100.0, 99.0), title="t", size=100, chosen=(10, 0.5, 98.5))
    assert "chosen: 10 weights" in "".join(picture.parts)
    assert picture.alt.endswith("; chosen: 10, forget 0.5, retain 98.5.")
    large = [part for part in picture.parts if part.startswith("<rect") and "fill-opacity" not in part]
    assert len(large) == 2


def test_one_kappa_is_drawn():
    assert "forget from 2 to 2" in kappa_curve([(5, 2.0, 90.0)], (99.0, 98.0), title="t", size=10).alt


# Ticks


FRACTIONS = [(0, 1), (-3, 103), (0.1, 0.11), (-0.317, 0.317), (2.4, 77.1), (0, 7.3e-6)]
WHOLE = [(0, 3), (0, 9), (0, 127), (0, 999), (1, 2), (1, 1000), (0, 1e9)]


@pytest.mark.parametrize(
    ("low", "high", "whole"), [(*ends, False) for ends in FRACTIONS] + [(*ends, True) for ends in WHOLE]
)
def test_ticks_are_those_of_matplotlib(low, high, whole):
    places = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1).tick_values(low, high)
    inside = [at for at in places if low - 1e-9 * (high - low) <= at <= high + 1e-9 * (high - low)]

    assert [at for at, _ in ticks(low, high, whole=whole)] == pytest.approx(inside)
