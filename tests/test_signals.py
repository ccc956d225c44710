"""A method that changed nothing, diverged or destroyed the model says so: on the console, on the run, and in
the parser's table.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mlflow_forget
import mlruns_parser
from lethe.evaluation import ModelOutputs, NotFinite, Outputs
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.measure import Measured
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.experiment.warnings import warnings_of
from lethe.models import Mask
from lethe.sweeps.sweep import run_all
from lethe.training import digest_of
from lethe.unlearn import Unlearned
from tests.own_store import runs, there  # noqa: F401 (there: a fixture of every test here)

pytestmark = pytest.mark.slow

CLASSES = 4
METHODS_OF_A_USER = '''
import math
import torch
from torch import nn
from lethe.unlearn import Unlearned, copy_of

def times(model, data, *, factor: float = 1.0):
    """Multiply every weight."""
    student = copy_of(model)
    for parameter in student.parameters():
        parameter.data *= factor
    return student

def broken(model, data):
    """Leave weights that are not numbers."""
    student = copy_of(model)
    next(student.parameters()).data.fill_(math.nan)
    return student

def gives_up(model, data, *, share: float = 0.5):
    """Raise what methods raise."""
    if share > 0.7:
        raise FloatingPointError("gives_up diverged in epoch 3. Choose a smaller --unlearn_lr")
    return times(model, data, factor=share)

class Reversed(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return -self.model(images)

def wrapped(model, data):
    """Another module around the same weights."""
    return Reversed(copy_of(model)).eval()
'''


# warnings_of alone


def logits_for(labels: torch.Tensor, sure: float = 5.0) -> torch.Tensor:
    return nn.functional.one_hot(labels, CLASSES).float() * sure


TRUTH = torch.arange(40) % CLASSES  # of which one is fewer than 5 %
RIGHT = logits_for(TRUTH)
WRONG = logits_for((TRUTH + 1) % CLASSES)


def model_outputs(logits: torch.Tensor) -> ModelOutputs:
    outputs = Outputs(logits, TRUTH)
    return ModelOutputs(outputs, outputs, outputs, None, (), seed=1)


def linear(value: float) -> nn.Module:
    layer = nn.Linear(2, CLASSES)
    nn.init.constant_(layer.weight, value)
    nn.init.zeros_(layer.bias)
    return layer


def judged(
    model: nn.Module | None = None,
    *,
    before: torch.Tensor = RIGHT,
    after: torch.Tensor = RIGHT,
    history: list[dict[str, float]] | None = None,
    leaves_weights: bool = False,
    classes: int = CLASSES,
    **metrics: float,
) -> list[str]:
    """What is said of a model that is linear(1) at first; `metrics` replace those of the unlearned model."""
    both = {"initial model": model_outputs(before), "unlearned model": model_outputs(after)}
    values = [
        {name: own.metric(name) for name in ("forget_loss", "retain_loss", "retain_score", "test_score")}
        for own in (both["initial model"], both["unlearned model"])
    ]
    measured = Measured(values[1] | metrics, values[0], {}, {}, both)
    unlearned = Unlearned(model or linear(2), history=history or [])
    return [
        own.text
        for own in warnings_of(linear(1), unlearned, measured, classes=classes, leaves_weights=leaves_weights)
    ]


ONE_WRONG = torch.cat([WRONG[:1], RIGHT[1:]])


def test_a_method_that_did_something_is_no_reason_to_warn():
    assert judged(after=ONE_WRONG, history=[{"loss": 2.0}]) == []


def test_what_a_method_says_it_missed_is_a_warning():
    both = {"initial model": model_outputs(RIGHT), "unlearned model": model_outputs(ONE_WRONG)}
    measured = Measured({"retain_score": 90.0}, {"retain_score": 90.0}, {}, {}, both)
    missed = Unlearned(linear(2), misses="missed its targets: by far")

    (warning,) = warnings_of(linear(1), missed, measured, classes=CLASSES)
    assert (warning.kind, warning.text) == ("missed its targets", "missed its targets: by far")
    assert not warning.overrides


@pytest.mark.parametrize("masked", [True, False])
def test_a_mask_that_takes_the_rest_of_a_class_along_is_a_warning(masked):
    """All images of class 0 become wrong, the forgotten ones and the others alike."""
    after = torch.where((TRUTH == 0)[:, None], WRONG, RIGHT)
    both = {"initial model": model_outputs(RIGHT), "unlearned model": model_outputs(after)}
    measured = Measured({"retain_score": 90.0}, {"retain_score": 90.0}, {}, {}, both)
    mask = Mask("weight", torch.ones(CLASSES, 2, dtype=torch.bool)) if masked else None

    found = warnings_of(linear(1), Unlearned(linear(2), mask), measured, classes=CLASSES)
    assert ("not singled out" in [own.kind for own in found]) == masked
    assert not any(own.overrides for own in found)


def test_the_same_weights_are_nothing_changed():
    assert judged(linear(1)) == ["changed nothing: every weight is the same as before"]


def test_a_method_that_is_to_leave_the_weights_alone_may():
    assert judged(linear(1), leaves_weights=True) == []


def test_a_buffer_is_a_weight_too():
    one, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean += 1
    both = {"initial model": model_outputs(RIGHT), "unlearned model": model_outputs(RIGHT)}
    measured = Measured({"retain_score": 90.0}, {"retain_score": 90.0}, {}, {}, both)

    assert [own.kind for own in warnings_of(one, Unlearned(one), measured, classes=CLASSES)] == [
        "changed nothing"
    ]
    assert [own.kind for own in warnings_of(one, Unlearned(other), measured, classes=CLASSES)] == [
        "changed no prediction"
    ]


def test_other_weights_that_change_no_prediction_are_a_milder_warning():
    (line,) = judged(after=logits_for(TRUTH, 5.001))

    assert line.startswith(
        "changed no prediction: every forget, retain and test image has the same predicted class as before"
    )
    assert "largest change of a true class's probability: 1.9e-05" in line


def test_one_image_taken_for_another_class_is_a_change():
    assert judged(after=ONE_WRONG) == []


@pytest.mark.parametrize("leaves_weights", [False, True])
def test_a_wrapped_model_is_judged_by_what_it_says(leaves_weights):
    wrapped = nn.Sequential(linear(1))

    assert judged(wrapped, after=ONE_WRONG, leaves_weights=leaves_weights) == []
    assert judged(wrapped, leaves_weights=leaves_weights)[0].startswith("changed no prediction")


def test_weights_of_another_type_are_other_weights():
    assert judged(linear(1).double())[0].startswith("changed no prediction")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_divergence(value):
    assert judged(linear(value), after=ONE_WRONG) == ["diverged: weights that are not finite (weight)"]


@pytest.mark.parametrize(
    ("loss", "shown"), [(math.nan, "nan"), (-math.inf, "-inf"), (10001.0, "1e+04"), (-2e5, "-2e+05")]
)
def test_a_loss_of_the_history_that_is_beyond_the_limit_is_divergence(loss, shown):
    history = [{"forget_loss": 1.0, "gap": math.inf}, {"forget_loss": loss}, {"forget_loss": 3e9}]

    assert judged(after=ONE_WRONG, history=history) == [
        f"diverged: forget_loss {shown} in step 2 of its history"
    ]


def test_a_loss_at_the_limit_is_none():
    assert judged(after=ONE_WRONG, history=[{"loss": 1e4, "temperature": 1e9}], forget_loss=1e4) == []


@pytest.mark.parametrize("name", ["forget_loss", "retain_loss"])
@pytest.mark.parametrize("loss", [math.inf, 1.5e4])
def test_a_measured_loss_beyond_the_limit_is_divergence(name, loss):
    assert judged(after=ONE_WRONG, **{name: loss}) == [f"diverged: measured {name} {loss:.4g}"]


@pytest.mark.parametrize(
    ("classes", "score", "limit"),
    [(4, 49.9, "twice chance (50 %)"), (10, 19.9, "twice chance (20 %)"), (2, 49.9, "chance (50 %)")],
)
def test_a_retain_score_under_twice_chance_is_a_destroyed_model(classes, score, limit):
    at_the_limit = float(limit.split("(")[1].split()[0])

    (line,) = judged(after=ONE_WRONG, classes=classes, retain_score=score)
    assert (
        line
        == f"destroyed the model: retain_score {score:.2f} % is under {limit}; the initial model has 100.00 %"
    )
    assert [
        kind.partition(":")[0] for kind in judged(after=ONE_WRONG, classes=classes, retain_score=at_the_limit)
    ] == ["lost accuracy"]


@pytest.mark.parametrize("name", ["retain_score", "test_score"])
@pytest.mark.parametrize(
    ("score", "says"), [(95.01, []), (95.0, ["fell 5.00 points, from 100.00 % to 95.00 %"])]
)
def test_a_fall_of_five_points_on_what_is_to_be_kept_is_lost_accuracy(name, score, says):
    assert judged(after=ONE_WRONG, **{"retain_score": 100.0, "test_score": 100.0, name: score}) == [
        f"lost accuracy: {name} {fall}" for fall in says
    ]


def test_what_was_lost_on_training_and_on_test_images_is_one_line():
    line = judged(after=ONE_WRONG, retain_score=60.0, test_score=55.5)

    assert line == [
        "lost accuracy: retain_score fell 40.00 points, from 100.00 % to 60.00 %; test_score fell 44.50 "
        "points, from 100.00 % to 55.50 %"
    ]


def test_a_destroyed_model_is_not_told_what_it_lost_beside():
    assert [
        line.partition(":")[0] for line in judged(after=ONE_WRONG, retain_score=10.0, test_score=10.0)
    ] == ["destroyed the model"]


def test_a_method_is_not_blamed_for_what_the_initial_model_never_knew():
    (line,) = judged(before=WRONG, after=torch.cat([RIGHT[:1], WRONG[1:]]))

    assert "destroyed" not in line
    assert "nothing to preserve: the initial model's own retain_score, 0.00 %, is under twice chance" in line


# A run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("signals")
    (place / "mine.py").write_text(METHODS_OF_A_USER)
    return place


def parsed() -> Iterator[dict[str, str]]:
    assert mlruns_parser.main([]) == 0
    with Path("mlruns_parsed.csv").open(newline="") as file:
        yield from csv.DictReader(file)


def warning_of(run_id: str) -> str:
    (row,) = [row for row in parsed() if row["run_id"] == run_id]
    return row["warning"]


def job(*words: str) -> int:
    return mlflow_forget.main(["--epochs", "3", "--ideal", "skip", "--report", "skip", "--unlearn", *words])


def test_nothing_changed_is_said_everywhere(capsys):
    code, run = job("mine.py:times"), runs()[0]
    warning = "changed nothing: every weight is the same as before"

    assert code == 0
    assert f"\nwarning: times class0 seed1: {warning}\n" in capsys.readouterr().out
    assert run.data.tags["warning"] == warning
    assert warning_of(run.info.run_id) == warning
    assert "with a warning: see the column warning" in capsys.readouterr().out


def test_several_warnings_are_one_tag_and_a_line_each(capsys):
    code, run = job("mine.py:times", "--factor", "-10000"), runs()[0]
    out = capsys.readouterr().out

    assert code == 0
    assert run.data.tags["warning"].startswith("diverged: measured forget_loss")
    assert "; destroyed the model: retain_score" in run.data.tags["warning"]
    for kind in ("diverged: measured forget_loss", "destroyed the model: retain_score"):
        assert f"\nwarning: times class0 seed1 factor=-10000.0: {kind}" in out


def test_lost_accuracy_is_said_everywhere(capsys):
    code, run = job("random_mask", "--kappa", "0.97"), runs()[0]
    before, after = run.data.metrics["initial_retain_score"], run.data.metrics["retain_score"]
    fell = f"retain_score fell {before - after:.2f} points, from {before:.2f} % to {after:.2f} %"
    warning = f"lost accuracy: {fell}; test_retain_score fell "

    assert code == 0
    assert f"\nwarning: random_mask class0 seed1 kappa=0.97: {warning}" in capsys.readouterr().out
    assert run.data.tags["warning"].startswith(warning)
    assert warning_of(run.info.run_id) == run.data.tags["warning"]


@pytest.mark.parametrize("method", ["default", "mine.py:wrapped"])
def test_what_is_as_it_should_be_has_no_warning(method):
    job(method)
    run = runs()[0]

    assert "changed" not in run.data.tags.get("warning", "")
    assert (method == "default") == ("warning" not in run.data.tags)  # the wrapper answers wrongly on purpose


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mine.py:broken",), "broken diverged: weights that are not finite"),
        (("mine.py:gives_up", "--share", "0.9"), "gives_up diverged in epoch 3"),
        (("NegGrad", "--unlearn_lr", "1e30"), "NegGrad diverged in epoch"),
    ],
)
def test_divergence_that_ends_the_run_is_marked_too(words, says, capsys):
    code, run = job(*words), runs()[0]

    assert code == 1
    assert capsys.readouterr().err.startswith(f"error: {says}")
    assert run.info.status == "FAILED"
    assert run.data.tags["warning"].startswith(f"diverged: {says}")
    assert says in run.data.tags["error"]
    assert warning_of(run.info.run_id) == run.data.tags["warning"]


def test_the_parent_counts_the_children_that_have_a_warning():
    job("mine.py:times", "--factor", "1", "0.5", "-10000")
    parent = next(run for run in runs() if run.data.tags.get("sweep") == "parent")

    assert parent.data.tags["warning"] == "3 of 3 runs have warnings"  # a factor changes no prediction


def test_a_sweep_that_a_divergence_ends_is_marked_too():
    job("mine.py:gives_up", "--share", "-0.5", "0.9")
    parent = next(run for run in runs() if run.data.tags.get("sweep") == "parent")

    assert parent.info.status == "FAILED"
    assert parent.data.tags["warning"] == "2 of 2 runs have warnings"


def test_a_sweep_without_warnings_has_none():
    run_all([replace(QUICK, settings={"kappa": kappa}) for kappa in (0.2, 0.5)])
    parent = next(run for run in runs() if run.data.tags.get("sweep") == "parent")

    assert "warning" not in parent.data.tags


QUICK = PipelineConfig(unlearn="random_mask", base=BaseConfig(epochs=3), ideal="skip", report="skip")


def test_a_second_run_of_a_pipeline_warns_again():
    settings = {"ranking": "set_difference", "topk": 50, "kappa": 0.1, "gcn_steps": 2}
    pipeline = Pipeline(replace(QUICK, unlearn="MIMU", settings=settings))
    first, second = pipeline.run(), pipeline.run()

    assert "weights were switched off, fewer than the 819 asked for" in str(first.notes[0])
    assert second.notes == first.notes
    assert {run.data.tags["warning"] for run in runs()[:2]} == {
        str(first.notes[0]).partition("gcn_steps=2: ")[2]
    }


def test_warnings_of_touches_nothing():
    model = linear(3)
    before = digest_of(model.state_dict())
    judged(model)

    assert digest_of(model.state_dict()) == before


def test_outputs_that_are_not_finite_are_an_error_of_both_kinds():
    with pytest.raises(NotFinite) as raised:
        Outputs(torch.full((8, CLASSES), math.nan), TRUTH)

    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, FloatingPointError)


def test_a_method_that_changes_its_input_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mine.py").write_text(
        "def adds(model, data):\n    for parameter in model.parameters():\n        parameter.data += 0.1\n   "
        " return model\n"
    )
    assert mlflow_forget.main(["--unlearn", "mine.py:adds", "--epochs", "1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert (
        "adds: expected a method that leaves the model it is given as it was, got one that changed it. Work "
        "on copy_of(model)" in line
    )
