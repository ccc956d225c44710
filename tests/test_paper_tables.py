"""Tables for a paper: their numbers by hand, and that LaTeX takes them."""

import re
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.report.paper_tables import COLUMNS_ABREAST, PREVIEW, gap_table, paper_tables
from lethe.report.seeds_summary import tasks_of
from lethe.report.seeds_tables import latex_of
from tests.compared_runs import TASK, one, run

pytestmark = pytest.mark.slow

SCORES = ("UA", "RA", "TA", "MIA")


def scored(own: tuple[float, ...], ideal: tuple[float, ...], gap: float | None = None) -> dict[str, float]:
    """UA, RA, TA and MIA of a run and of its ideal model, where a part of a class is forgotten."""
    names = ("ideal_forget_score", "ideal_retain_score", "ideal_test_score", "ideal_mia")
    of_ideal = dict(zip(names, (100 - ideal[0], *ideal[1:]), strict=True))
    return (
        dict(zip(SCORES, own, strict=True))
        | of_ideal
        | ({} if gap is None else {"avg_gap": gap, "unlearn_seconds": 2.0, "ideal_seconds": 30.0})
    )


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first one."""
    lines = [line.removesuffix(r" \\").split(" & ") for line in table.splitlines() if line.endswith(r"\\")]
    return {cells[0]: cells[1:] for cells in lines}


# UA, RA, TA, MIA


def test_gaps_are_to_the_ideal_of_the_same_seed():
    first = run("FT", "1", metrics=scored((10, 90, 80, 50), (12, 91, 81, 40), 3.5))
    second = run("FT", "2", metrics=scored((14, 92, 82, 60), (12, 93, 81, 55), 2.5))
    found = rows(gap_table(one(first, second)))
    assert found["FT"] == [
        r"12.00 $\pm$ 2.83 (2.00)",
        r"91.00 $\pm$ 1.41 (1.00)",
        r"81.00 $\pm$ 1.41 (1.00)",
        r"55.00 $\pm$ 7.07 (7.50)",
        r"3.00 $\pm$ 0.71",
        r"2.00 $\pm$ 0.00",
    ]
    assert found["Retrain"][0] == r"12.00 $\pm$ 0.00 (0.00)" and found["Retrain"][4:] == [
        "0.00",
        r"30.00 $\pm$ 0.00",
    ]


PERCENT = st.tuples(*[st.floats(0, 100)] * 4)


@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=1, max_size=4))
def test_the_four_brackets_average_to_the_average_gap(pairs):
    gaps = [statistics.fmean(abs(a - b) for a, b in zip(own, ideal, strict=True)) for own, ideal in pairs]
    runs = [
        run("FT", str(n), metrics=scored(own, ideal, gap))
        for n, ((own, ideal), gap) in enumerate(zip(pairs, gaps, strict=True))
    ]
    cells = rows(gap_table(one(*runs)))["FT"]
    brackets = [float(re.search(r"\(([\d.]+)\)$", cell)[1]) for cell in cells[:4]]
    assert statistics.fmean(brackets) == pytest.approx(float(cells[4].split(" ")[0]), abs=0.011)


def test_the_whole_class_is_judged_by_the_test_images_of_the_others():
    metrics = scored((100, 90, 80, 50), (100, 91, 55, 40), 1.0) | {
        "test_retain_score": 80.0,
        "ideal_test_retain_score": 82.0,
        "test_forget_score": 0.0,
    }
    table = gap_table(one(run("FT", metrics=metrics)))
    assert rows(table)["FT"][2] == "80.00 (2.00)"
    assert "TA: accuracy on the test images of the retained classes" in table


def test_a_run_of_retrain_is_no_second_ideal_and_one_that_failed_no_row():
    ideal = scored((10, 90, 80, 50), (10, 90, 80, 50), 0.0)
    table = gap_table(
        one(run("FT", metrics=ideal), run("retrain", metrics=ideal), run("SSD", status="FAILED"))
    )
    assert list(rows(table)) == ["Method", "Retrain", "FT"]


def test_what_was_not_measured_is_a_dash():
    metrics = scored((10, 90, 80, 50), (10, 90, 80, 50))
    del metrics["MIA"]
    assert rows(gap_table(one(run("FT", metrics=metrics))))["FT"][3:] == ["--", "--", "--"]


def test_an_attack_that_is_undecided_of_the_ideal_model_is_a_dash():
    metrics = scored((10, 90, 80, 50), (10, 90, 80, 50), None)
    del metrics["ideal_mia"]
    found = rows(gap_table(one(run("FT", metrics=metrics))))
    assert found["Retrain"][:4] == ["10.00 (0.00)", "90.00 (0.00)", "80.00 (0.00)", "--"]
    assert found["FT"][3] == "50.00"


def test_without_an_ideal_there_is_no_table_and_the_command_is_said():
    files, lacking = paper_tables(tasks_of([run("FT", metrics={"UA": 1.0})]))
    assert files == {}
    assert lacking[0].startswith(
        "no table of gaps for class 0: no run has an ideal model beside it. Make it: python -u main_ideal.py"
    )
    assert lacking[1].startswith(
        "no tables of MIMU: it was not run. Run it: python -u mlflow_forget.py --unlearn MIMU"
    )


def test_two_comparisons_of_one_model_write_two_tables_of_mimu():
    own = (("kappa", "0.1"), ("topk", "50"))
    runs = [
        run("MIMU", own=own, task=(*TASK, ("hidden", hidden)), metrics={"forget_score": 1.0})
        for hidden in ("64", "128")
    ]
    files, _ = paper_tables(tasks_of(runs))
    assert [name for name in files if name.startswith("mimu_")] == [
        "mimu_digits_mlp_K50_kappa0.1.tex",
        "mimu_digits_mlp_K50_kappa0.1_2.tex",
    ]


def test_where_an_ideal_model_lacks_a_measure_that_is_what_is_said():
    metrics = scored((10, 90, 80, 50), (10, 90, 80, 50))
    del metrics["ideal_retain_score"]
    _, lacking = paper_tables(tasks_of([run("FT", metrics=metrics)]))
    assert lacking[0].startswith(
        "no table of gaps for class 0: its ideal model's RA is lacking. "
        "Measure it: python -u mlflow_forget.py"
    )


BOTH = scored((10, 90, 80, 50), (10, 90, 80, 50), 0.0)


def test_the_caption_names_the_seeds_that_are_in_the_numbers():
    runs = [
        run("A", "1", metrics=BOTH),
        run("A", "2", metrics=BOTH),
        run("A", "3", status="FAILED"),
        run("B", "1", metrics=BOTH),
    ]
    table = gap_table(one(*runs))
    assert list(rows(table)) == ["Method", "Retrain", "A", "B (n=1)"]
    assert (
        "over seeds 1, 2 (n: of so many of them alone)" in table
        and "3" not in re.search(r"over seeds [^;]*", table)[0]
    )
    assert "over seeds 1, 2;" in gap_table(one(*runs[:3]))


def test_a_number_of_fewer_seeds_than_its_row_says_so():
    lacking = {name: value for name, value in BOTH.items() if name not in ("MIA", "ideal_retain_score")}
    found = rows(gap_table(one(run("A", "1", metrics=BOTH), run("A", "2", metrics=lacking))))
    assert list(found) == ["Method", "Retrain (n=1)", "A"]
    assert found["A"][:4] == [
        r"10.00 $\pm$ 0.00 (0.00)",
        r"90.00 $\pm$ 0.00 (0.00, n=1)",
        r"80.00 $\pm$ 0.00 (0.00)",
        "50.00 (n=1) (0.00, n=1)",
    ]


def test_a_gap_is_to_the_ideal_beside_the_run_where_a_seed_had_two():
    first = run("A", "1", metrics=scored((5, 99, 95, 10), (5, 99, 95, 10), 0.0))
    second = run("B", "1", metrics=scored((20, 99, 95, 10), (20, 99, 95, 10), 0.0), start=1)
    table = gap_table(one(first, second))
    found = rows(table)
    assert found["A"][0] == "5.00 (0.00)" and found["B"][0] == found["Retrain"][0] == "20.00 (0.00)"
    assert (
        "Of seed 1 there are several retrained models: Retrain is the latest, a gap is to the one beside its "
        "run." in table
    )
    assert "several" not in gap_table(one(first))


# MIMU's four


def four(request="class0", kappa="0.1", seeds="12", factor=1.0):
    """MIMU, SFT and a random mask with two seeds each, whose numbers tell which is which."""
    task = (("arch", "mlp"), ("dataset", "digits"), ("request", request))
    settings = {
        "MIMU": (("kappa", kappa), ("topk", "50")),
        "SFT": (("steps", "32"),),
        "random_mask": (("kappa", kappa),),
    }
    for number, (method, own) in enumerate(settings.items(), 1):
        for seed in seeds:
            values = {
                f"test_{part}_{what}": 10.0 * number * factor + at for at, (part, what) in enumerate(PARTS)
            }
            values |= {f"initial_test_{part}_{what}": 77.0 + at for at, (part, what) in enumerate(PARTS)} | {
                "kappa_count": 819.0
            }
            yield run(method, seed, own, task, metrics=values)


PARTS = [(part, what) for part in ("forget", "retain") for what in ("loss", "score")]


def test_the_four_tables():
    files, _ = paper_tables(tasks_of(four()))
    tables = files["mimu_digits_mlp_K50_kappa0.1.tex"].split(r"\begin{table}")[1:]
    assert len(tables) == 4
    for at, (table, (part, what)) in enumerate(zip(tables, PARTS, strict=True)):
        found = rows(table)
        digits = 3 if what == "loss" else 2
        assert list(found) == ["", "MIMU", "SFT", "Random mask", "Original"] and found[""] == ["class 0"]
        assert [float(found[name][0].split(" ")[0]) for name in list(found)[1:]] == [
            10.0 + at,
            20.0 + at,
            30.0 + at,
            77.0 + at,
        ]
        assert found["MIMU"] == [rf"{10 + at:.{digits}f} $\pm$ {0:.{digits}f}"]
        of = "forgotten" if part == "forget" else "other"
        assert (
            f"{what.capitalize()} (" in table
            and f"on the test images of the {of} classes, mlp on digits" in table
        )
        assert r"$K = 50$, $\kappa = 0.1$ (819 weights switched off). " in table
        assert r"Mean $\pm$ standard deviation over seeds 1, 2." in table


def test_a_column_for_each_request_and_another_block_where_they_are_many():
    requests = [f"class{n}" for n in range(COLUMNS_ABREAST + 1)]
    files, _ = paper_tables(
        tasks_of([it for n, request in enumerate(requests) for it in four(request, factor=1 + n)])
    )
    table = files["mimu_digits_mlp_K50_kappa0.1.tex"].split(r"\end{table}")[0]
    assert (
        "\n & class 0 & class 1 & class 2 & class 3 \\\\" in table and "\n & class 4 &  &  &  \\\\" in table
    )
    assert all(
        len(re.findall(r"(?<!\\)&", line)) == COLUMNS_ABREAST
        for line in table.splitlines()
        if line.endswith(r"\\")
    )
    assert r"MIMU & 50.000 $\pm$ 0.000 &  &  &  \\" in table


def test_a_mask_of_another_size_is_no_baseline_and_what_was_not_run_is_a_dash():
    runs = [it for it in four() if it.method == "MIMU"] + [
        it for it in four(kappa="0.5") if it.method == "random_mask"
    ]
    table = paper_tables(tasks_of(runs))[0]["mimu_digits_mlp_K50_kappa0.1.tex"]
    assert r"Random mask & -- \\" in table and r"SFT & -- \\" in table and "--: not run." in table


def test_every_kappa_has_its_four():
    files, _ = paper_tables(tasks_of([*four(), *four(kappa="50%")]))
    assert [name for name in files if name.startswith("mimu")] == [
        "mimu_digits_mlp_K50_kappa0.1.tex",
        "mimu_digits_mlp_K50_kappa50-.tex",
    ]
    assert r"$\kappa = 50\%$" in files["mimu_digits_mlp_K50_kappa50-.tex"]


def test_captions_of_the_four_name_the_seeds_that_are_in_the_numbers():
    runs = [it for it in four() if (it.method, it.seed) != ("MIMU", "2")]
    others = [
        run("FT", "9", status="FAILED"),
        run("FT", "8", metrics={"initial_test_forget_loss": 0.0}),
    ]  # in no row
    table = paper_tables(tasks_of([*runs, *others]))[0]["mimu_digits_mlp_K50_kappa0.1.tex"].split(
        r"\end{table}"
    )[0]
    found = rows(table)
    assert found["MIMU"] == ["10.000 (n=1)"] and found["Original"] == [r"77.000 $\pm$ 0.000"]
    assert "over seeds 1, 2 (n: of so many of them alone)." in table
    several = paper_tables(tasks_of([*four(), *four("class3", seeds="1")]))[0][
        "mimu_digits_mlp_K50_kappa0.1.tex"
    ]
    assert "over seeds 1, 2 of class 0; seed 1 of class 3." in several


def test_classes_have_their_names_with_the_signs_of_latex_escaped():
    both = BOTH | {"ideal_test_retain_score": 80.0}
    named = [replace(it, forgotten="class 0 (R&D_$1)", metrics=it.metrics | both) for it in four()]
    files, lacking = paper_tables(tasks_of(named))
    escaped = r"class 0 (R\&D\_\$1)"
    assert "\n & " + escaped + " \\\\\n" in files["mimu_digits_mlp_K50_kappa0.1.tex"]
    assert rf"\caption{{C{escaped[1:]} of digits forgotten, mlp." in files["gaps_digits_mlp_class0.tex"]
    assert not lacking


# LaTeX takes them

pdflatex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs pdflatex (Debian: texlive-latex-base texlive-latex-recommended)",
)


def compiled(folder: Path, document: str) -> str:
    """The log; fails where LaTeX does."""
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "-no-shell-escape", document]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    log = (folder / document).with_suffix(".log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log
    return log


STRANGE = r"m_{1}^2 ~50% & #1 \x <b> $y$ | é ±→↑"


@pdflatex
def test_latex_takes_every_table(tmp_path):
    both = scored((10, 90, 80, 50), (12, 91, 81, 40), 3.5)
    strange = [
        run(STRANGE, seed, (("path", f"C:\\{value}_%"),), metrics=both) for seed in "12" for value in "ab"
    ]
    files, _ = paper_tables(tasks_of([*strange, *four(), *four("class3"), run("FT", metrics=both)]))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    log = compiled(tmp_path, PREVIEW)
    assert "Output written on preview.pdf" in log and (tmp_path / "preview.pdf").read_bytes().startswith(
        b"%PDF"
    )
    assert {name for name in files if name != PREVIEW} == set(re.findall(r"input\{([^}]+)\}", files[PREVIEW]))


@pdflatex
def test_latex_takes_the_parsers_summary(tmp_path):
    values = {"UA": 10.0, "RA": 90.0, "TA": 80.0, "MIA": 50.0, "avg_gap": 3.0, "unlearn_seconds": 1.0}
    runs = [
        run(method, seed, own, metrics=values)
        for seed in "12"
        for method, own in ((STRANGE, (("lr", "a_b"),)), (STRANGE, ()), ("retrain", ()))
    ]
    (tmp_path / "summary.tex").write_text(latex_of(tasks_of([*runs, run("FT_l1", "3", status="KILLED")])))
    document = [
        r"\documentclass{article}",
        r"\usepackage{booktabs, graphicx}",
        r"\begin{document}",
        r"\input{summary}",
        r"\end{document}",
    ]
    (tmp_path / "paper.tex").write_text("\n".join(document))
    compiled(tmp_path, "paper.tex")
