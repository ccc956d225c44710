"""What the evaluation costs: the benchmark prints it beside a bare pass, and every part is in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import drawn_images, evaluation
from lethe import evaluation as everything

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = ["--dataset", "digits", "--epochs", "1", "--repeats", "1"]


pytestmark = pytest.mark.usefixtures("empty_place")


def test_it_prints_every_part_and_what_they_come_to(capsys):
    assert evaluation.main([*ARGUMENTS, "--libsvm", "--json", "numbers.json"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads(Path("numbers.json").read_text())
    parts = [
        "bare",
        "forward",
        "metrics",
        *evaluation.ATTACKS,
        *(f"{name} by libsvm" for name in evaluation.ATTACKS if name != "mia_lr"),
    ]

    assert out[0].startswith("digits, mlp, class0, ") and out[0].endswith(" test), cpu, medians of 1")
    assert [line.split("  ")[0] for line in out[3:-1]] == [*parts, "forward + metrics", "the whole"]
    assert list(found["seconds"]) == parts
    for clock in ("wall", "processor"):
        seconds, shares = (
            {name: both[clock][0] for name, both in found["seconds"].items()},
            found["shares"][clock],
        )
        assert shares["without_attacks"] == pytest.approx(
            (seconds["forward"] + seconds["metrics"]) / seconds["bare"]
        )
        assert shares["whole"] > shares["without_attacks"]


def test_the_parts_are_all_of_the_default_metrics(monkeypatch):
    """But for the seconds of a run, and what is an attack's own value again."""
    from lethe.evaluation import DEFAULT, chosen

    measured = []
    world = evaluation.world_of(evaluation.options_of(ARGUMENTS))
    evaluate = everything.evaluate
    monkeypatch.setattr(
        "lethe.evaluation.evaluate",
        lambda **given: measured.extend(m.name for m in given["names"]) or evaluate(**given),
    )
    steps = evaluation.steps_of(evaluation.options_of(ARGUMENTS), world)
    steps["forward"]()
    steps["metrics"]()
    left_out = {"mia", "avg_gap", "unlearn_seconds", "ideal_seconds", "speedup"}

    assert {*measured, *evaluation.ATTACKS} | left_out == {entry.name for entry in chosen([DEFAULT])}


@pytest.mark.slow
def test_it_runs_where_mlflow_is_not_installed():
    code = (
        "import sys; sys.modules['mlflow'] = None; from benchmarks import evaluation; "
        f"sys.exit(evaluation.main({ARGUMENTS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "the whole" in done.stdout


def test_drawn_images_are_the_same_for_everybody(monkeypatch):
    monkeypatch.setattr(drawn_images, "TRAIN", 40)
    monkeypatch.setattr(drawn_images, "TEST", 20)
    one, other = drawn_images.drawn(None), drawn_images.drawn(None)

    assert (one.train[0] == other.train[0]).all()
    assert (one.train[0].shape, one.test[0].shape) == ((40, 3, 32, 32), (20, 3, 32, 32))
    assert one.train[1].tolist() == [*range(10)] * 4


def test_no_repeat_is_refused(capsys):
    assert evaluation.main(["--repeats", "0"]) == 2
    assert capsys.readouterr().err == "error: --repeats: expected at least 1, got 0. Correct the number\n"
