"""The summary over seeds: groups, ranks, marks, what is missing, and its three files."""

import csv
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from scipy import stats

import mlflow_forget
import mlruns_parser
from lethe.cli.stored_runs import seed_runs
from lethe.experiment.base_config import BaseConfig
from lethe.report.method_names import LATEX, latex_name, latex_text
from lethe.report.seeds_summary import (
    OF_TASK,
    SeedRun,
    Settings,
    heading_of,
    labels_of,
    settings_of,
    tasks_of,
)
from lethe.report.seeds_tables import header_of, latex_of, markdown_of, shown_metrics, summary_of, table_of
from lethe.tracking.stored_run import StoredRun
from lethe.unlearn import METHODS
from tests.filled_stores import empty_place  # noqa: F401 (a fixture of every test here)

TASK: Settings = (("arch", "mlp"), ("dataset", "digits"), ("request", "class0"))


def run(
    method="FT",
    seed="1",
    gap=1.0,
    status="FINISHED",
    start=0,
    own: Settings = (),
    task=TASK,
    warned=False,
    **metrics,
) -> SeedRun:
    values = ({} if gap is None else {"avg_gap": gap}) | metrics
    return SeedRun("digits-mlp", method, seed, tuple(sorted(task + own)), status, start, values, warned)


def ranking(*runs: SeedRun):
    (task,) = tasks_of(runs)
    return task, [(ranked.rank, ranked.group.method, ranked.mark) for ranked in task.ranking]


def cells(*runs: SeedRun) -> list[dict[str, str]]:
    (task,) = tasks_of(runs)
    return table_of(task).to_dict("records")


# Groups


def test_runs_that_differ_in_the_seed_and_what_follows_from_it_are_one_group():
    same = {"unlearn": "FT", "dataset": "digits", "unlearn_lr": "0.1"}
    of_seed = {
        "seed": "2",
        "report": "skip",
        "mask": "b.safetensors",
        "initial_digest": "ff",
        "ideal_seed": "2",
        "kappa_count": "7",
        "device": "cuda",
        "metrics": "all",
    }
    others = {
        "seed": "1",
        "mask": "a.safetensors",
        "initial_digest": "00",
        "ideal_seed": "1",
        "kappa_count": "8",
        "device": "cpu",
    }
    assert (
        settings_of(same | of_seed)
        == settings_of(same | others)
        == (("dataset", "digits"), ("unlearn_lr", "0.1"))
    )


@pytest.mark.parametrize("method", list(METHODS), ids=lambda entry: entry.name)
def test_every_hyperparameter_of_every_method_is_a_setting(method):
    for name in method.hyperparameters:
        one, other = ({"unlearn": method.name, name: value} for value in ("1", "2"))
        assert settings_of(one) != settings_of(other), name


@pytest.mark.parametrize(
    "name", ["image_count", "train_rounds", "ideal_share", "initial_scale", "retain_counts"]
)
def test_a_users_own_hyperparameter_is_a_setting_whatever_it_is_called(name):
    one, other = ({"unlearn": "mine", "unlearn_file": "mine.py", name: value} for value in ("1", "2"))
    assert settings_of(one) != settings_of(other)


def test_which_metrics_were_asked_for_parts_no_seeds():
    (row,) = cells(
        *(
            run(seed=seed, own=settings_of({"metrics": metrics}))
            for seed, metrics in (("1", "default"), ("2", "all"))
        )
    )
    assert row["n"] == "2"


@pytest.mark.slow
def test_what_a_real_run_logs_of_its_making_is_no_setting():
    """But for what it was asked to do: a param that is new has to be put in one of the lists."""
    from lethe.experiment.forget_flags import CHOICE
    from lethe.experiment.identity import provenance, run_params
    from lethe.experiment.pipeline import Pipeline, PipelineConfig

    pipeline = Pipeline(PipelineConfig(unlearn="MIMU", base=BaseConfig(epochs=1)))
    trained = pipeline.base.initial()
    params = run_params(pipeline.checked) | provenance("initial", trained) | provenance("ideal", trained)

    names = {name for name, _ in settings_of({name: str(value) for name, value in params.items()})}
    unsaid = {
        "training",
        "normalize",
        "dataset_file",
        "arch_file",
        "dataset_code",
        "arch_code",
        "dataset_package",
        "arch_package",
        "request_digest",
        *CHOICE,
    }
    assert names == OF_TASK - unsaid | set(METHODS["MIMU"].hyperparameters) | {"hidden"}


def test_another_setting_is_another_line_that_names_it():
    table = cells(
        *(run(own=(("unlearn_lr", lr), ("beta", "1")), seed=seed) for lr in ("0.1", "0.2") for seed in "12")
    )
    assert [(row["settings"], row["n"]) for row in table] == [
        ("unlearn_lr=0.1", "2"),
        ("unlearn_lr=0.2", "2"),
    ]


def test_a_line_says_what_its_runs_mean_by_not_logging_a_setting():
    table = cells(run(own=(("unlearn_augment", "crop,flip"),)), run())
    assert {row["settings"] for row in table} == {"unlearn_augment=crop,flip", "unlearn_augment=none"}


@pytest.mark.parametrize(
    ("method", "earlier", "later"),
    [
        ("NGPlus", {"addon": "None", "quantile": "None", "memory": "None"}, {"addon": "None"}),
        ("NGradMask", {"quantile": "None", "memory": "None"}, {"quantile": "0.3"}),
        ("NGPlus", {"addon": "OPT", "memory_start": "None"}, {"addon": "OPT"}),
    ],
)
def test_the_flags_of_an_add_on_part_no_seeds_of_an_earlier_version(method, earlier, later):
    assert settings_of({"unlearn": method} | earlier) == settings_of({"unlearn": method} | later)


def test_another_value_of_an_add_ons_flag_is_another_setting():
    assert ("quantile", "0.5") in settings_of({"unlearn": "NGradMask", "quantile": "0.5"})
    assert ("quantile", "0.3") in settings_of({"unlearn": "NGradMask", "quantile": "None"})


def test_requests_of_the_same_words_have_their_slugs_too():
    slugs = ("any-100", "indexes-1a2b")
    lists = [run(task=(("arch", "mlp"), ("dataset", "digits"), ("request", slug))) for slug in slugs]
    tasks = tasks_of([replace(one, forgotten="100 images") for one in lists])
    assert [task.forgotten for task in tasks] == ["100 images (any-100)", "100 images (indexes-1a2b)"]


def test_another_task_is_another_table():
    other = (("arch", "mlp"), ("dataset", "digits"), ("request", "class3"))
    narrow = (*TASK, ("hidden", "16"))  # a flag of the architecture
    tasks = tasks_of([run(), run(task=other), run(task=narrow)])
    assert len(tasks) == 3
    headings = [heading_of(task, tasks) for task in tasks]
    assert "digits-mlp: dataset digits, arch mlp, request class 3, hidden not logged; seeds 1" in headings
    assert "digits-mlp: dataset digits, arch mlp, request class 0, hidden 16; seeds 1" in headings


def test_a_request_is_named_as_the_latest_run_that_logged_its_words_does():
    older, newer = (
        replace(run(start=start), forgotten=words)
        for start, words in ((1, "class 0 (old)"), (2, "class 0 (cat)"))
    )
    too_long = replace(run(), forgotten="classes " + "0, " * 100)
    assert ranking(newer, older, run(start=3))[0].forgotten == "class 0 (cat)"
    assert ranking(run())[0].forgotten == ranking(too_long)[0].forgotten == "class 0"


def test_the_same_seed_twice_is_no_second_sample():
    (row,) = cells(run(gap=5.0, start=1), run(gap=1.0, start=2), run(gap=3.0, seed="2"))
    assert (
        row["n"] == "2" and row["avg_gap ↓"] == "2.00 ± 1.41" and row["notes"] == "latest of several: seed 1"
    )


def of_initials(*found: tuple[str, str, str]) -> list[SeedRun]:
    """Runs by seed and initial model, each of another time, whose gap is their place."""
    return [
        replace(run(seed=seed, gap=float(at), start=at), initial=initial)
        for at, (seed, initial) in enumerate(found)
    ]


def test_another_initial_model_is_no_repetition_of_a_seed():
    table = cells(
        *of_initials(
            ("1", "aaaaaaaaaa"),
            ("1", "bbbbbbbbbb"),
            ("2", "aaaaaaaaaa"),
            ("2", "bbbbbbbbbb"),
            ("1", "bbbbbbbbbb"),
        )
    )
    assert [(row["settings"], row["n"], row["avg_gap ↓"]) for row in table] == [
        ("initial_digest=aaaaaaaa", "2", "1.00 ± 1.41"),
        ("initial_digest=bbbbbbbb", "2", "3.50 ± 0.71"),
    ]
    assert table[0]["notes"] == "one of several initial models: seed 1, 2"
    assert table[1]["notes"] == "latest of several: seed 1; one of several initial models: seed 1, 2"


def test_seeds_of_one_initial_model_each_stay_together():
    (row,) = cells(*of_initials(("1", "a"), ("2", "b"), ("3", "")))
    assert (row["n"], row["settings"], row["notes"]) == ("3", "", "")
    table = cells(*of_initials(("1", "a"), ("1", "b"), ("2", "c"), ("3", "d")))
    assert {row["settings"]: row["n"] for row in table} == {
        "initial_digest=a": "1",
        "initial_digest=b": "1",
        "initial_digest=one a seed": "2",
    }


def test_the_initial_model_comes_from_the_run():
    params = {"unlearn": "FT", "seed": "1", "initial_digest": "ab12"}
    stored = StoredRun("1", "FT", "digits-mlp", "FINISHED", 0, 1, "", "", params, {})
    (found,) = seed_runs([stored], lambda metrics, params: dict(metrics))
    assert found.initial == "ab12"


# Ranks and marks


def test_the_smallest_mean_gap_is_first_and_what_is_in_its_interval_is_marked():
    best = [
        run("A", seed, gap) for seed, gap in (("1", 1.0), ("2", 2.0), ("3", 3.0))
    ]  # 2 -+ 4.303 / sqrt(3) = 2 -+ 2.484
    within = [run("B", seed, 4.4) for seed in "123"]
    beyond = [run("C", seed, 4.5) for seed in "123"]
    _, ranks = ranking(*beyond, *within, *best)
    assert ranks == [(1, "A", "best"), (2, "B", "within"), (3, "C", "")]


def test_one_seed_has_no_interval_to_be_within():
    assert ranking(run("A", gap=1.0), run("B", gap=1.001))[1] == [(1, "A", "best"), (2, "B", "")]


def test_equal_means_share_the_rank():
    assert ranking(run("A", gap=1.0), run("B", gap=1.0), run("C", gap=2.0))[1] == [
        (1, "A", "best"),
        (1, "B", "best"),
        (3, "C", ""),
    ]


def test_the_ideal_model_is_the_reference_and_what_has_no_gap_is_last():
    _, ranks = ranking(run("Z", gap=None), run("retrain", gap=0.0), run("A", gap=2.0), run("B", gap=math.nan))
    assert ranks == [(None, "retrain", "reference"), (1, "A", "best"), (None, "B", ""), (None, "Z", "")]


def test_a_method_whose_attack_is_undecided_for_a_seed_has_no_rank():
    """A mean over the other seeds is no mean over the same seeds as the others have."""
    undecided = [run("A", "1", 0.5), run("A", "2", None)]
    assert ranking(*undecided, run("B", "1", 1.0), run("B", "2", 1.0))[1] == [
        (1, "B", "best"),
        (None, "A", ""),
    ]


GAPS = st.dictionaries(
    st.sampled_from("ABCDE"), st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=1
)


@given(GAPS)
def test_ranks_follow_the_means(gaps):
    task, ranks = ranking(
        *(run(method, str(seed), gap) for method, values in gaps.items() for seed, gap in enumerate(values))
    )
    means = {method: statistics.mean(values) for method, values in gaps.items()}
    assert [means[method] for _, method, _ in ranks] == sorted(means.values())
    assert all(rank == 1 + sum(mean < means[method] for mean in means.values()) for rank, method, _ in ranks)
    assert all((mark == "best") == (rank == 1) for rank, _, mark in ranks) and set(task.seeds) == {
        run.seed for r in task.ranking for run in r.group.runs
    }


# What is missing is shown


def test_missing_and_failed_seeds_are_named_and_not_averaged():
    failed = run("FT", "2", gap=99.0, status="FAILED")
    (ft, neg) = cells(run("FT", "1", 1.0), failed, *(run("NegGrad", seed, 2.0) for seed in ("1", "2", "10")))
    assert (ft["n"], ft["avg_gap ↓"], ft["95 % interval"]) == ("1", "1.00", "none: one seed")
    assert ft["notes"] == "no run of seed 10; not finished: seed 2 FAILED"
    assert (neg["n"], neg["notes"]) == ("3", "")


def test_a_method_that_never_finished_is_still_a_line():
    first, last = cells(
        run("A"), run("B", gap=None, status="KILLED"), run("B", gap=None, status="RUNNING", start=1)
    )
    assert (last["rank"], last["method"], last["n"], last["avg_gap ↓"]) == ("", "B", "0", "")
    assert last["notes"] == "not finished: seed 1 KILLED, 1 RUNNING" and first["rank"] == "1"


def test_a_failed_run_stays_visible_where_the_seed_was_run_again():
    (row,) = cells(run(status="FAILED"), run(start=1))
    assert (row["n"], row["notes"]) == ("1", "not finished: seed 1 FAILED")


def test_a_metric_that_not_every_seed_has_says_of_how_many_it_is():
    (row,) = cells(run(seed="1", RA=99.0), run(seed="2"), run(seed="3", RA=97.0))
    assert row["RA ↑"] == "98.00 ± 1.41 (n=2)" and row["TA ↑"] == "none"


def test_a_saturated_attack_is_not_averaged():
    (row,) = cells(*(run(seed=str(seed), MIA=value) for seed, value in enumerate((0.0, 100.0, 100.0))))
    assert row["MIA"] == "1 x 0, 2 x 100"


def test_a_warning_is_noted():
    (row,) = cells(run(warned=True), run(seed="2"))
    assert row["notes"] == "with a warning: seed 1"


# Columns


def test_the_short_names():
    metrics = {
        "forget_score": 2.5,
        "retain_score": 99.0,
        "test_score": 90.0,
        "test_retain_score": 97.0,
        "mia": 40.0,
        "avg_gap": 1.0,
    }
    shown = shown_metrics(
        metrics
        | {"unlearn_seconds": 3.0, "initial_mia": 1.0, "stage_total_seconds": 9.0, "nothing_of_ours": 1.0}
    )
    assert shown == metrics | {"UA": 97.5, "RA": 99.0, "TA": 97.0, "MIA": 40.0, "unlearn_seconds": 3.0}
    assert shown_metrics({"test_score": 90.0}) == {"test_score": 90.0, "TA": 90.0}


def test_directions_come_from_the_registry():
    assert [header_of(name) for name in ("UA", "RA", "TA", "MIA", "avg_gap")] == [
        "UA ↑",
        "RA ↑",
        "TA ↑",
        "MIA",
        "avg_gap ↓",
    ]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_the_csv_has_mean_sd_interval_and_n(values):
    tasks = tasks_of([run(seed=str(seed), gap=gap) for seed, gap in enumerate(values)])
    (found,) = summary_of(tasks).to_dict("records")
    assert found["avg_gap_mean"] == pytest.approx(statistics.fmean(values)) and found["avg_gap_n"] == len(
        values
    )
    assert found["avg_gap_sd"] == pytest.approx(statistics.stdev(values))
    if found["avg_gap_sd"] > 1e-6:
        interval = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), stats.sem(values))
        assert (found["avg_gap_low"], found["avg_gap_high"]) == pytest.approx(interval)


# Markdown and LaTeX


def test_markdown_marks_the_best():
    text = markdown_of(
        tasks_of(
            [run("A", seed, gap) for seed, gap in (("1", 1.0), ("2", 3.0))]
            + [run("NG_x", seed, 2.5) for seed in "12"]
        )
    )
    assert "| 1 | **A** |" in text and "**2.00 ± 1.41**" in text and "| 2 | `NG_x` † |" in text


def test_latex_is_of_booktabs_and_names_are_the_literatures():
    runs = (
        [run("A", seed, gap) for seed, gap in (("1", 1.0), ("2", 3.0))]
        + [run("FT_l1", seed, 2.5) for seed in "12"]
        + [run("retrain", gap=0.0)]
    )
    text = latex_of(tasks_of(runs))
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert (
        r"\textbf{A} &" in text
        and r"\textbf{2.00 $\pm$ 1.41}" in text
        and r"$\ell_1$-sparse$^{\dagger}$ &" in text
    )
    assert text.index("Retrain") < text.index(r"\textbf{A}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)


@pytest.mark.slow
@given(st.text(max_size=20))
def test_no_sign_of_latexs_own_is_left(text):
    words = r"\\text(?:backslash|asciitilde|asciicircum|less|greater|bar)\{\}"
    known = rf"{words}|\$\\(?:pm|to|uparrow|downarrow)\$|\$-\$|\$\^\{{\\dagger\}}\$"
    assert not re.search(r"[\\&%$#_{}~^<>|]", re.sub(rf"{known}|\\[&%$#_{{}}]", "", latex_text(text)))


def test_every_name_with_a_typography_of_its_own_is_a_methods():
    assert all(METHODS[name].name == name for name in LATEX)
    assert (latex_name("SalUn"), latex_name("my_method")) == ("SalUn", r"my\_method")


def test_labels_are_empty_for_the_only_group():
    (task,) = tasks_of([run(own=(("unlearn_lr", "0.1"),))])
    assert list(labels_of(task).values()) == [""]


# The command


@pytest.fixture
def seeded(database):
    """A store with a sweep's parent and its children, of which one failed, and an audit."""
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("seeds")
    parent = client.create_run(experiment, tags={"sweep": "parent"}).info.run_id
    client.log_param(parent, "unlearn", "FT")
    for seed, gap in ((1, 1.0), (2, 2.0), (3, None)):
        child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
        for name, value in {
            "unlearn": "FT",
            "seed": seed,
            "dataset": "digits",
            "arch": "mlp",
            "request": "class0",
        }.items():
            client.log_param(child, name, value)
        if gap is not None:
            client.log_metric(child, "avg_gap", gap)
        client.set_terminated(child, "FAILED" if gap is None else "FINISHED")
    audit = client.create_run(experiment, tags={"audit": "klom"}).info.run_id
    client.log_param(audit, "unlearn", "FT")
    return f"sqlite:///{database}"


def test_the_summary_of_a_store(seeded, capsys):
    assert mlruns_parser.main(["--tracking_uri", seeded, "--experiment", "seeds", "--summary"]) == 0
    (row,) = csv.DictReader(Path("mlruns_summary.csv").read_text().splitlines())
    assert {
        name: row[name]
        for name in ("experiment", "method", "rank", "mark", "n", "seeds", "not_finished", "avg_gap_mean")
    } == {
        "experiment": "seeds",
        "method": "FT",
        "rank": "1",
        "mark": "best",
        "n": "2",
        "seeds": "1, 2",
        "not_finished": "3 FAILED",
        "avg_gap_mean": "1.5",
    }
    assert "**1.50 ± 0.71**" in Path("mlruns_summary.md").read_text()
    assert r"\textbf{1.50 $\pm$ 0.71}" in Path("mlruns_summary.tex").read_text()
    said = capsys.readouterr().out
    assert "not finished: seed 3 FAILED" in said
    assert (
        "3 runs -> mlruns_summary.csv, mlruns_summary.md, mlruns_summary.tex; 2 other runs left out (parents "
        "of sweeps, audits," in said
    )


def test_nothing_to_summarise_is_a_mistake(sqlite_store, capsys):
    flags = ["--tracking_uri", sqlite_store.uri, "--experiment", "Größe, zwei", "--summary"]
    assert mlruns_parser.main(flags) == 2
    assert "--summary: expected runs of mlflow_forget.py, got none among 2 runs" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_the_summary_is_named_as_csv(sqlite_store, capsys):
    assert (
        mlruns_parser.main(["--tracking_uri", sqlite_store.uri, "--summary", "--output", "summary.md"]) == 2
    )
    assert "expected --output to end in" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["summary.md", "summary.tex"])
def test_no_format_makes_the_table_overwrite_itself(output, sqlite_store, capsys):
    assert (
        mlruns_parser.main(
            ["--tracking_uri", sqlite_store.uri, "--summary", "--format", "csv", "--output", output]
        )
        == 2
    )
    assert "expected the name of a CSV file" in capsys.readouterr().err


def test_what_no_summary_wrote_is_not_overwritten(seeded, capsys):
    flags = ["--tracking_uri", seeded, "--experiment", "seeds", "--summary", "--output", "README.csv"]
    Path("README.md").write_text("by hand")
    assert mlruns_parser.main(flags) == 2
    assert "--summary would overwrite README.md beside README.csv" in capsys.readouterr().err
    assert Path("README.md").read_text() == "by hand"
    Path("README.md").unlink()
    assert mlruns_parser.main(flags) == mlruns_parser.main(flags) == 0


@pytest.mark.slow
def test_the_seeds_of_a_real_sweep_are_one_line(capsys):
    words = ["--unlearn", "random_mask", "--kappa", "0.5", "--epochs", "1", "--seed", "1", "2", "3"]
    assert mlflow_forget.main([*words, "--metrics", "avg_gap", "--report", "skip"]) == 0
    assert mlruns_parser.main(["--summary"]) == 0
    with Path("mlruns_summary.csv").open(newline="") as file:
        assert [(row["method"], row["n"]) for row in csv.DictReader(file)] == [("random_mask", "3")]


def test_what_an_earlier_run_did_not_log_makes_no_other_line():
    earlier = {"dataset": "digits", "arch": "mlp", "arch_file": "None", "unlearn_lr": "0.1"}
    today = earlier | {"dataset_file": "None", "metrics": "default", "unlearned_digest": "4cf9"}

    assert settings_of(earlier) == settings_of(today)
    assert settings_of(today) != settings_of(today | {"dataset_file": "own.py"})
