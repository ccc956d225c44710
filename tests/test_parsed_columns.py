"""The columns of `lethe parse`: those that matter, in a fixed order; with --all every one, as logged."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import pytest

import compare
import mlruns_parser
from lethe.evaluation import METRICS, names_in
from lethe.experiment.artifacts import matter_first
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.forget_flags import CHOICE
from lethe.experiment.identity import run_params
from lethe.experiment.pipeline import Pipeline
from lethe.experiment.run_config import PipelineConfig
from lethe.models import ARCHITECTURES
from lethe.tracking.run_columns import METRICS_LEFT_OUT, OF_LETHE, PARAMS_LEFT_OUT, default_layout
from lethe.tracking.run_table import everything, rows_of
from lethe.tracking.spool import Spool
from lethe.tracking.stored_run import StoredRun
from lethe.unlearn.impl import METHODS
from tests.filled_stores import empty_place  # noqa: F401 (a fixture of every test here)

PARAMS = {"unlearn": "MIMU", "kappa": "0.1", "arch_file": "None", "seed": "1", "request": "class0"} | {
    "experiment": "digits-mlp",
    "initial_digest": "ab",
    "addon": "None",
}
SCORES = {"avg_gap": 1.0, "zrf": 0.5, "forget_score": 2.0, "mine": 3.0, "unlearn_seconds": 4.0}
LAST = {"unlearn_loss": 0.1, "stage_report_seconds": 0.2, "ideal_mia": 50.0, "accuracy": 9.0}


def run_with(params: dict[str, str], metrics: dict[str, float]) -> StoredRun:
    return StoredRun("a", "name", "e", "FINISHED", 0, 1500, "", "", params, metrics)


def test_the_columns_that_matter_are_in_a_fixed_order():
    assert list(default_layout(set(PARAMS), {*SCORES, *LAST}).columns) == [
        *("run_id", "run_name", "experiment", "status", "warning", "start_time", "duration_s"),
        *("parent_run_id", "request", "seed", "unlearn", "addon", "kappa"),
        *("forget_score", "avg_gap", "accuracy", "mine", "unlearn_seconds"),
    ]


def test_a_param_that_is_none_is_an_empty_cell():
    layout = default_layout(set(PARAMS), set(SCORES))
    (row,) = rows_of([run_with(PARAMS, SCORES)], layout)
    cells = dict(zip(layout.columns, row, strict=True))
    assert cells["addon"] is None and cells["kappa"] == "0.1" and cells["duration_s"] == 1.5


def test_a_setting_in_which_runs_differ_is_a_column(tmp_path):
    with closing(Spool(tmp_path)) as spool:
        for rate in ("0.1", "0.2"):
            spool.add(run_with({**PARAMS, "train_lr": rate, "normalize": "data"}, SCORES))
        columns = default_layout(spool.params, spool.metrics, spool.asked, spool.varied).columns

    assert "train_lr" in columns and "normalize" not in columns


def test_the_parent_of_several_runs_has_no_mask_and_makes_no_column_of_it(tmp_path):
    with closing(Spool(tmp_path)) as spool:
        for params in ({**PARAMS, "mask": "None"}, PARAMS):
            spool.add(run_with(params, SCORES))

    assert spool.varied == set()


def test_a_store_without_runs_of_lethe_loses_no_column():
    params, metrics = {"unlearn", "train_lr", "device", "mask"}, {"zrf", "initial_loss", "unlearn_loss"}
    layout = default_layout(params, metrics)
    assert params | metrics <= set(layout.columns)


def test_runs_that_draw_other_images_by_their_split_seed_are_told_apart():
    assert "split_seed" in default_layout({*OF_LETHE, "split_seed"}, set()).columns


def test_a_metric_that_a_run_was_told_to_measure_has_a_column():
    with closing(Spool(Path())) as spool:
        metrics = {"zrf": 0.5, "mia_lr": 60.0, "tow": 1.0}
        spool.add(run_with({"unlearn": "FT", "request": "class0", "metrics": "zrf,MIA_lr"}, metrics))
        columns = default_layout(spool.params, spool.metrics, spool.asked).columns
    assert {"zrf", "mia_lr"} <= set(columns)
    assert "tow" not in columns


def test_all_has_every_name_as_it_was_logged():
    layout = everything(set(PARAMS), {*SCORES, *LAST})
    (row,) = rows_of([run_with(PARAMS, SCORES)], layout)
    cells = dict(zip(layout.columns, row, strict=True))
    assert cells["arch_file"] == "None" and cells["param.experiment"] == "digits-mlp"
    assert {*PARAMS, *SCORES, *LAST} - {"experiment"} <= set(layout.columns)


def test_every_headline_metric_has_a_place_before_the_others():
    columns = list(default_layout(OF_LETHE, set(METRICS.names) | {"a_metric_of_mine"}).columns)
    before = columns[: columns.index("a_metric_of_mine")]
    assert set(names_in("headline")) <= set(before)


def test_what_is_left_out_by_name_is_a_metric_or_a_param_of_a_run(tmp_path):
    """A metric that is renamed would come back by its new name, and nobody would notice."""
    config = PipelineConfig(unlearn="FT", base=BaseConfig(dataset="digits", save_dir=tmp_path))
    checked = Pipeline(config).checked
    assert {*run_params(checked), *CHOICE} >= PARAMS_LEFT_OUT
    assert set(METRICS.names) >= METRICS_LEFT_OUT


@pytest.mark.parametrize("registry", [METHODS, ARCHITECTURES])
def test_no_setting_of_a_method_or_an_architecture_is_left_out(registry):
    settings = {name for entry in registry.names for name in registry[entry].hyperparameters}
    assert settings <= set(default_layout({*OF_LETHE, *settings}, set()).columns)


@pytest.fixture
def table() -> Path:
    rows = [("run_id", "unlearn", "seed"), ("a", "FT", "1")]
    with Path("short.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return Path("short.csv")


def test_a_comparison_needs_the_whole_table(table, capsys):
    assert compare.main(["--csv", str(table)]) == 2
    assert "it was written without --all, so it lacks columns that tell runs apart. Make it: python " in (
        capsys.readouterr().err.replace("\n", " ").replace("lethe parse", "python mlruns_parser.py")
    )


def test_all_and_history_exclude_each_other(capsys):
    assert mlruns_parser.main(["--all", "--history"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_mlflow_lists_the_metrics_that_matter_first():
    """Its page of a run has metrics in the order in which they were logged."""
    logged = matter_first({"zrf": 1.0, "forget_loss": 2.0, "avg_gap": 3.0, "forget_score": 4.0})
    assert list(logged) == ["forget_score", "avg_gap", "forget_loss", "zrf"]
