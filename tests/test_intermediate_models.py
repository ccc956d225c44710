"""The models on a method's way: measured as the final one is, as earlier steps of the same metrics, without a
trace in the result.
"""

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import mlflow_forget
import mlruns_parser
from lethe.evaluation import UNDECIDED, names_in
from lethe.experiment import intermediate_models, pipeline
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.intermediate_models import Intermediate, checked_epochs
from lethe.experiment.measure import outputs_with_metrics
from lethe.experiment.pipeline import Pipeline, PipelineConfig, Result
from lethe.sweeps.sweep import run_all
from lethe.training import model_digest
from lethe.unlearn import ForgetData
from tests.own_store import artifact, runs, store_in, there  # noqa: F401 (there: a fixture of every test here)

pytestmark = pytest.mark.slow

ARCHITECTURE = '''
from torch import nn

def dropping(image_shape, classes):
    """Batch norm and dropout."""
    first = nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)
    return nn.Sequential(*first, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
'''
METHODS_OF_A_USER = '''
import math
import torch
from lethe.unlearn import copy_of

def wandering(model, data, *, unlearn_epochs: int = 4):
    """Draws from the global random state, as many people's code does."""
    student = copy_of(model)
    for epoch in range(1, unlearn_epochs + 1):
        for parameter in student.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        data.on_epoch(student.train(), epoch)
    return student.eval()

def dips(model, data, *, unlearn_epochs: int = 3, ends: bool = False):
    """Loses its weights in epoch 2."""
    student, lost = copy_of(model), copy_of(model)
    next(lost.parameters()).data.fill_(math.nan)
    for epoch in range(1, unlearn_epochs + 1):
        data.on_epoch(lost if epoch == 2 else student, epoch)
    if ends:
        raise FloatingPointError("dips diverged")
    return student

def stops_early(model, data, *, unlearn_epochs: int = 9):
    """Two epochs, whatever is asked for."""
    for epoch in (1, 2):
        data.on_epoch(model, epoch)
    return copy_of(model)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("checkpoints")
    (place / "arch.py").write_text(ARCHITECTURE)
    (place / "mine.py").write_text(METHODS_OF_A_USER)
    return place


CONFIG = PipelineConfig(
    unlearn="FT", settings={"unlearn_epochs": 3}, base=BaseConfig(epochs=2), checkpoint_epochs=(1, 3)
)


FEW = replace(CONFIG, metrics=("forget_score", "test_score"), report="skip")
SOME = replace(FEW, metrics=("forget_score", "forget_loss", "mia_auc", "avg_gap_without_mia"))


@pytest.fixture(scope="module")
def done(folder) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store_in(folder))
        return Pipeline(CONFIG).run()


SECONDS = {"unlearn_seconds", "ideal_seconds", "speedup"}  # of a whole run, and no two runs have the same


def of_the_model(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in SECONDS}


def client() -> MlflowClient:
    return MlflowClient()


# What is measured, and where it is


def settled(metrics):
    """The names of those that hang on no attack: which attacks are undecided differs from epoch to epoch."""
    return {
        name
        for name in metrics
        if name in ("mia_auc", "avg_gap_without_mia") or not name.startswith(("mia", "avg_gap"))
    }


def test_every_metric_of_the_final_model_is_measured(done):
    assert list(done.checkpoints) == [1, 3]
    assert all(settled(values) == settled(done.metrics) - SECONDS for values in done.checkpoints.values())
    assert "avg_gap_without_mia" in done.metrics


def test_the_model_of_the_last_epoch_is_the_final_one(done):
    assert done.checkpoints[3] == of_the_model(done.metrics)
    assert done.checkpoints[1] != of_the_model(done.metrics)


def test_an_intermediate_model_is_the_final_one_of_fewer_epochs():
    shorter = Pipeline(replace(SOME, settings={"unlearn_epochs": 1}, checkpoint_epochs=())).run()

    assert Pipeline(SOME).run().checkpoints[1] == shorter.metrics


@pytest.mark.parametrize("name", ["test_forget_score", "forget_loss", "mia_auc", "avg_gap_without_mia"])
def test_they_are_steps_of_the_same_metrics_and_the_final_value_is_the_last(name, done):
    points = client().get_metric_history(done.run_id, name)

    assert [(point.step, point.value) for point in sorted(points, key=lambda p: (p.step, p.timestamp))] == [
        (1, done.checkpoints[1][name]),
        (3, done.checkpoints[3][name]),
        (3, done.metrics[name]),
    ]


def test_mlflow_and_the_parser_show_the_final_values(folder):
    """With a method whose last reported model is not the one it returns."""
    result = Pipeline(replace(SOME, unlearn="mine.py:wandering", settings={}, checkpoint_epochs=(2, 3))).run()
    shown = client().get_run(result.run_id).data.metrics
    assert mlruns_parser.main(["--all"]) == 0
    with Path("mlruns_parsed.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["run_id"] == result.run_id]

    assert result.checkpoints[3] != of_the_model(result.metrics)
    assert {name: shown[name] for name in result.metrics} == result.metrics
    assert {name: float(row[name]) for name in result.metrics} == result.metrics


def test_at_one_step_and_millisecond_the_final_value_is_shown(done, monkeypatch):
    """Whichever is larger."""
    from lethe.tracking.run import tracked_run

    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    with tracked_run("one moment", "r") as run:
        run.points({3: {"up": 1.0, "down": 9.0}})
        run.metrics({"up": 2.0, "down": 2.0}, step=3)

    assert client().get_run(run.run_id).data.metrics == {"up": 2.0, "down": 2.0}


def test_the_raw_json_has_them(done):
    raw = json.loads(done.json_path.read_text())

    assert raw["checkpoints"] == {str(epoch): values for epoch, values in done.checkpoints.items()}
    assert all(
        UNDECIDED in why for reasons in raw["checkpoints_undefined"].values() for why in reasons.values()
    )


def test_what_the_final_model_has_no_value_of_is_no_metric(monkeypatch, done):
    final = pipeline.measure

    def without_mia_auc(*args, **options):
        measured = final(*args, **options)
        del measured.model["mia_auc"]
        return measured

    monkeypatch.setattr(pipeline, "measure", without_mia_auc)
    result = Pipeline(SOME).run()

    assert "mia_auc" in result.checkpoints[1]
    assert client().get_metric_history(result.run_id, "mia_auc") == []


def test_without_the_flag_nothing_is_different_but_what_is_logged():
    plain, with_them = (Pipeline(config).run() for config in (replace(SOME, checkpoint_epochs=()), SOME))
    points = client().get_metric_history(plain.run_id, "forget_score")
    tags = [client().get_run(run_id).data.tags for run_id in (plain.run_id, with_them.run_id)]

    assert plain.metrics == with_them.metrics
    assert plain.checkpoints == {}
    assert [point.step for point in points] == [0]
    assert (
        tags[0]["config_hash"] != tags[1]["config_hash"]
    )  # who asks for the one is not served with the other
    assert "checkpoint_evaluation" not in plain.stages


def test_a_table_shows_them(capsys, done):
    words = "--unlearn FT --epochs 2 --unlearn_epochs 3 --checkpoint_epochs 3,1"
    assert mlflow_forget.main(words.split()) == 0
    out = capsys.readouterr().out
    header, rows = next(
        (line.split(), out.splitlines()[n + 2 : n + 4])
        for n, line in enumerate(out.splitlines())
        if line.startswith("intermediate")
    )

    assert header[2:] == names_in("summary")
    for epoch, row in zip((1, 3), rows, strict=True):
        assert row.split() == [
            "epoch",
            str(epoch),
            *(f"{done.checkpoints[epoch][name]:.2f}" for name in names_in("summary")),
        ]


def test_a_sweep_has_them_in_every_child(capsys):
    words = "--unlearn FT --epochs 2 --ideal skip --unlearn_epochs 2 --unlearn_lr 0.01 0.1 "
    words += "--checkpoint_epochs 1,2 --metrics forget_score,test_score"
    assert mlflow_forget.main(words.split()) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("FT class0") and ", epoch " in line]

    assert [row.partition("  ")[0].partition(", ")[2] for row in rows] == ["epoch 1", "epoch 2"] * 2
    assert len({row.partition(", ")[0] for row in rows}) == 2


def test_each_seed_of_a_sweep_has_its_own():
    config = replace(FEW, ideal="skip")
    first, second = run_all([replace(config, base=replace(config.base, seed=seed)) for seed in (1, 2)])

    assert first.checkpoints[3] == of_the_model(first.metrics)
    assert second.checkpoints[3] == of_the_model(second.metrics)
    assert first.checkpoints[1] != second.checkpoints[1]


# No trace


@pytest.mark.parametrize("method", ["FT", "NGPlus", "mine.py:wandering"])
@pytest.mark.parametrize("arch", ["arch.py:dropping", "cnn"])
def test_the_final_weights_are_the_same_bits(method, arch):
    options = {"channels": (4, 8), "hidden": 16} if arch == "cnn" else {}
    base = BaseConfig(arch=arch, arch_options=options, epochs=1)
    plain = replace(
        FEW, unlearn=method, settings={"unlearn_epochs": 2}, base=base, ideal="skip", checkpoint_epochs=()
    )
    digests = []
    for config in (plain, replace(plain, checkpoint_epochs=(1, 2))):
        torch.manual_seed(0)
        digests.append(model_digest(Pipeline(config).run().unlearned.model))

    assert digests[0] == digests[1]


def test_looking_leaves_mode_gradients_and_random_state_as_they_are(monkeypatch, done):
    watching = Pipeline(SOME)
    model = watching.base.initial().model.train()
    loss = (
        model(watching.checked.data.forget.normalisation(watching.checked.data.forget.images[:4]))
        .square()
        .sum()
    )
    loss.backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]

    def drawing(*args):
        torch.rand(3)
        return outputs_with_metrics(*args)

    monkeypatch.setattr(intermediate_models, "outputs_with_metrics", drawing)
    state = torch.get_rng_state()
    watching._on_epoch(model, 1)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(
        torch.equal(parameter.grad, old) for parameter, old in zip(model.parameters(), before, strict=True)
    )
    assert 1 in watching.intermediate.metrics


def test_looking_is_not_unlearning_time(monkeypatch, done):
    def slow(*args):
        time.sleep(0.4)
        return outputs_with_metrics(*args)

    monkeypatch.setattr(intermediate_models, "outputs_with_metrics", slow)
    monkeypatch.setattr(intermediate_models, "score_of", lambda *_: time.sleep(0.2) or 50.0)
    result = Pipeline(
        replace(FEW, unlearn="mine.py:stops_early", settings={}, ideal="skip", checkpoint_epochs=(1, 2))
    ).run()
    logged = client().get_run(result.run_id).data.metrics

    assert result.stages["checkpoint_evaluation"] >= 0.8
    assert result.stages["epoch_scores"] >= 0.8  # two epochs, two sets
    assert logged["unlearn_seconds"] == result.stages["unlearn"] < 0.2
    assert logged["stage_checkpoint_evaluation_seconds"] == result.stages["checkpoint_evaluation"]
    assert (
        sum(seconds for stage, seconds in result.stages.items() if stage != "total") <= result.stages["total"]
    )


# Epochs that are not reached, and mistakes


def test_a_method_that_stops_early_is_a_warning(done):
    result = Pipeline(
        replace(FEW, unlearn="mine.py:stops_early", settings={}, checkpoint_epochs=(2, 5, 7))
    ).run()
    warning = "not evaluated after --checkpoint_epochs 5, 7: the method ended after epoch 2"

    assert list(result.checkpoints) == [2]
    assert any(str(note).endswith(warning) for note in result.notes)
    assert warning in client().get_run(result.run_id).data.tags["warning"]


def test_a_method_without_epochs_is_a_warning():
    result = Pipeline(replace(FEW, unlearn="random_mask", settings={"kappa": 0.5}, ideal="skip")).run()

    assert result.checkpoints == {}
    assert any(
        str(note).endswith("not evaluated after --checkpoint_epochs 1, 3: the method has no epochs")
        for note in result.notes
    )


def test_an_intermediate_model_that_diverged_is_a_warning_and_no_end():
    result = Pipeline(replace(FEW, unlearn="mine.py:dips", settings={}, ideal="skip")).run()
    assert not any("diverged" in str(note) for note in result.notes)

    result = Pipeline(
        replace(FEW, unlearn="mine.py:dips", settings={}, ideal="skip", checkpoint_epochs=(1, 2))
    ).run()
    assert result.checkpoints[2] == {}
    assert any(
        "diverged: the epoch 2 model: expected logits with a finite maximum" in str(note)
        for note in result.notes
    )
    assert "finite" in json.loads(result.json_path.read_text())["checkpoints_undefined"]["2"]["forget_score"]


def test_what_was_measured_before_a_method_diverged_is_kept():
    with pytest.raises(FloatingPointError):
        Pipeline(replace(FEW, unlearn="mine.py:dips", settings={"ends": True}, ideal="skip")).run()
    run = runs()[0]
    kept = json.loads(artifact(run, "checkpoints.json").read_text())

    assert run.info.status == "FAILED"
    assert "forget_score" in kept["1"]
    assert "forget_score" not in run.data.metrics


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", "expected integers >= 1, got 0. Count epochs from 1"),
        ("2,-1", "expected integers >= 1, got -1"),
        ("1,2,1", "expected each epoch once, got 1 again"),
        (
            "1,4,9",
            "expected epochs up to 3, the --unlearn_epochs, got 4, 9. Give earlier ones, or more "
            "--unlearn_epochs",
        ),
        ("1.5", "expected integers separated by commas, got '1.5'"),
        ("1,two", "expected integers separated by commas, got '1,two'"),
        ("1,,2", "expected integers separated by commas, got '1,,2'"),
        ("", "expected integers separated by commas, got ''"),
        ("1" * 5000, "expected integers separated by commas, got"),
    ],
)
def test_a_mistake_is_one_line(value, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert mlflow_forget.main(["--unlearn", "FT", "--unlearn_epochs", "3", "--checkpoint_epochs", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()

    assert line.startswith("error: ")
    assert "--checkpoint_epochs: " in line
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_that_no_method_reaches_is_refused():
    with pytest.raises(ValueError, match=r"expected epochs up to 1000000000, got 1000000001\. Give earlier"):
        checked_epochs((1, 10**9 + 1), {"kappa": 0.1})


def test_the_epochs_are_in_order():
    assert checked_epochs([5, 1, 3], {"unlearn_epochs": 5}) == (1, 3, 5)
    assert checked_epochs((), {}) == ()
    assert checked_epochs((1000,), {"kappa": 0.1}) == (1000,)


def test_an_empty_validation_set_has_no_score():
    images = torch.rand(6, 4)
    data = ForgetData.of_tensors(images, torch.arange(6) % 2, torch.arange(6) < 2)
    seen = Intermediate(())
    seen.score(nn.Linear(4, 2), 1, data)

    assert seen.scores[1].keys() == {"forget_score"}
