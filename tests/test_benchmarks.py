"""The benchmarks keep what they measured, and print what they were asked for."""

import json

import pytest
import torch

from benchmarks import datamodels, many_models, mimu_images, mimu_quality, warm_run
from benchmarks.cells import Cells
from benchmarks.joined_images import joined
from lethe.data import RawDataset


@pytest.fixture
def file(tmp_path):
    return tmp_path / "benchmarks" / "cells.jsonl"


def never():
    raise AssertionError("measured a second time")


def test_a_finished_cell_is_not_measured_again(file):
    assert Cells(file).measured({"class": 1}, lambda: {"seconds": 0.1 + 0.2}) == {"seconds": 0.1 + 0.2}
    again = Cells(file)
    assert again.measured({"class": 1}, never) == {"seconds": 0.1 + 0.2}
    assert "1 cells were measured before" in again.note()


def test_another_key_is_another_cell(file):
    cells = Cells(file)
    cells.measured({"class": 1}, lambda: {"value": 1})
    assert cells.measured({"class": 2}, lambda: {"value": 2}) == {"value": 2}
    assert "measured now" in cells.note()


def test_another_code_is_another_cell(file, tmp_path):
    code = tmp_path / "code.py"
    for number in (1, 2):
        code.write_text(f"x = {number}")
        assert Cells(file, str(code)).measured({}, lambda number=number: {"value": number}) == {
            "value": number
        }


def test_a_cell_that_a_kill_cut_short_is_measured_again_and_the_others_are_kept(file):
    Cells(file).measured({"class": 1}, lambda: {"value": 1})
    Cells(file).measured({"class": 2}, lambda: {"value": 2})
    file.write_bytes(file.read_bytes()[:-9])
    cells = Cells(file)
    assert cells.measured({"class": 1}, never) == {"value": 1}
    assert cells.measured({"class": 2}, lambda: {"value": 3}) == {"value": 3}
    assert Cells(file).measured({"class": 2}, never) == {"value": 3}


def test_a_measurement_that_fails_keeps_nothing(file):
    cells = Cells(file)
    with pytest.raises(ZeroDivisionError):
        cells.measured({}, lambda: {"value": 1 / 0})
    assert cells.measured({}, lambda: {"value": 1}) == {"value": 1}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Few steps, in a folder of its own."""
    for benchmark in (mimu_quality, mimu_images):
        few = {
            name: (method, settings | ({"gcn_steps": 2} if method == "MIMU" else {}))
            for name, (method, settings) in benchmark.METHODS.items()
        }
        monkeypatch.setattr(benchmark, "METHODS", few)
    monkeypatch.setattr(mimu_quality, "BOUND_STEPS", 3)
    monkeypatch.chdir(tmp_path)


SMALL = ["--epochs", "1", "--hidden", "12,8", "--device", "cpu"]


@pytest.mark.slow
def test_quality_has_a_line_for_each_method_and_the_ideal(quick, tmp_path, capsys):
    command = [*SMALL, "--class_to_replace", "3", "--json", "rows.json"]
    assert mimu_quality.main(command) == 0
    first = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [*mimu_quality.METHODS, mimu_quality.BOUND, mimu_quality.IDEAL]
    by_method = {row["method"]: row for row in rows}
    asked = [row for row in rows if "MIMU" in row["method"] and row["method"] != mimu_quality.AUTO]
    assert {row["masked"] for row in asked if "difference" not in row["method"]} == {round(0.1 * 12 * 8)}
    assert (
        by_method[mimu_quality.NO_MASK]["retain_drop"]
        == by_method[mimu_quality.NO_MASK]["relearn_steps"]
        == 0
    )
    assert all(0 <= by_method[method]["probe_score"] <= 100 for method in mimu_quality.PROBED)

    assert mimu_quality.main(command) == 0
    assert (
        capsys.readouterr().out.splitlines()[:-2] == first.splitlines()[:-2]
    )  # seconds too: nothing is measured again


def test_quality_of_one_method_measures_that_alone(quick, tmp_path, capsys):
    command = [*SMALL, "--class_to_replace", "3", "--json", "rows.json", "--methods", mimu_quality.AUTO]
    assert mimu_quality.main(command) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [mimu_quality.AUTO]


def joined_raw():
    """Two classes of four images each, told apart by their first pixel."""
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2)
    images[:, :, 0, 1] += 100  # so that a mirrored image is another
    return RawDataset((images, torch.arange(8) % 2), (images[:4], torch.arange(4) % 2), ("even", "odd"))


def test_joined_images_are_classes_of_their_own_in_every_view(monkeypatch):
    monkeypatch.setattr("lethe.data.impl.read", lambda name, folder, given: joined_raw())
    found = joined(["one", "two"], 2, 3, seed=1, folder="")
    assert len(found.class_names) == 8
    assert found.train.labels.bincount().tolist() == [3] * 8
    assert found.unseen.labels.bincount().tolist() == [1] * 8
    assert found.test.labels.bincount().tolist() == [2] * 8
    whole = torch.cat([found.train.images, found.unseen.images])
    labels = torch.cat([found.train.labels, found.unseen.labels])
    for label in range(8):
        first = whole[labels == label][:, 0, 0, 0] % 100
        assert sorted(first.tolist()) == [label % 2 + 2 * n for n in range(4)]  # each image once
    assert whole[labels == 0][:, 0, 0, 1].min() >= 100
    assert whole[labels == 4][:, 0, 0, 1].max() < 100  # mirrored
    again = joined(["one", "two"], 2, 3, seed=1, folder="")
    assert torch.equal(again.train.images, found.train.images)


@pytest.mark.slow
def test_quality_of_several_seeds_counts_the_cells_of_all(quick, capsys):
    for seeds, said in (
        (["1"], "measured now"),
        (["1", "2"], "12 cells were"),
        (["1", "2"], "24 cells were"),
    ):
        assert mimu_quality.main([*SMALL, "--class_to_replace", "3", "--seed", *seeds]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"digits, mlp hidden (12, 8), seeds [{', '.join(seeds)}]")
        (note,) = [line for line in shown.splitlines() if "measured now" in line or "cells were" in line]
        assert note.startswith(said)


@pytest.mark.slow
def test_the_ideals_seconds_are_those_of_its_training(quick, tmp_path):
    from lethe.training import checkpoint_metadata

    command = [*SMALL, "--class_to_replace", "3", "--json", "rows.json"]
    assert mimu_quality.main(command) == 0
    (tmp_path / "results/digits/benchmarks/mimu_quality.jsonl").unlink()
    assert mimu_quality.main(command) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    (row,) = [row for row in rows if row["method"] == mimu_quality.IDEAL]
    (path,) = tmp_path.glob("results/digits/*_ideal_class3.safetensors")
    assert row["seconds"] == checkpoint_metadata(path).train_seconds


@pytest.mark.slow
def test_quality_on_features_is_the_same_but_for_the_seconds(quick, tmp_path):
    def rows(*flags):
        assert mimu_quality.main([*SMALL, "--class_to_replace", "3", "--json", "rows.json", *flags]) == 0
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        return [
            {name: value for name, value in row.items() if name not in ("seconds", "network_cached")}
            for row in rows
        ]

    assert rows("--on_features") == rows()


@pytest.mark.slow
def test_quality_over_kappa_is_a_table_and_a_picture(quick, tmp_path, capsys):
    words = "--class_to_replace 3 --kappa 0.1 50% --picture curve.svg"
    assert mimu_quality.main([*SMALL, *words.split()]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line[:1] == ["MIMU"]] == [
        ["MIMU", "0.1", "10"],
        ["MIMU", "50%", "48"],
    ]
    assert "weights of the masked layer" in (tmp_path / "curve.svg").read_text()


@pytest.mark.slow
def test_images_have_a_line_for_each_model_and_kappa(quick, tmp_path, capsys):
    assert mimu_images.main([*SMALL, "--kappa", "0.1", "--json", "rows.json"]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["initial", "ideal", *mimu_images.METHODS]
    assert rows[1]["avg_gap_without_mia"] == 0
    assert "\nideal" in capsys.readouterr().out


@pytest.mark.slow
def test_a_warm_run_has_a_line_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert warm_run.main(["--repeats", "1", "--json", "seconds.json"]) == 0
    assert capsys.readouterr().out.startswith("SSD on digits, --report full, medians of 1: ")
    assert [path.name for path in tmp_path.iterdir()] == ["seconds.json"]
    assert {
        len(values) for values in json.loads((tmp_path / "seconds.json").read_text())["seconds"].values()
    } == {1}


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--repeats", "0"], "at least 1, got 0"), (["--unlearn", "nope"], "unknown method 'nope'")],
)
def test_a_warm_run_that_fails_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert warm_run.main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "flags", "message"),
    [
        (
            mimu_quality,
            ["--class_to_replace", "-1", "--num_indexes_to_replace", "9"],
            "expected whole classes",
        ),
        (mimu_quality, ["--picture", "a.svg"], "--picture: expected several values of --kappa"),
        (mimu_quality, ["--kappa", "0"], "--kappa: expected a count from 1 to 96"),
        (mimu_quality, ["--topk", "many"], "topk"),
        (mimu_quality, ["--json", "/proc/nowhere/rows.json"], "Choose another --json"),
        (mimu_images, ["--kappa", "0"], "--kappa: expected a count from 1 to 96"),
        (mimu_images, ["--share", "1.5"], "--share: expected a number between 0 and 1"),
        (mimu_images, ["--class_to_replace", "3"], "expected --share alone"),
    ],
)
def test_a_mistake_is_one_line(benchmark, flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main([*SMALL, *flags]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert not list(tmp_path.glob("results/digits/*.safetensors"))  # nothing was trained
    assert len([line for line in shown.splitlines() if line.startswith("error: ")]) == 1


def test_the_files_behind_a_method_are_its_own_and_those_that_it_imports():
    from benchmarks.cells import files_behind

    names = {path.name for path in files_behind("lethe.unlearn.salun", "lethe.unlearn")}
    assert {
        "salun.py",
        "passes.py",
        "random_label.py",
        "srl.py",
        "impl.py",
        "two_gradients.py",
        "add_ons.py",
    } <= names
    assert not {"ssd.py", "__init__.py", "fisher.py"} & names
    assert {"gcn.py", "method.py"} <= {
        path.name for path in files_behind("lethe.unlearn.mimu.method", "lethe.unlearn")
    }


def test_many_models_has_a_row_for_each_way_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(many_models, "in_a_process", many_models._trained)  # here, where torch is imported
    command = [*"--models 1 2 --loop 1 --processes 0 --repeats 1 --json rows.json".split(), *SMALL]
    assert many_models.main(command) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ways = [("at once", 1), ("at once", 2), ("loop", 1), ("loop, one thread", 1)]
    assert [(row["way"], row["models"]) for row in rows] == ways
    assert all(row["seconds_a_model"] > 0 and row["cpu_seconds"] > 0 for row in rows)
    assert "measured now" in capsys.readouterr().out
    assert many_models.main(command) == 0
    assert "4 cells were measured before" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--models", "0"], ["--repeats", "0"], ["--loop", "-1"]])
def test_many_models_refuses_numbers_that_make_no_sense(flags, capsys):
    assert many_models.main(flags) == 2
    assert f"error: {flags[0]}: expected at least" in capsys.readouterr().err


@pytest.mark.slow
def test_datamodels_are_held_against_retraining(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*"--shadows 4 --oracles 2 --damping 1 --sketch_size 64 --json rows.json".split(), *SMALL]
    assert datamodels.main(command) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(-1 <= row[name] <= 1 for name in ("lds", "forget", "others"))
    assert "digits, mlp, class0: 4 shadows, 2 oracles, seed 1, sketch of 64" in capsys.readouterr().out


def test_the_linear_datamodeling_score_is_a_mean_of_rank_correlations():
    real = torch.tensor([[1.0, 5.0], [2.0, 4.0], [30.0, 3.0]])
    predicted = torch.tensor([[0.0, 1.0], [0.1, 2.0], [0.2, 0.0]])
    assert datamodels.linear_datamodeling_score(predicted, real) == pytest.approx((1 + 0.5) / 2)


def test_too_few_shadows_are_refused(capsys):
    assert datamodels.main(["--shadows", "2"]) == 2
    assert "error: --shadows: expected at least 4, got 2" in capsys.readouterr().err
