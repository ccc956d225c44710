"""The grid: every line runs as printed, base models once, mistakes refused before a line is written."""

import shlex

import pytest

import array_param_file
import mlflow_forget
from array_param_file import combinations, commands, main

SMALL = {"dataset": "digits", "class_to_replace": [0, 3], "seed": [1, 2], "methods": {"random_mask": {"kappa": [0.05, 0.1]}, "default": {}}}


def test_combinations_follow_the_order_of_the_grid():
    assert list(combinations({"a": [1, 2], "b": "x"})) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


def test_one_line_per_combination():
    _, jobs = commands(SMALL)
    assert len(jobs) == 2 * 2 * (2 + 1)
    assert len(set(jobs)) == len(jobs)
    assert "python -u mlflow_forget.py --unlearn random_mask --dataset digits --class_to_replace 3 --seed 2 --kappa 0.05" in jobs


def test_every_base_model_once_and_the_initial_ones_first():
    base, _ = commands(SMALL)
    assert base == [
        "python -u main_baseline.py --dataset digits --seed 1",
        "python -u main_baseline.py --dataset digits --seed 2",
        "python -u main_ideal.py --dataset digits --class_to_replace 0 --seed 1",
        "python -u main_ideal.py --dataset digits --class_to_replace 0 --seed 2",
        "python -u main_ideal.py --dataset digits --class_to_replace 3 --seed 1",
        "python -u main_ideal.py --dataset digits --class_to_replace 3 --seed 2",
    ]


def test_a_list_in_a_list_is_one_value_of_several_words():
    _, jobs = commands({"class_to_replace": [[3, 5], 1], "methods": {"default": None}})
    assert [shlex.split(line)[5:] for line in jobs] == [["--class_to_replace", "3", "5"], ["--class_to_replace", "1"]]


def test_the_job_flags_do_not_reach_the_base_models():
    base, jobs = commands({"ideal": "train", "experiment": "e", "methods": {"default": {}}})
    assert not any("--ideal" in line or "--experiment" in line for line in base)
    assert all("--ideal train --experiment e" in line for line in jobs)


def test_the_default_grid_is_one_the_main_job_takes():
    _, jobs = commands(array_param_file.DEFAULT_GRID)
    for line in jobs:
        mlflow_forget.options_of(shlex.split(line)[3:])


def test_both_files_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert len((tmp_path / "params.txt").read_text().splitlines()) == 48
    assert len((tmp_path / "base_params.txt").read_text().splitlines()) == 8
    assert "48 runs -> params.txt" in capsys.readouterr().out


def test_a_grid_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yml").write_text("dataset: digits\nmethods:\n  MIMU: {topk: 50, kappa: [0.05, 10%]}\n")
    assert main(["--grid", "grid.yml"]) == 0
    assert (tmp_path / "params.txt").read_text().splitlines() == [
        "python -u mlflow_forget.py --unlearn MIMU --dataset digits --topk 50 --kappa 0.05",
        "python -u mlflow_forget.py --unlearn MIMU --dataset digits --topk 50 --kappa 10%",
    ]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("methods:\n  MIMO: {}\n", "Did you mean 'MIMU'"),
        ("methods:\n  SFT: {kappa: 0.1}\n", "unknown flag '--kappa'"),
        ("methods:\n  SFT: {sft_steps: many}\n", "--sft_steps: expected an integer, got 'many'"),
        ("dataset: digit\nmethods:\n  SFT: {}\n", "Did you mean 'digits'"),
        ("seeds: 1\nmethods:\n  SFT: {}\n", "Did you mean '--seed'"),
        ("dataset: digits\n", "expected a mapping with 'methods"),
        ("a: [1\n", "is not YAML"),
        (None, "there is no file"),
    ],
)
def test_a_mistake_in_the_grid_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, grid, says):
    monkeypatch.chdir(tmp_path)
    if grid is not None:
        (tmp_path / "grid.yml").write_text(grid)
    assert main(["--grid", "grid.yml"]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert not (tmp_path / "params.txt").exists()
