"""What the pictures of a mask's run show: every weight and every image once, over the same bins, under the right words."""

import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba

from reporter.layer_pictures import masked_layer_image, weight_histogram
from reporter.margin_pictures import margin_histograms
from reporter.pictures import class_probabilities, curves_over
from tests.text_overlaps import texts_that_overlap

SHAPES = [(64, 128, 819), (128, 512, 6554), (10, 64, 6), (512, 20, 3), (1, 1, 1), (3, 2000, 40), (4, 5, 0)]


def layer(rows, columns, off):
    """Random weights, and a mask that switches off the first `off` weights of a random order."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones(rows * columns, dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=generator)[:off]] = False
    return torch.randn(rows, columns, generator=generator), keep.view(rows, columns)


def test_a_dollar_in_a_class_name_is_a_dollar():
    name = r"$\frac$ $_^$"
    weight, keep = layer(4, 5, 2)
    pixels_of(class_probabilities({"initial": [0.5, 0.5]}, [name, "b"], title=name))
    pixels_of(curves_over([(1, 2.0, 90.0)], (99.0, 99.0), title=name, size=10))
    pixels_of(margin_histograms({"forget": [1.0, 2.0]}, {"forget": [0.0, 1.0]}, None, title=name))
    pixels_of(masked_layer_image(weight, keep, title=name))
    pixels_of(weight_histogram(weight, keep, title=name))


@pytest.mark.parametrize("name", ["{}", "class number {}", "Corn_(maize)___Northern_Leaf_Blight_{}"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_no_text_overlaps_however_many_classes(classes, name):
    title = "MIMU: margins of classes 1 to 3 of ImageNet"
    generator = torch.Generator().manual_seed(classes)
    sure = torch.softmax(3 * torch.randn(3, classes, generator=generator), 1).tolist()
    names = [name.format(n) for n in range(classes)]
    weight, keep = layer(classes, 512, classes)
    margins = {
        "forget images": torch.randn(classes, generator=generator) * 60,
        "test images": torch.randn(9 * classes, generator=generator),
    }
    figures = [
        class_probabilities(dict(zip(("initial", "unlearned", "ideal"), sure, strict=True)), names, title=title),
        curves_over([(n, 2.0 * n, 90.0 - n) for n in range(1, 9)], (99.0, 99.0), title=title, size=512 * classes),
        margin_histograms(margins, margins, margins, title=title),
        masked_layer_image(weight, keep, title=title),
        weight_histogram(weight, keep, title=title),
    ]
    assert [texts_that_overlap(figure) for figure in figures] == [[]] * len(figures)


def labels_of(legend):
    return [text.get_text() for text in legend.get_texts()]


def outlines_of(axes):
    """The histograms' outlines, without their fillings."""
    return [patch for patch in axes.patches if not patch.get_fill()]


def histograms_of(axes):
    return [outline.get_data() for outline in outlines_of(axes)]


def pixels_of(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def inside(figure, axes):
    """The pixels of a panel, without its frame."""
    box = axes.get_window_extent()
    pixels = pixels_of(figure)[::-1]
    return pixels[round(box.y0) + 2 : round(box.y1) - 2, round(box.x0) + 2 : round(box.x1) - 2]


# The layer


@pytest.mark.parametrize(("rows", "columns", "off"), SHAPES)
def test_marks_are_the_weights_that_are_switched_off(rows, columns, off):
    weight, keep = layer(rows, columns, off)

    figure = masked_layer_image(weight, keep, title="t")

    image, inputs, outputs = figure.axes[0].images[0], figure.axes[1].patches[0], figure.axes[2].patches[0]
    assert np.array_equal(np.ma.getmaskarray(image.get_array()), ~keep.numpy())
    assert np.array_equal(inputs.get_data().values, (~keep).sum(0))
    assert np.array_equal(outputs.get_data().values, (~keep).sum(1))
    assert f"{off:,} of {rows * columns:,} weights" in labels_of(figure.legends[0])[0]


@pytest.mark.parametrize(("rows", "columns", "off"), SHAPES)
def test_a_layer_of_any_shape_is_a_picture_with_everything_on_it(rows, columns, off):
    figure = masked_layer_image(*layer(rows, columns, off), title="MIMU: linear2 of digits mlp, class0")

    height, width, _ = pixels_of(figure).shape
    drawn = figure.get_tightbbox().bounds
    assert 500 <= width <= 2000 and 300 <= height <= 1500
    assert drawn[0] >= 0 and drawn[1] >= 0
    assert drawn[0] + drawn[2] <= width / figure.dpi and drawn[1] + drawn[3] <= height / figure.dpi


def test_a_mark_is_black_and_no_weight_is():
    weight, keep = torch.tensor([[-5.0, 5.0], [0.0, 5.0]]), torch.tensor([[True, True], [True, False]])

    figure = masked_layer_image(weight, keep, title="t")

    seen = inside(figure, figure.axes[0])
    lower, upper = np.array_split(seen, 2)
    assert (lower[:, seen.shape[1] // 2 + 2 :, :3] == 0).mean() > 0.9
    assert seen[:, : seen.shape[1] // 2 - 2, :3].max(-1).min() > 200
    assert upper[:, :, :3].max(-1)[4:].min() > 200


def test_colours_are_centred_on_0_and_one_outlier_does_not_flatten_them():
    weight, keep = layer(20, 30, 5)
    weight[0, 0] = 1000.0

    norm = masked_layer_image(weight, keep, title="t").axes[0].images[0].norm

    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(np.percentile(weight.abs(), 99.5))
    assert norm.vmax < 5


@pytest.mark.parametrize(("off", "rings"), [(3, 3), (600, 0)])
def test_few_marks_in_a_large_layer_are_ringed(off, rings):
    axes = masked_layer_image(*layer(512, 20, off), title="t").axes[0]

    assert sum(len(collection.get_offsets()) for collection in axes.collections) == rings


def test_axes_of_the_layer_are_named():
    layer_axes, inputs, outputs, colours = masked_layer_image(*layer(20, 30, 5), title="t").axes

    assert (layer_axes.get_xlabel(), layer_axes.get_ylabel()) == ("input neuron", "output neuron")
    assert inputs.get_ylabel() == outputs.get_xlabel() == "switched off\n(weights)"
    assert "weight" in colours.get_ylabel()


# The weights


@pytest.mark.parametrize("outlier", [0.0, 1000.0])
@pytest.mark.parametrize(("rows", "columns", "off"), SHAPES)
def test_the_histogram_counts_every_weight_once(rows, columns, off, outlier):
    weight, keep = layer(rows, columns, off)
    weight[0, 0] = outlier

    every, gone = histograms_of(weight_histogram(weight, keep, title="t").axes[0])

    assert np.array_equal(every.edges, gone.edges)
    assert (every.values.sum(), gone.values.sum()) == (rows * columns, off)
    assert (gone.values <= every.values).all()


def test_the_histogram_says_how_many_what_share_and_how_large():
    weight, keep = torch.tensor([[1.0, -2.0], [3.0, 40.0]]), torch.tensor([[True, False], [True, True]])

    figure = weight_histogram(weight, keep, title="t")

    assert labels_of(figure.legends[0]) == [
        "all: 4 weights, median |w| 2.5",
        "switched off: 1 of 4 weights (25 %), median |w| 2",
    ]


def test_the_histogram_says_that_outliers_are_in_its_outermost_bins():
    weight, keep = layer(20, 50, 5)
    weight[0, 0] = -1000.0

    axes = weight_histogram(weight, keep, title="t").axes[0]

    assert axes.get_xlabel().startswith("weight (1 beyond ±")
    assert histograms_of(axes)[0].values[0] == 1


def test_weights_that_are_all_0_are_drawn():
    weight, keep = torch.zeros(3, 4), torch.eye(3, 4).bool()

    pixels_of(masked_layer_image(weight, keep, title="t"))
    every, _ = histograms_of(weight_histogram(weight, keep, title="t").axes[0])

    assert every.values.sum() == 12


@pytest.mark.parametrize("picture", [masked_layer_image, weight_histogram])
@pytest.mark.parametrize(
    ("weight", "keep", "message"),
    [
        (torch.zeros(3), torch.ones(3, dtype=torch.bool), r"expected weights \(m, n\), got torch.float32 \(3,\). Give"),
        (torch.zeros(0, 3), torch.ones(0, 3, dtype=torch.bool), r"expected weights \(m, n\), got torch.float32 \(0, 3\). Give"),
        (torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool), r"expected a bool mask .*\(2, 3\), got torch.bool \(3, 2\). Give"),
        (torch.zeros(2, 3), torch.ones(2, 3), r"expected a bool mask .*\(2, 3\), got torch.float32 \(2, 3\). Give"),
        (torch.tensor([[0.0, math.nan, math.inf]]), torch.ones(1, 3, dtype=torch.bool), "expected finite .*, got .* for 2 of 3. Lower"),
    ],
)
def test_what_is_no_masked_layer_is_refused(picture, weight, keep, message):
    with pytest.raises(ValueError, match=message):
        picture(weight, keep, title="t")


# The margins

BEFORE = {"forget images": [4.0, 5.0, 9.0], "test images": torch.linspace(-3, 8, 50)}
AFTER = {"forget images": torch.tensor([-4.0, -2.0, -9.0]), "test images": torch.linspace(-4, 7, 50)}


@pytest.mark.parametrize("ideal", [None, AFTER])
@pytest.mark.parametrize("extreme", [-2.0, -1e4, -math.inf, math.inf])
def test_every_panel_holds_all_images_of_every_model_in_the_same_bins(ideal, extreme):
    after = AFTER | {"forget images": [-4.0, extreme, -9.0]}

    figure = margin_histograms(BEFORE, after, ideal, title="t")

    outlines = [outline for axes in figure.axes for outline in histograms_of(axes)]
    assert len(outlines) == (4 if ideal is None else 6)
    assert all(np.array_equal(outline.edges, outlines[0].edges) for outline in outlines)
    assert [outline.values.sum() for outline in outlines] == pytest.approx([100.0] * len(outlines))
    assert 0.0 in outlines[0].edges


def test_panels_say_how_many_images_and_the_median_of_every_model():
    forget, test = margin_histograms(BEFORE, AFTER, AFTER, title="t").axes

    assert (forget.get_title(), test.get_title()) == ("forget images (3)", "test images (50)")
    assert labels_of(forget.get_legend()) == ["initial model: median 5.00", "unlearned model: median -4.00", "ideal model: median -4.00"]
    assert forget.get_xlabel() == "margin (nats)\ndotted: 0, the true class has probability 1/2"
    assert forget.get_ylabel() == "images (percent)"


def test_margins_beyond_100_are_noted_in_their_panel():
    forget, test = margin_histograms(BEFORE, AFTER | {"forget images": [-1e4, -math.inf, 2.0]}, None, title="t").axes

    assert forget.get_xlabel().startswith("margin (nats; 2 beyond ±100 counted at the ends)")
    assert test.get_xlabel().startswith("margin (nats)")
    assert histograms_of(forget)[1].values[0] == pytest.approx(200 / 3)
    assert labels_of(forget.get_legend())[1] == "unlearned model: median -10,000.00"


@pytest.mark.parametrize("value", [0.0, 5.0, -7.3, 1e-300])
def test_one_image_and_equal_margins_are_drawn(value):
    one, equal = {"forget images": [value]}, {"forget images": [value], "test images": [value] * 30}

    assert len(margin_histograms(one, one, one, title="t").axes) == 1
    drawn = [outline.values for axes in margin_histograms(equal, equal, None, title="t").axes for outline in histograms_of(axes)]
    assert [values.max() for values in drawn] == [100.0] * 4


def test_the_models_have_the_colours_of_the_other_pictures():
    axes = margin_histograms(BEFORE, AFTER, AFTER, title="t").axes[0]

    assert [outline.get_edgecolor() for outline in outlines_of(axes)] == [to_rgba(c) for c in ("#E69F00", "#0072B2", "#7F7F7F")]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"forget images": [math.nan, 1.0, 2.0], "test images": [1.0]}, "got NaN for 1 of 3. Lower"),
        ({"forget images": [], "test images": [1.0]}, r"expected margins \(N,\) of forget images, unlearned model, got shape \(0,\). Give"),
        ({"forget images": torch.zeros(3, 2)}, r"got shape \(3, 2\). Give"),
        ({"forget images": [1.0, 2.0, 3.0]}, "expected margins of the same images, got .* for the initial and .* Use one split"),
        ({"forget images": [1.0], "test images": torch.zeros(50)}, "expected margins of the same images"),
    ],
)
def test_margins_that_can_not_be_compared_are_refused(after, message):
    with pytest.raises(ValueError, match=message):
        margin_histograms(BEFORE, after, None, title="t")


def test_no_set_of_images_is_refused():
    with pytest.raises(ValueError, match="expected at least 1 set of images, got none. Give"):
        margin_histograms({}, {}, None, title="t")
