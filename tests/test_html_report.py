"""The page of a run: self-contained, says what is missing and why, and has the same numbers as elsewhere."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from lethe.evaluation import METRICS, Missing, Outputs
from lethe.evaluation.loss_threshold import auc
from lethe.report.best_known import best_known
from lethe.report.curve_charts import curves
from lethe.report.html_report import grouped, html_report, report_pictures, shown
from lethe.report.kappa_chart import kappa_curve
from lethe.report.layer_charts import Layer, layer_map, weight_sizes
from lethe.report.loss_charts import area, attack_roc, loss_histogram, roc
from lethe.report.prediction_charts import class_bars, confusion, confusion_counts
from lethe.report.run_facts import ForgetImages
from lethe.report.svg import apart, ticks
from tests.report_facts import facts, model_outputs, with_numbers

MOST_BYTES = 2_000_000
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its text; whether each that was opened was closed."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page():
    return html_report(facts())


@pytest.mark.parametrize("classes", [2, 10, 30, 1000])
def test_the_page_is_whole_needs_nothing_else_and_is_small(classes):
    text = html_report(facts(classes, rows=300, columns=700))
    page = Page(text)
    places = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data")
    ]

    assert page.open == []
    assert len(text.encode()) < MOST_BYTES
    assert all(place.startswith("data:image/png;base64,") for place in places)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)


def test_every_picture_says_what_it_shows(page):
    pictures = [(tag, attributes) for tag, attributes in Page(page).elements if tag in ("svg", "img")]

    assert len(pictures) > 20
    assert all(
        len(attributes.get("alt") or attributes.get("aria-label") or "") > 20 for _, attributes in pictures
    )


def test_every_svg_is_xml(page):
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)

    assert len(drawn) > 8
    for picture in drawn:
        ElementTree.fromstring(picture)


def test_what_a_person_wrote_is_text_and_no_markup(page):
    assert "method <b>class0</b> seed1" in Page(page).text
    assert "<b>class0</b>" not in page
    assert "--data '<./data>'" in Page(page).text


def test_the_page_has_what_was_asked_done_found_and_every_parameter(page):
    text = Page(page).text

    for words in (
        "Forget class 0.",
        "One line & more.",
        "Somebody 2020",
        "Completely",
        "kappa",
        "a & b",
        "torch",
        "A note.",
        "0" * 32,
    ):
        assert words.casefold() in text.casefold(), words
    for heading in (
        "Findings",
        "Before, after, ideal",
        "Predictions",
        "Losses and attacks",
        "The masked layer",
        "History",
        "Everything else",
    ):
        assert heading in text


def test_the_table_has_the_numbers_with_the_direction_that_is_good(page):
    row = re.search(r"<tr><th scope=\"row\"><code>retain_score</code>.*?</tr>", page, flags=re.DOTALL)[0]
    own = facts().measured.models

    assert re.findall(r"<td>(.*?)</td>", row) == [
        f"{own[model]['retain_score']:.2f}" for model in ("initial", "unlearned", "ideal")
    ]
    assert "good: higher" in row


def test_without_an_ideal_model_the_page_says_so_and_how_to_make_it():
    text = Page(html_report(facts(ideal=False))).text

    assert "There is no ideal model to hold it against." in text
    assert "whether that is complete is not known" in text
    assert "MAKE" in text
    assert "Confusion of test images: ideal model" not in text


def test_what_was_not_measured_is_there_with_its_reason():
    text = Page(html_report(facts())).text

    assert "Not measured, and why" in text
    assert "needs an ideal model. Make it: MAKE avg_gap rUA" in text


def test_a_metric_without_any_value_has_no_row_but_its_reason():
    own = replace(
        facts(),
        kinds=[*facts().kinds, METRICS["klom_forget_p95"]],
        undefined={"klom_forget_p95": Missing("needs many models")},
    )
    text = html_report(own)

    assert text.count("klom_forget_p95") == 1
    assert "All other metrics" not in text


def test_a_run_with_few_metrics_no_mask_no_history_and_no_images_has_a_page():
    own = replace(facts(), kinds=[METRICS["forget_score"]], layer=None, histories=(), images=None)
    for model in ("initial", "unlearned", "ideal"):
        own = with_numbers(
            own, model, **{name: None for name in own.measured.models[model] if name != "forget_score"}
        )
    text = Page(html_report(own)).text

    assert "no attack was run".capitalize() in text
    assert "COMMAND --metrics all" in text
    assert "The masked layer" not in text
    assert "still knows best" not in text


# The numbers behind the pictures


def test_the_roc_curve_has_the_area_that_is_measured():
    own = model_outputs(10)
    forget, test = own.forget, own.test
    false, true = roc(forget, test)
    trained = np.repeat([1, 0], [len(forget), len(test)])
    low_loss = -np.concatenate([forget.losses, test.losses])

    assert area(false, true) == pytest.approx(auc(forget.losses, test.losses))
    assert area(false, true) == pytest.approx(roc_auc_score(trained, low_loss))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_equal_losses_are_one_step_of_the_curve():
    same = Outputs(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))

    assert [part.tolist() for part in roc(same, same)] == [[0.0, 1.0], [0.0, 1.0]]


def test_confusion_is_that_of_scikit_learn():
    own = model_outputs(7, sure=1.0).test

    assert np.array_equal(
        confusion_counts(own), confusion_matrix(own.labels, own.logits.argmax(1), labels=range(7))
    )


def test_infinite_losses_and_histories_are_drawn_and_said():
    logits = torch.zeros(20, 3)
    logits[:, 0] = -torch.inf
    sure = Outputs(logits, torch.zeros(20, dtype=torch.int64))
    steps = [{"loss": 1.0}, {"loss": float("nan")}, {"loss": float("inf")}]

    assert (
        loss_histogram("unlearned", sure, sure).note
        == "40 images beyond the ends are counted in the outermost bins."
    )
    assert "AUC 0.500" in attack_roc({"unlearned": (sure, sure)}).keys[0].text
    assert (
        curves("Unlearning", steps, role="unlearned", step="step")[0].note
        == "2 values that are not finite are left out."
    )


def ylabel_of(picture):
    return re.findall(r"rotate[^>]*>([^<]+)</text>", picture.svg)[0]


def test_a_curves_axes_have_units():
    steps = [
        {
            "loss": 1.0,
            "forget_score": 2.0,
            "mia_auc": 0.5,
            "repair_loss": 1.0,
            "matching_loss": 1.0,
            "temperature": 3.0,
        }
    ] * 3
    labels = [ylabel_of(picture) for picture in curves("Unlearning", steps, role="unlearned", step="epoch")]
    assert labels == [
        "loss (nats)",
        "forget score (percent)",
        "mia auc (fraction)",
        "repair loss (nats)",
        "matching loss (squared nats)",
        "temperature",
    ]
    steep = curves("U", [{"loss": 1000.0}, {"loss": 1.0}], role="unlearned", step="step")[0]
    assert ylabel_of(steep) == "loss (nats, log scale)" and "loss (nats) over 2 steps" in steep.alt


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_a_score_that_never_changes_has_no_axis_beyond_its_scale(value):
    (picture,) = curves("U", [{"score": value}] * 3, role="unlearned", step="epoch")
    numbers = [float(word) for word in re.findall(r'class="tick"[^>]*>(-?[\d.]+)</text>', picture.svg)]
    assert min(numbers) >= 0 and max(numbers) <= 100 and value in numbers


def test_curves_that_are_left_out_are_named():
    pictures = curves("U", [{f"n_{n}": 1.0 for n in range(15)}] * 2, role="unlearned", step="step")
    assert (
        len(pictures) == 12 and pictures[-1].note == "3 more of this history are not drawn: n 12, n 13, n 14."
    )
    assert [picture.note for picture in pictures[:-1]] == [""] * 11


def test_weights_that_are_counted_at_the_edge_are_said():
    weight, keep = torch.linspace(-0.01, 0.01, 2000).view(20, 100), torch.ones(20, 100, dtype=torch.bool)
    assert weight_sizes(Layer("linear2", weight, keep)).note == ""
    weight[0, 0] = 5.0
    assert re.fullmatch(
        r"1 weight beyond ±0\.0\d+ counted in the outermost bins\.",
        weight_sizes(Layer("linear2", weight, keep)).note,
    )


def test_bars_of_many_classes_keep_the_largest_and_sum_up_the_others():
    picture = class_bars({"initial": model_outputs(100).forget}, [f"name {c}" for c in range(100)])

    assert "80 others" in picture.svg
    assert "name 0" in picture.svg
    assert "20 of 100 classes" in picture.note


def test_a_long_class_name_is_cut_and_escaped():
    picture = confusion("initial", model_outputs(3).test, ["a<b", "an extraordinarily long name", "c"])

    assert "a&lt;b" in picture.svg
    assert "an extraordin…" in picture.svg
    assert "extraordinarily" not in picture.svg


def test_the_layer_picture_says_what_is_switched_off_where():
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[2, :3] = False
    layer = Layer("linear2", torch.randn(4, 6), keep)
    picture = layer_map(layer)

    assert layer.switched_off == "3 of 24 weights of linear2 are switched off (12.5 %)"
    assert "Most at the output neurons 2 (3)." in picture.note
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", picture.svg)[1])))
    )
    assert np.array_equal((pixels == 0).all(-1), ~keep.numpy())
    assert "switched off: 3" in weight_sizes(layer).keys[1].text


def test_the_best_known_images_are_those_with_the_largest_probability_of_their_class():
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    models = {"unlearned": Outputs(logits, torch.zeros(3, dtype=torch.int64))}
    images = torch.tensor([0, 16, 8], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    best = best_known(ForgetImages(images, 16, torch.tensor([5, 7, 9])), models, ["zero", "one"], shown=2)

    assert [(one.index, one.label) for one in best] == [(7, "zero"), (9, "zero")]
    assert best[0].probabilities["unlearned"] == pytest.approx(1 / (1 + np.exp(-3.0)))
    white = np.asarray(Image.open(io.BytesIO(base64.b64decode(best[0].uri.partition(",")[2]))))
    assert white.tolist() == [[[255] * 3] * 2] * 2


# Small things


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "percent", "–"),
        (0.0, "percent", "0.00"),
        (0.001, "percent", "< 0.01"),
        (-0.001, "points", "> -0.01"),
        (99.999, "percent", "100.00"),
        (float("inf"), "nats", "∞"),
        (1234.5, "seconds", "1,234.500"),
        (28.0, "steps", "28"),
    ],
)
def test_numbers_in_the_table(value, unit, text):
    assert shown(value, unit) == text


def test_a_reason_is_given_once():
    assert grouped({"a": "x", "initial_a": "x", "b": "x", "ideal_c": "y"}) == [
        ("x", ["a", "b"]),
        ("y", ["ideal_c"]),
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 999), (-1e-5, 1e-5), (3, 3), (0, 1e9), (0.1, 0.11)])
def test_ticks_are_inside_and_differ(low, high):
    found = ticks(low, high)

    assert all(low - 1e-9 <= at <= high + 1e-9 for at, _ in found)
    assert len({words for _, words in found}) == len(found)


def test_labels_that_would_touch_are_left_out():
    assert apart([(50, "1,000"), (60, "2,000"), (120, "3,000"), (359, "4,000")]) == [
        (50, "1,000"),
        (120, "3,000"),
    ]


def test_the_masks_among_which_the_method_chose_are_a_picture_of_the_report():
    picture = kappa_curve([(1, 90.0, 99.0), (2, 0.0, 98.0)], (99.0, 99.0), title="Masks", size=10)
    drawn = report_pictures(replace(facts(), over_kappa=picture))["The masked layer"]
    assert drawn[-1].name == "forget_and_retain_over_kappa"
    assert len(report_pictures(facts())["The masked layer"]) == len(drawn) - 1
