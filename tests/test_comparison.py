"""What a comparison shows, as numbers: planes, fronts, lines over kappa, and pictures whose text does not
overlap.
"""

import itertools
import math
import random
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from lethe.report.comparison import (
    about,
    compared_metrics,
    forget_against_retain,
    kappa_lines,
    labelled,
    of_base_model,
    seconds_of_ideal,
    slugs_of,
    time_against_gap,
    unlike,
)
from lethe.report.comparison_page import comparison_page, figures_of
from lethe.report.comparison_pictures import (
    MOST_LINES,
    forget_retain_picture,
    kappa_picture,
    rank_picture,
    spread_out,
    time_picture,
)
from lethe.report.figure_files import LONGEST_LINE, pdf_of, svg_of, titled
from lethe.report.palette import DARK, LIGHT, LINES
from lethe.report.seeds_summary import tasks_of
from tests.browser import chromium, errors_of, resized
from tests.compared_runs import TASK, one, run, whole_class
from tests.text_overlaps import texts_that_overlap

pytestmark = pytest.mark.slow

PART = (("arch", "mlp"), ("dataset", "digits"), ("request", "any-130"))


FORGET_LOSS, FORGET_SCORE = 0, 2  # panels of the picture over kappa

# Numbers


def test_what_is_kept_of_a_runs_numbers():
    metrics = {
        "forget_score": 2.0,
        "ideal_mia": 9.0,
        "initial_mia": 1.0,
        "ideal_seconds": 3.0,
        "ideal_train_loss": 7.0,
        "epoch_score": 1.0,
    }
    kept = compared_metrics(metrics, {"kappa_count": "819"})
    assert kept == {
        "UA": 98.0,
        "forget_score": 2.0,
        "ideal_mia": 9.0,
        "initial_mia": 1.0,
        "ideal_seconds": 3.0,
        "kappa_count": 819.0,
    }


def test_the_front_by_hand():
    task = one(
        run("A", metrics=whole_class(0, 90)),
        run("B", metrics=whole_class(5, 95)),
        run("C", metrics=whole_class(5, 94)),
        run("D", metrics=whole_class(99, 99)),
    )
    plane = forget_against_retain(task)
    assert (plane.x_name, plane.y_name) == ("test_forget_score", "test_retain_score")
    assert {point.label: point.front for point in plane.points} == {
        "A": True,
        "B": True,
        "C": False,
        "D": True,
    }


def test_near_the_ideal_counts_and_not_low_where_a_part_is_forgotten():
    def scores(forget, retain):
        return {
            "forget_score": forget,
            "retain_score": retain,
            "ideal_forget_score": 95.0,
            "ideal_retain_score": 99.0,
        }

    found = [
        run("far below", task=PART, metrics=scores(20, 98)),
        run("near", task=PART, metrics=scores(96, 98)),
    ]
    assert {point.label: point.front for point in forget_against_retain(one(*found)).points} == {
        "far below": False,
        "near": True,
    }


def near(method, seed, forget, ideal):
    return run(
        method,
        seed,
        task=PART,
        metrics={"forget_score": forget, "retain_score": 90.0}
        | ({"ideal_forget_score": ideal} if ideal else {}),
    )


def test_distances_of_two_seeds_do_not_cancel():
    far = [
        near("far", "1", 100.0, 95.0),
        near("far", "2", 90.0, 95.0),
    ]  # 5 points away each, and 0 in the mean of both
    close = [near("close", seed, 96.0, 95.0) for seed in "12"]
    assert {p.label: p.front for p in forget_against_retain(one(*far, *close)).points} == {
        "far": False,
        "close": True,
    }


def test_a_seed_is_held_against_the_ideal_of_that_seed():
    runs = [
        near("A", "1", 98.0, 98.0),
        near("B", "2", 92.0, 92.0),
        near("C", "1", 95.0, 98.0),
    ]  # C is at the mean of the two ideals
    assert {p.label: p.front for p in forget_against_retain(one(*runs)).points} == {
        "A": True,
        "B": True,
        "C": False,
    }


def test_without_an_ideal_beside_it_a_method_is_not_judged_and_the_page_says_so():
    task = one(near("A", "1", 98.0, 98.0), near("B", "1", 98.0, None))
    assert {p.label: p.front for p in forget_against_retain(task).points} == {"A": True, "B": False}
    assert "Not judged, for want of an ideal model beside them: B." in figures_of(task)[0].note


def test_without_an_ideal_nobody_can_say_what_a_part_should_come_to():
    plane = forget_against_retain(one(run(task=PART, metrics={"forget_score": 20.0, "retain_score": 98.0})))
    assert not any(point.front for point in plane.points)
    assert plane.front_reason == "no ideal model says what forget score to aim at"


def test_what_is_not_finite_is_named_and_left_out():
    task = one(
        run("A", metrics=whole_class(0, 90)), run("B", metrics=whole_class(0, 90, gap=math.inf)), run("C")
    )
    assert [point.label for point in time_against_gap(task).points] == ["A"]
    assert time_against_gap(task).left_out == ("B", "C")


def test_the_ideal_is_counted_once_a_seed_and_the_latest_run_has_it():
    early, late, other = (
        whole_class(0, 90),
        whole_class(0, 90) | {"ideal_test_retain_score": 97.0},
        whole_class(0, 90),
    )
    found = of_base_model(
        one(run("A", metrics=early, start=1), run("B", metrics=late, start=2), run("A", "2", metrics=other)),
        "ideal",
        "test_retain_score",
    )
    assert found is not None and found.values == (97.0, 98.0)


def test_the_ideals_own_runs_are_no_rival():
    assert [
        p.label
        for p in forget_against_retain(
            one(run("retrain", metrics=whole_class(0, 98)), run("A", metrics=whole_class(1, 97)))
        ).points
    ] == ["A"]


def swept(kappas: dict[str, int], method="MIMU", seeds="12"):
    return [
        run(
            method,
            seed,
            (("kappa", kappa), ("topk", "50")),
            metrics=whole_class(count / 100, 98, gap=count) | {"kappa_count": float(count)},
        )
        for kappa, count in kappas.items()
        for seed in seeds
    ]


def test_a_line_over_kappa_is_of_what_differs_in_kappa_alone():
    single = run("SFT", metrics=whole_class(0, 90))
    other_k = [
        run(
            "MIMU", own=(("kappa", "0.1"), ("topk", "9")), metrics=whole_class(0, 90) | {"kappa_count": 819.0}
        )
    ]
    (line,) = kappa_lines(one(*swept({"0.1": 819, "0.02": 163}), *other_k, single))
    assert line.label == "MIMU" and line.counts == [163, 819]
    assert [(count, over.values) for count, over in line.over("test_forget_score")] == [
        (163, (1.63, 1.63)),
        (819, (8.19, 8.19)),
    ]


def test_two_kappas_of_one_size_are_both_on_the_line():
    (line,) = kappa_lines(one(*swept({"0.1": 819, "819": 819, "0.02": 163}, seeds="1")))
    assert [(count, dict(group.own)["kappa"]) for count, group in line.groups] == [
        (163, "0.02"),
        (819, "0.1"),
        (819, "819"),
    ]
    figure = kappa_picture(one(*swept({"0.1": 819, "819": 819, "0.02": 163}, seeds="1")))
    assert len(figure.axes[0].lines[0].get_xdata()) == 3
    assert kappa_lines(one(*swept({"0.1": 819, "819": 819}))) == []


def test_lines_of_one_method_say_what_differs():
    runs = swept({"0.1": 819, "0.02": 163})
    runs += [
        run("MIMU", "1", (("kappa", str(k)), ("topk", "9")), metrics=whole_class(0, 9) | {"kappa_count": k})
        for k in (1.0, 2.0)
    ]
    assert [line.label for line in kappa_lines(one(*runs))] == ["MIMU topk=50", "MIMU topk=9"]


@given(st.lists(st.sampled_from(["a", "b", "a_2", "a_3"]), max_size=6))
def test_no_two_files_have_one_name(names):
    found = unlike(names)
    assert len(set(found)) == len(found) and all(
        own.startswith(name) for own, name in zip(found, names, strict=True)
    )


def test_a_files_name_has_no_sign_of_anybodys():
    task = one(run(task=(("arch", "my/net.py:f"), ("dataset", "größe $1"), ("request", "class0"))))
    assert slugs_of([task]) == ["gr--e--1_my-net.py-f_class0"]


def test_a_files_name_is_one_that_file_systems_hold():
    task = one(run(task=(("arch", "mlp"), ("dataset", "d" * 6000), ("request", "class0"))))
    assert [len(name) for name in slugs_of([task])] == [100]


# Pictures


def crowd(number: int, spread: float):
    return one(*crowd_runs(number, spread))


def crowd_runs(number: int, spread: float):
    draw = random.Random(number)
    runs = []
    for i in range(number):
        forget, retain = draw.random() * spread, 98 - draw.random() * spread / 10
        for seed in "12":
            runs.append(
                run(
                    f"method_number_{i}",
                    seed,
                    metrics=whole_class(forget, retain, draw.random() * 50, 10 ** (draw.random() * 4 - 2)),
                )
            )
    return runs


@pytest.mark.parametrize("spread", [100.0, 0.0], ids=["apart", "all in one place"])
@pytest.mark.parametrize("number", [1, 10, 60])
@pytest.mark.parametrize("picture", [forget_retain_picture, time_picture, rank_picture])
def test_no_text_overlaps_however_many_methods(picture, number, spread):
    assert texts_that_overlap(picture(crowd(number, spread))) == []


@pytest.mark.parametrize("decades", [0.1, 1, 2.4, 3, 6, 9])
def test_no_numbers_of_the_time_axis_overlap(decades):
    seconds = [3e-4 * 10 ** (decades * n / 5) for n in range(6)]
    runs = [run(f"method {n}", metrics=whole_class(0, 90, n, value)) for n, value in enumerate(seconds)]
    assert texts_that_overlap(time_picture(one(*runs))) == []


def test_the_check_sees_an_overlap():
    figure = Figure()
    axes = figure.add_subplot()
    axes.text(0.5, 0.5, "one")
    axes.text(0.51, 0.5, "two")
    assert ("one", "two") in texts_that_overlap(figure)


@pytest.mark.parametrize("picture", [forget_retain_picture, time_picture, rank_picture, kappa_picture])
def test_a_dollar_in_a_name_is_no_formula(picture):
    figure = picture(one(*swept({"0.1": 819, "0.02": 163}, "$x_{$")))
    FigureCanvasAgg(figure).draw()
    assert any("$x_{$" in text.get_text() for text in figure.findobj(Text))


def test_the_time_of_the_ideal_is_over_all_of_its_seeds_and_the_tables():
    runs = [run("retrain", "1", metrics=whole_class(0, 98, gap=0) | {"ideal_seconds": 100.0})]
    runs += [run("A", seed, metrics=whole_class(0, 98) | {"ideal_seconds": 10.0}) for seed in "23"]
    (line,) = [
        line
        for line in time_picture(one(*runs)).axes[0].lines
        if line.get_label() == "training the ideal model"
    ]
    assert list(line.get_xdata()) == [40.0, 40.0] and seconds_of_ideal(one(*runs)).mean == 40.0


def test_over_kappa_the_initial_and_the_ideal_model_differ_in_more_than_colour():
    lines = kappa_picture(one(*swept({"0.1": 819, "0.02": 163}))).axes[FORGET_SCORE].lines
    assert {line.get_label(): line.get_linestyle() for line in lines if "model" in line.get_label()} == {
        "initial model": LINES["initial"],
        "ideal model": LINES["ideal"],
    }


def test_what_took_no_time_is_not_on_a_logarithmic_axis():
    plane = time_against_gap(
        one(run("A", metrics=whole_class(0, 90, seconds=0)), run("B", metrics=whole_class(0, 90)))
    )
    assert [point.label for point in plane.points] == ["B"] and plane.left_out == ("A",)


def test_a_method_that_never_finished_is_in_the_table_alone():
    tasks = tasks_of(
        [
            run("A", metrics=whole_class(0, 90)),
            run("B", status="FAILED"),
            run("C", task=PART, status="KILLED"),
        ]
    )
    page = comparison_page(
        tasks, {n: figures_of(task) for n, task in enumerate(tasks)}, origin="here", command="compare.py"
    )
    assert "not finished: seed 1 FAILED" in page and "not finished: seed 1 KILLED" in page
    assert [len(figures_of(task)) for task in tasks] == [0, 3]


def test_a_metric_that_is_nowhere_finite_leaves_its_panel_empty():
    runs = [
        run(
            "MIMU",
            "1",
            (("kappa", kappa),),
            metrics=whole_class(1, 98) | {"test_forget_loss": math.inf, "kappa_count": count},
        )
        for kappa, count in (("a", 10.0), ("b", 200.0))
    ]
    figure = kappa_picture(one(*runs))
    FigureCanvasAgg(figure).draw()
    assert [len(figure.axes[panel].lines) for panel in (FORGET_LOSS, FORGET_SCORE)] == [0, 3]


@pytest.mark.parametrize("lines", [1, MOST_LINES + 4])
def test_no_text_of_the_curves_overlaps(lines):
    runs = [it for n in range(lines) for it in swept({"0.1": 819, "0.02": 163, "0.5": 4096}, f"method_{n}")]
    figure = kappa_picture(one(*runs))
    assert figure is not None and texts_that_overlap(figure) == []
    assert len(figure.axes[0].lines) == min(lines, MOST_LINES)


def test_every_panel_over_kappa_has_the_unit_that_its_metric_registers():
    figure = kappa_picture(one(*swept({"0.1": 819, "0.02": 163})))
    panels = [(axes.get_title(), axes.get_ylabel()) for axes in figure.axes if axes.axison]
    assert panels == [
        ("forget", "loss (nats)"),
        ("forget", "probability (fraction)"),
        ("forget", "score (percent)"),
        ("retain", "loss (nats)"),
        ("retain", "score (percent)"),
    ]


def test_the_band_is_from_the_smallest_to_the_largest_seed():
    runs = [
        run("MIMU", seed, (("kappa", kappa),), metrics=whole_class(forget, 98) | {"kappa_count": count})
        for kappa, count, values in (("a", 10.0, (1.0, 5.0, 3.0)), ("b", 20.0, (0.0, 0.0, 9.0)))
        for seed, forget in zip("123", values, strict=True)
    ]
    figure = kappa_picture(one(*runs))
    (band,) = figure.axes[FORGET_SCORE].collections
    corners = band.get_paths()[0].vertices
    assert {
        (x, min(y for other, y in corners if other == x), max(y for other, y in corners if other == x))
        for x, _ in corners
    } == {
        (10.0, 1.0, 5.0),
        (20.0, 0.0, 9.0),
    }
    assert list(figure.axes[FORGET_SCORE].lines[0].get_ydata()) == [3.0, 3.0]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_names_stand_apart_and_inside(wanted):
    places = spread_out(sorted(wanted, reverse=True), 5.0, 100.0)
    assert all(above - below >= 5 - 1e-9 for above, below in itertools.pairwise(places))
    assert min(places) >= -1e-9 and max(places) <= 100 + 1e-9


LONG = "logit_attribution_of_somebody"


def long_ones(names="12", kappas=(100, 200)):
    """Methods whose names differ at their end alone, beyond where a line is cut, each with several kappas."""
    runs = []
    for at, name in enumerate(names):
        own = (
            ("a_setting_of_it", f"0.0000{at % 2}"),
            ("another_one", f"1.0e-{at % 3}"),
            ("the_one_that_differs", name),
        )
        metrics = whole_class(at, 90 + at % 9, at)
        for kappa, seed in itertools.product(kappas, "12"):
            runs.append(
                run(
                    LONG, seed, (*own, ("kappa", str(kappa))), metrics=metrics | {"kappa_count": float(kappa)}
                )
            )
    return one(*runs)


@pytest.mark.parametrize("number", [2, MOST_LINES])
@pytest.mark.parametrize("picture", [forget_retain_picture, time_picture, rank_picture, kappa_picture])
def test_long_names_are_whole_and_do_not_overlap(picture, number):
    long = long_ones([str(n) for n in range(number)])
    figure = picture(long)
    assert texts_that_overlap(figure) == []
    words = {" ".join(text.get_text().split()) for text in figure.findobj(Text)}
    labels = (
        set(labelled(long)) if picture is not kappa_picture else {line.label for line in kappa_lines(long)}
    )
    assert labels <= words and len(labels) >= number


@pytest.mark.parametrize("number", [1, 30])
def test_a_figure_of_its_own_has_a_title_units_and_names_of_all_axes(number):
    task = one(*crowd_runs(number, 50.0), *swept({"0.1": 819, "0.02": 163}))
    assert [one.name for one in figures_of(task)] == ["forget_retain", "kappa", "ranks", "time"]
    for drawn in figures_of(task):
        with titled(drawn.figure, f"{drawn.title}\n{about(task)}"):
            assert texts_that_overlap(drawn.figure) == []
            assert f"{drawn.title}\nClass 0 of digits forgotten, mlp" in [
                text.get_text() for text in drawn.figure.texts
            ]
        shown = [axes for axes in drawn.figure.axes if axes.axison]
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in shown)
        assert not drawn.figure.texts


def test_the_legend_of_the_ranks_says_what_is_drawn():
    figure = rank_picture(
        one(
            run("A", metrics=whole_class(0, 90)),
            *(run("B", seed, metrics=whole_class(0, 90, 2)) for seed in "12"),
        )
    )
    words = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert words == {"one seed", "mean over the seeds", "95 % interval", "ideal model"}


# Files


@pytest.mark.skipif(shutil.which("pdffonts") is None, reason="needs pdffonts (Debian: poppler-utils)")
def test_the_fonts_of_a_pdf_are_in_it(tmp_path):
    (tmp_path / "ranks.pdf").write_bytes(pdf_of(rank_picture(crowd(3, 50)), "t"))
    lines = subprocess.run(
        ["pdffonts", tmp_path / "ranks.pdf"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[2:]
    assert lines and all(re.search(r"TrueType +\S+ +yes", line) for line in lines)  # emb: yes; no Type 3


def test_the_same_figure_is_the_same_file():
    assert pdf_of(rank_picture(crowd(3, 50)), "t") == pdf_of(rank_picture(crowd(3, 50)), "t")


def test_a_picture_takes_the_pages_colours_and_has_ids_of_its_own():
    first, second = (
        svg_of(rank_picture(crowd(3, 50)), name, 'who is "near"') for name in ("t0-ranks", "t1-ranks")
    )
    assert "#1b1f24" not in first.lower() and "var(--ink)" in first and "var(--unlearned)" in first
    assert not set(re.findall(r'\bid="([^"]+)"', first)) & set(re.findall(r'\bid="([^"]+)"', second))
    assert ElementTree.fromstring(first).get("aria-label") == 'who is "near"'
    assert all(f'id="{target}"' in first for target in re.findall(r'(?:href="#|url\(#)([^")]+)', first))


def test_the_page_needs_nothing_else_and_escapes_what_it_is_told():
    tasks = tasks_of(
        [run("<b>&", seed, metrics=whole_class(1, 97)) for seed in "12"]
        + [run("A", task=(*TASK, ("hidden", "<i>")))]
    )
    page = comparison_page(
        tasks,
        {n: figures_of(task) for n, task in enumerate(tasks)},
        origin="2 runs of <x>",
        command="compare.py",
    )
    assert (
        not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org)", page)
        and "<b>&" not in page
        and "<i>" not in page
    )
    assert (
        "&lt;b&gt;&amp;" in page
        and "No run here has an ideal model" in page
        and "One seed: no interval" in page
    )


def test_the_page_and_the_pictures_name_the_class():
    task = one(run("A", metrics=whole_class(0, 90), forgotten="class 0 (<cat>)"))
    page = comparison_page([task], {0: figures_of(task)}, origin="here", command="compare.py")
    assert "request class 0 (&lt;cat&gt;); seeds 1" in page
    assert about(task) == "Class 0 (<cat>) of digits forgotten, mlp"


def test_a_long_title_is_wrapped():
    figure = Figure()
    with titled(figure, "Ranks\nClasses " + ", ".join(f"{n} (name)" for n in range(20))):
        assert max(map(len, figure.texts[0].get_text().splitlines())) <= LONGEST_LINE


def test_a_reader_who_sees_no_picture_is_told_the_points():
    task = one(run("A", metrics=whole_class(0, 90)), run("B", metrics=whole_class(5, 80)))
    assert (
        figures_of(task)[0].alt
        == "Forget score against retain score, percent. A 0.0 and 90.0, on the front; B 5.0 and 80.0"
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with two comparisons, of 60 methods and over kappa, as a file."""
    tasks = tasks_of(
        [
            *(it for it in crowd_runs(60, 50.0)),
            *swept({"0.1": 819, "0.02": 163}),
            run("FT", task=PART, metrics=whole_class(90, 98)),
        ]
    )
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    file.write_text(
        comparison_page(
            tasks, {n: figures_of(task) for n, task in enumerate(tasks)}, origin="here", command="compare.py"
        )
    )
    return file


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_a_real_browser_shows_the_page_without_an_error_or_sideways_scrolling(browser, page, width, dark):
    resized(browser, width, dark=dark)
    browser.get(page.as_uri())
    assert errors_of(browser) == []
    assert not browser.execute_script(
        "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    ink = browser.execute_script(
        "return getComputedStyle(document.querySelector('svg [style*=\"fill: var(--ink)\"]')).fill"
    )
    assert asked == [] and ink == f"rgb{tuple(bytes.fromhex((DARK if dark else LIGHT)['ink'][1:]))}"


CUT_TABLES = """
const boxes = [...document.querySelectorAll('.wide:has(table)')];
return boxes.filter(box => box.scrollWidth > box.clientWidth).length;
"""


def test_tables_use_the_width_of_the_window(browser, page):
    resized(browser, 1920)
    browser.get(page.as_uri())
    assert browser.execute_script(CUT_TABLES) == 0
    resized(browser, 600)
    assert browser.execute_script(CUT_TABLES) > 0  # they scroll there
