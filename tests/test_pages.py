"""The report and MLflow's pages in a real browser: what a person sees on a phone, in the dark, in print, and
in `mlflow ui`.
"""

import base64
import contextlib
import io
import re
import shutil
import subprocess

import pytest
from mlflow import MlflowClient
from PIL import Image

from lethe.experiment.base_config import BaseConfig
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.report.html_report import html_report, report_pictures
from lethe.report.palette import DARK, LIGHT
from lethe.report.svg_file import svg_file
from lethe.sweeps.sweep import run_all
from tests.browser import (
    chromium,
    errors_of,
    mlflow_ui,
    resized,
    screenshot,
    shows,
    text_of,
    wait_for,
    without_assistant,
)
from tests.report_facts import facts

pytestmark = pytest.mark.slow

FIVE = ("forget_loss", "retain_loss", "forget_probability", "forget_score", "retain_score")
LARGEST = 300_000  # bytes of a picture in docs/

# Texts of one picture whose boxes share more than a pixel each way: [words, words].
OVERLAPS = """
const found = [];
for (const picture of document.querySelectorAll('svg')) {
  const boxes = [...picture.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 3) found.push([boxes[i][0], boxes[j][0]]);
  }
}
return found;
"""
# Texts that reach out of their picture.
OUTSIDE = """
const found = [];
for (const picture of document.querySelectorAll('svg')) {
  const all = picture.getBoundingClientRect();
  for (const t of picture.querySelectorAll('text')) {
    const own = t.getBoundingClientRect();
    const across = own.left < all.left - 1 || own.right > all.right + 1;
    const along = own.top < all.top - 1 || own.bottom > all.bottom + 1;
    if (across || along) found.push(t.textContent);
  }
}
return found;
"""
SCROLLS = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
SMALLEST_TEXT = """
const scale = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
return Math.min(...[...document.querySelectorAll('svg')].map(svg => 10 * scale(svg)));
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports with 10, 20 and 1000 classes, as files."""
    folder = tmp_path_factory.mktemp("pages")
    for classes in (10, 20, 1000):
        (folder / f"{classes}.html").write_text(html_report(facts(classes, rows=128, columns=512)))
    return folder


def opened(browser, path, width, *, dark=False):
    resized(browser, width, dark=dark)
    browser.get("about:blank")
    errors_of(browser)
    browser.get(path.as_uri())


# The report


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("classes", [10, 20, 1000])
def test_no_text_overlaps_or_is_cut_and_the_page_needs_no_sideways_scrolling(browser, pages, classes, width):
    opened(browser, pages / f"{classes}.html", width)

    assert browser.execute_script(OVERLAPS) == []
    assert browser.execute_script(OUTSIDE) == []
    assert not browser.execute_script(SCROLLS)
    assert browser.execute_script(SMALLEST_TEXT) > 9
    assert errors_of(browser) == []


@pytest.mark.parametrize("classes", [10, 20, 1000])
def test_no_text_of_a_picture_as_a_file_overlaps_or_is_cut(browser, pages, classes):
    for number, picture in enumerate(
        picture for own in report_pictures(facts(classes)).values() for picture in own
    ):
        file = pages / f"{classes}-{number}.svg"
        file.write_text(svg_file(picture, "MIMU class0 seed1 kappa=0.1 topk=50"), encoding="utf-8")
        opened(browser, file, 1280)

        assert (browser.execute_script(OVERLAPS), browser.execute_script(OUTSIDE)) == ([], []), picture.name


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_the_readers_light(browser, pages, dark):
    opened(browser, pages / "10.html", 390, dark=dark)
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    bar = browser.execute_script(
        "return getComputedStyle(document.querySelector('svg rect[fill=\"var(--unlearned)\"]')).fill"
    )
    expected = DARK if dark else LIGHT

    assert [paper, bar] == [
        f"rgb{tuple(bytes.fromhex(expected[name][1:]))}" for name in ("paper", "unlearned")
    ]


def test_the_page_asks_for_nothing(browser, pages):
    opened(browser, pages / "10.html", 1280)
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:'))"
    )

    assert asked == []


def test_print_has_everything_that_is_folded_away(browser, pages, tmp_path):
    opened(browser, pages / "10.html", 1280, dark=True)
    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(
        base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    )
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext: apt-get install poppler-utils")
    text = subprocess.run(
        ["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    for words in ("Findings", "kappa", "needs an ideal model", "Seconds, versions", "unlearn"):
        assert words in text


# MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run and a sweep of two, in a store of their own, shown by `mlflow ui`."""
    folder = tmp_path_factory.mktemp("ui")
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        base = BaseConfig()
        run = Pipeline(PipelineConfig("logit_attribution", {"kappa": 0.1}, base)).run()
        run_all(
            [PipelineConfig("random_mask", {"kappa": kappa}, base, report="skip") for kappa in (0.1, 0.2)]
        )
    return folder, run


@pytest.fixture(scope="module")
def ui(browser, store):
    folder, _ = store
    with mlflow_ui(folder) as address:
        resized(browser, 1280, 800)
        without_assistant(browser, address)
        yield f"{address}/#/experiments/1"


def visited(browser, address):
    browser.get("about:blank")
    errors_of(browser)
    browser.get(address)


def kept(browser, name, tmp_path, height=None):
    """Take a screenshot that is not of one colour and not too large."""
    path = tmp_path / name
    screenshot(browser, path, height)
    with Image.open(path) as shot:
        picture = shot.convert("RGB")
    picture.save(path, optimize=True)
    assert len(picture.getcolors(1 << 24)) > 20
    assert path.stat().st_size < LARGEST


def test_the_page_of_a_run_shows_its_verdict_and_the_five_metrics(browser, store, ui, tmp_path):
    folder, run = store
    visited(browser, f"{ui}/runs/{run.run_id}")
    shows(browser, run.name, "Metrics (", "Parameters (", *FIVE)
    lines = text_of(browser).splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("Metrics (")) :]

    for name in FIVE:
        assert float(table[table.index(name) + 1]) == pytest.approx(run.metrics[name])
    described = lines[lines.index("Description") + 1]
    assert (
        described
        == MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_run(run.run_id).data.tags["verdict"]
    )
    assert errors_of(browser) == []


def test_the_report_opens_in_the_artifact_tab_without_an_error(browser, store, ui, tmp_path):
    _, run = store
    visited(browser, f"{ui}/runs/{run.run_id}/artifacts/report.html")
    frame = wait_for(lambda: browser.find_elements("css selector", "iframe"), "the report's frame")[0]
    browser.switch_to.frame(frame)
    shows(browser, "Unlearning report", "Findings")
    bars = browser.find_elements("css selector", "svg rect")
    browser.switch_to.default_content()

    assert len(bars) > 30
    assert errors_of(browser) == []
    kept(browser, "mlflow_report.png", tmp_path)


def test_a_picture_opens_in_the_artifact_tab(browser, store, ui):
    _, run = store
    visited(browser, f"{ui}/runs/{run.run_id}/artifacts/pictures/class_probabilities.svg")
    shows(browser, "class_probabilities.svg")
    drawn = "return [...document.querySelectorAll('img')].some(i => i.naturalWidth > 500)"

    assert wait_for(lambda: browser.execute_script(drawn), "the picture")
    assert errors_of(browser) == []


UNFOLD = """
const rows = [...document.querySelectorAll('.ag-row')].filter(row => row.textContent.includes(arguments[0]));
const buttons = rows.flatMap(row => [...row.querySelectorAll('button')]);
if (buttons.length) buttons[0].click();
return buttons.length > 0;
"""


def test_the_runs_of_a_sweep_fold_below_their_parent(browser, store, ui):
    parent, children = (
        "random_mask class0 x 2",
        [f"random_mask class0 seed1 kappa={kappa}" for kappa in (0.1, 0.2)],
    )
    visited(browser, f"{ui}/runs")
    shows(browser, parent, "logit_attribution class0 seed1 kappa=0.1")
    assert not any(child in text_of(browser) for child in children)
    wait_for(lambda: browser.execute_script(UNFOLD, parent), "a button that unfolds the sweep")
    shows(browser, *children)


def test_the_view_that_the_experiment_links_has_the_five_metrics_as_columns(browser, store, ui, tmp_path):
    folder, run = store
    tags = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_experiment("1").tags
    (link,) = re.findall(r"\(#/experiments/1/(.*?)\)", tags["mlflow.note.content"])
    resized(browser, 1500, 700)
    visited(browser, f"{ui}/{link}")
    shows(browser, run.name, "avg_gap", "forget_loss")
    headers = [cell.text for cell in browser.find_elements("css selector", ".ag-header-cell")]

    assert {"forget_loss", "retain_loss"} <= set(headers)
    assert "Model registry" in text_of(browser) and "Judges" not in text_of(browser)  # not the page for GenAI
    kept(browser, "mlflow_runs.png", tmp_path)


def test_a_real_report_is_kept_as_a_picture(browser, store, tmp_path):
    folder, run = store
    (page,) = folder.glob(f"mlruns/*/{run.run_id}/artifacts/report.html")
    opened(browser, page, 960)

    assert browser.execute_script(OVERLAPS) == []
    kept(browser, "report.png", tmp_path, height=1500)
