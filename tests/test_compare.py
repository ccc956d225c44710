"""compare.py as it is called: from a store, from a CSV, and what it says to mistakes."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import mlflow_forget
import mlruns_parser
from lethe.cli import compare
from tests.compared_runs import whole_class
from tests.filled_stores import empty_place  # noqa: F401 (a fixture of every test here)

pytestmark = pytest.mark.slow


def test_the_command_can_be_pasted():
    options = compare.parser().parse_args(
        ["--experiment", "two words", "b", "--filter", "params.arch = 'mlp'"]
    )
    assert shlex.split(compare.command_of(options))[3:] == [
        "--experiment",
        "two words",
        "b",
        "--filter",
        "params.arch = 'mlp'",
    ]


@pytest.fixture
def compared(database):
    """A store with two methods on two seeds, MIMU with two kappas, a sweep's parent, a failed run and one of
    somebody else's.
    """
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("compared")
    same = {"dataset": "digits", "arch": "mlp", "request": "class0", "hidden": "128,64"}
    same |= {"forget_request": "class 0 (zero)"}
    client.log_param(
        client.create_run(client.create_experiment("others"), run_name="no method").info.run_id, "lr", "1"
    )
    parent = client.create_run(experiment, tags={"sweep": "parent"}).info.run_id
    client.log_param(parent, "unlearn", "MIMU")

    def log(params, metrics, status="FINISHED", **tags):
        run = client.create_run(experiment, tags=tags).info.run_id
        numbers = [Metric(name, value, 0, 0) for name, value in ({"unlearn_loss": 0.1} | metrics).items()]
        client.log_batch(
            run, metrics=numbers, params=[Param(name, value) for name, value in (same | params).items()]
        )
        client.set_terminated(run, status)

    more = {
        "forget_score": 1.0,
        "retain_score": 99.0,
        "mia": 50.0,
        "ideal_forget_score": 0.0,
        "ideal_retain_score": 99.0,
        "ideal_mia": 60.0,
    }
    for seed in ("1", "2"):
        for kappa, count in (("0.1", "819"), ("0.02", "163")):
            mimu = {"unlearn": "MIMU", "seed": seed, "topk": "50", "kappa": kappa, "kappa_count": count}
            log(mimu, whole_class(float(seed), 97.0) | more, **{"mlflow.parentRunId": parent})
        log({"unlearn": "FT", "seed": seed, "unlearn_lr": "0.1"}, whole_class(90.0, 99.0) | more)
    log({"unlearn": "FT", "seed": "3", "unlearn_lr": "0.1"}, {}, "FAILED")
    return ["--tracking_uri", f"sqlite:///{database}", "--experiment", "compared", "others"]


def refused(capsys, *words) -> str:
    before = sorted(Path().iterdir())
    assert compare.main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("compare.py: ") and said.count("\n") == 1 and sorted(Path().iterdir()) == before
    return said


def test_a_store_becomes_a_page_tables_and_figures(compared, capsys):
    assert compare.main([*compared, "--tables", "paper/tables", "--figures", "paper/figures"]) == 0
    said = capsys.readouterr()
    assert (
        "7 runs, 1 comparison -> comparison.html and 8 files in paper/tables and paper/figures" in said.out
        and said.err == ""
    )
    page = Path("comparison.html").read_text()
    assert (
        "7 runs of sqlite:///" in page
        and "2 other runs left out" in page
        and "not finished: seed 3 FAILED" in page
    )
    assert all(name in page for name in ("MIMU", "kappa=0.1", "kappa=0.02", "Over kappa", "Pareto front"))
    assert (
        sorted(path.name for path in Path("paper/tables").iterdir())
        == [
            "gaps_digits_mlp_class0.tex",
            "mimu_digits_mlp_K50_kappa0.02.tex",
            "mimu_digits_mlp_K50_kappa0.1.tex",
            "preview.tex",
        ][-4:]
    )
    assert all(path.read_bytes().startswith(b"%PDF") for path in Path("paper/figures").iterdir())


def test_the_parsers_csv_gives_the_same_page(compared, capsys):
    assert compare.main([*compared]) == 0
    assert mlruns_parser.main([*compared, "--all"]) == 0
    assert compare.main(["--csv", "mlruns_parsed.csv", "--output", "from_csv.html"]) == 0
    pages = [Path(name).read_text().splitlines() for name in ("comparison.html", "from_csv.html")]
    differing = [own for own, other in zip(*pages, strict=True) if own != other]
    assert [re.sub("<.*?>", "", line)[:9] for line in differing] == ["7 runs of", "Made by p"]
    assert "request class 0 (zero)" in Path("from_csv.html").read_text()


def test_a_csv_of_a_method_of_somebodys_own_says_what_it_cannot_tell(compared, capsys):
    mlruns_parser.main([*compared, "--all"])
    table = pd.read_csv("mlruns_parsed.csv", dtype=str, keep_default_na=False)
    table.loc[table.unlearn == "FT", "unlearn"] = "mine"
    table.to_csv("mine.csv", index=False)
    assert compare.main(["--csv", "mine.csv"]) == 0
    assert "compare.py: mine: settings can't be distinguished from metrics" in capsys.readouterr().err
    assert "mine" in Path("comparison.html").read_text()


def test_a_csv_of_an_architecture_of_somebodys_own_says_what_it_cannot_tell(compared, capsys):
    mlruns_parser.main([*compared, "--all"])
    table = pd.read_csv("mlruns_parsed.csv", dtype=str, keep_default_na=False)
    table.assign(arch="my_net", width=[str(n) for n in range(len(table))]).to_csv("mine.csv", index=False)
    assert compare.main(["--csv", "mine.csv"]) == 0
    assert (
        "compare.py: the architecture my_net: settings can't be distinguished from metrics"
        in capsys.readouterr().err
    )


def test_runs_from_two_initial_models_in_a_csv_are_two_lines(compared, capsys):
    mlruns_parser.main([*compared, "--all"])
    table = pd.read_csv("mlruns_parsed.csv", dtype=str, keep_default_na=False)
    own = table[(table.unlearn == "FT") & (table.seed == "1")]
    both = pd.concat([table, own.assign(initial_digest="bbbb")])
    both.loc[both.initial_digest.isna(), "initial_digest"] = "aaaa"
    both.to_csv("two.csv", index=False)
    assert compare.main(["--csv", "two.csv"]) == 0
    page = Path("comparison.html").read_text()
    assert (
        "initial_digest=aaaa" in page
        and "initial_digest=bbbb" in page
        and "one of several initial models: seed 1" in page
    )


def test_selected_runs_alone(compared, capsys):
    assert compare.main([*compared, "--filter", "params.unlearn = 'FT'"]) == 0
    page = Path("comparison.html").read_text()
    assert (
        "--experiment compared others --filter params.unlearn = &#39;FT&#39;" in page
        and "kappa=0.1" not in page
    )


def test_mistakes_are_one_line_and_leave_nothing(compared, capsys, tmp_path):
    Path("file").write_text("")
    assert "expected a tracking store, got none" in refused(capsys)
    assert "expected finished runs of mlflow_forget.py, got none" in refused(capsys, *compared[:-2], "others")
    assert "1 run, none FINISHED" in refused(capsys, *compared, "--filter", "status = 'FAILED'")
    assert "Did you mean 'others'" in refused(capsys, *compared[:-1], "othres")
    assert "expected a name that ends in .html, got out.pdf" in refused(capsys, "--output", "out.pdf")
    assert "expected an existing folder, got no/out.html" in refused(capsys, "--output", "no/out.html")
    assert (
        "--output: expected a name that ends in .html, got none. Write e.g. --output comparison.html"
        in refused(capsys, "--output", "")
    )
    assert "--tables: expected a folder, got none. Write e.g. --tables paper/tables" in refused(
        capsys, "--tables", ""
    )
    assert "--figures: expected a folder, got none" in refused(capsys, "--figures", "")
    assert "--tables: expected a folder, got file, which is none" in refused(capsys, "--tables", "file")
    assert "--csv: expected a CSV file of mlruns_parser.py, got gone.csv: expected a file" in refused(
        capsys, "--csv", "gone.csv"
    )
    assert "--csv: expected a file alone, got --filter too" in refused(
        capsys, "--csv", "file", "--filter", "status = 'FAILED'"
    )
    assert "--csv: expected a CSV file of mlruns_parser.py, got file" in refused(capsys, "--csv", "file")
    assert "unrecognized arguments: --nothing" in refused(capsys, "--nothing")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "test_forget_score",
            "many",
            "got broken.csv: could not convert string to float: 'many'. Make it: python ",
        ),
        (
            "start_time",
            "noon",
            "got broken.csv: Invalid isoformat string: 'noon'. Make it",
        ),
        ("seed", None, "got broken.csv: it has no columns seed. Make it: python mlruns_parser.py --all"),
    ],
)
def test_a_broken_csv_is_a_mistake(compared, capsys, column, value, said):
    mlruns_parser.main([*compared, "--all"])
    table = pd.read_csv("mlruns_parsed.csv", dtype=str, keep_default_na=False)
    broken = table.drop(columns=column) if value is None else table.assign(**{column: value})
    broken.to_csv("broken.csv", index=False)
    capsys.readouterr()
    assert said in refused(capsys, "--csv", "broken.csv")


def test_a_folder_that_cannot_be_written_leaves_no_page_behind(compared, capsys):
    Path("file").write_text("")
    assert "can't be written" in refused(capsys, *compared, "--tables", "file/tables")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write, as Linux has")
def test_a_report_that_cannot_be_written_is_said_of_the_report_and_before_anything_is_read(compared, capsys):
    said = refused(capsys, *compared, "--output", "/proc/report.html")
    assert (
        "/proc can't be written" in said
        and "Free the place, or choose another with --output, --tables or --figures" in said
    )


def test_real_runs_side_by_side(capsys):
    words = "--unlearn random_mask --kappa 0.1 0.5 --epochs 2 --seed 1 2 --report skip "
    words += "--metrics forget_score,retain_score,test_forget_score,test_retain_score,avg_gap_without_mia"
    assert mlflow_forget.main(words.split()) == 0
    assert compare.main(["--tables", "tables"]) == 0
    page = Path("comparison.html").read_text()
    assert (
        "4 runs of sqlite:///mlflow.db; 1 other run left out" in page
        and "Over kappa" in page
        and "The ideal model: forget score all 0" in page
    )
    assert "no tables of MIMU: it was not run" in capsys.readouterr().out
