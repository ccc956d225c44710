"""The training log: what is in it, after kills too, how large it may be, and what is refused."""

import re
from types import SimpleNamespace

import pytest
import torch

import audit
import main_baseline
import mlflow_forget
from lethe.training import Recipe, StateFile, fit, generator_for, model_digest
from lethe.training.storage import read_tensors, write_tensors
from lethe.training.training_log import TrainingLog, check_room, flat_weights
from lethe.unlearn import ForgetData, unlearn
from tests.bars import CLASS_1, classifier, images_of
from tests.main_job_runs import call

RECIPE = Recipe(2, "adamw", lr=1e-2, batch_size=50)  # of 120 images: 3 steps an epoch
STEPS = 6


class Killed(Exception):
    pass


def trained(folder, *, killed_at=None, recipe=RECIPE, images=None):
    """A model with its log; killed before a step, and with a state after each, where that is asked for."""

    def bar(steps, label, total=None):
        for step in steps:
            if step == killed_at:
                raise Killed
            yield step

    model, log = classifier(), TrainingLog(folder, {"recipe": "this one"})
    state = StateFile(folder.with_suffix(".state"), {}, every=0.0)
    images = images_of(30, seed=0) if images is None else images
    fit(model, images, recipe, generator=generator_for(1, "train"), progress=bar, state=state, log=log)
    log.end(model_digest(model))
    return model, log


def updates_of(log, model):
    return [(indexes.tolist(), change) for indexes, change in log.updates(model)]


def test_the_updates_lead_from_the_first_weights_to_the_last(tmp_path):
    model, log = trained(tmp_path / "log")
    found = updates_of(log, model)
    assert [len(indexes) for indexes, _ in found] == [50, 50, 20] * 2
    assert sorted(index for indexes, _ in found[:3] for index in indexes) == list(range(120))
    total = sum(change for _, change in found)
    torch.testing.assert_close(flat_weights(model), flat_weights(classifier()) + total)


def test_a_training_with_a_log_is_the_one_without(tmp_path):
    model, _ = trained(tmp_path / "log")
    alone = classifier()
    fit(alone, images_of(30, seed=0), RECIPE, generator=generator_for(1, "train"))
    assert model_digest(model) == model_digest(alone)


@pytest.mark.parametrize("kills", [(1,), (3, 5), (4, 4)])
def test_a_killed_training_ends_with_the_same_log(kills, tmp_path):
    model, log = trained(tmp_path / "whole")
    for step in kills:
        with pytest.raises(Killed):
            trained(tmp_path / "killed", killed_at=step)
    again, continued = trained(tmp_path / "killed")
    for (indexes, change), (others, other) in zip(
        updates_of(log, model), updates_of(continued, again), strict=True
    ):
        assert indexes == others
        assert torch.equal(change, other)


def test_a_log_that_lacks_steps_of_the_state_makes_the_training_start_over(tmp_path):
    with pytest.raises(Killed):
        trained(tmp_path / "log", killed_at=5)
    next((tmp_path / "log").glob("0*1.safetensors")).unlink()
    with pytest.warns(UserWarning, match="the training starts over: .* lacks steps"):
        model, log = trained(tmp_path / "log")
    assert len(updates_of(log, model)) == STEPS


def test_a_file_holds_no_more_than_its_share(tmp_path, monkeypatch):
    weights = sum(p.numel() for p in classifier().parameters())
    monkeypatch.setattr("lethe.training.training_log.BLOCK", 2 * 4 * weights)
    log = TrainingLog(tmp_path, {})
    log.begin(0)
    for _ in range(5):
        log.add(torch.arange(3), torch.ones(weights))
    log.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:09}.safetensors" for n in (0, 2, 4)]


def test_the_indexes_count_too_in_the_share_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("lethe.training.training_log.BLOCK", 8 * 100)
    log = TrainingLog(tmp_path, {})
    for _ in range(4):
        log.add(torch.arange(50), torch.ones(1))
    assert log.written == 4 // 2 * 2


def test_what_an_interrupted_training_has_written_counts_as_room(tmp_path, monkeypatch):
    monkeypatch.setattr("lethe.training.training_log.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match=r"expected 0\.00 GB free in .*, got 0\.00"):
        check_room(tmp_path, classifier(), 1, 10, 1.0)
    (tmp_path / "000000000.safetensors").write_bytes(bytes(10**5))
    check_room(tmp_path, classifier(), 1, 10, 1.0)


# What is refused


def test_a_log_that_would_be_too_large_is_refused_before_anything_is_trained(tmp_path):
    message = r"expected at least 0\.01 GB, for 1000 updates of this model, got 0\.001\. Give as much"
    with pytest.raises(ValueError, match=message):
        check_room(tmp_path, classifier(), 1000, 10, 0.001)
    check_room(tmp_path, classifier(), 1000, 10, 0.01)


def test_a_log_of_another_model_is_refused(tmp_path):
    _, log = trained(tmp_path / "log")
    with pytest.raises(ValueError, match="expected the training log of this model, got that of another"):
        next(log.updates(classifier()))


def changed(path, name, change):
    tensors, header = read_tensors(path)
    tensors[name] = change(tensors[name])
    write_tensors(path, tensors, {key: value for key, value in header.items() if key != "digest"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "expected 6 steps, got 3"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged or cut off"),
        (lambda path: changed(path, "changes", lambda c: c * torch.nan), "expected finite changes"),
        (lambda path: changed(path, "changes", lambda c: c[:, 1:]), "expected finite changes of"),
        (lambda path: changed(path, "lengths", lambda n: -n), "expected lengths, indexes and changes"),
        (lambda path: changed(path, "lengths", lambda n: n[0]), "expected lengths, indexes and changes"),
        (
            lambda path: changed(path, "lengths", lambda n: n[:, None]),
            "expected lengths, indexes and changes",
        ),
        (lambda path: changed(path, "lengths", lambda n: n + 2**62), "expected finite changes of"),
        (lambda path: changed(path, "indexes", lambda n: n[0]), "expected finite changes of"),
        (lambda path: changed(path, "indexes", lambda n: n.float()), "expected finite changes of"),
        (lambda path: write_tensors(path, {"a": torch.ones(1)}, {"kind": "else"}), "got another file"),
    ],
)
def test_a_damaged_file_is_refused(harm, message, tmp_path):
    recipe = Recipe(2, "adamw", lr=1e-2, batch_size=50)
    model, log = trained(tmp_path / "log", recipe=recipe)
    whole, _ = read_tensors(tmp_path / "log" / f"{0:09}.safetensors")
    assert len(whole["lengths"]) < STEPS  # the state was written between steps
    path = sorted((tmp_path / "log").glob("0*.safetensors"))[3]
    harm(path)
    with pytest.raises(ValueError, match=message):
        list(log.updates(model))


# amnesiac_updates


def data_of(log=None, request=CLASS_1, images=None):
    whole = images_of(30, seed=0) if images is None else images
    division = request.divide(whole, 4, 0)
    updates = None if log is None else log.updates
    return ForgetData(division.forget, division.retain, whole, 4, whole=whole, updates=updates)


def test_taking_back_every_step_gives_the_first_weights(tmp_path):
    model, log = trained(tmp_path / "log")
    result = unlearn("amnesiac_updates", model, data_of(log), repair_epochs=0)
    assert result.facts == {"steps": STEPS, "steps_taken_back": STEPS}
    torch.testing.assert_close(flat_weights(result.model), flat_weights(classifier()))


def test_taking_back_the_last_step_gives_the_weights_before_it(tmp_path):
    model, log = trained(tmp_path / "log", recipe=Recipe(1, "adamw", lr=1e-2, batch_size=50))
    *others, (last, change) = updates_of(log, model)
    data = data_of(log)
    data.forget.indexes[:] = torch.tensor(last)[torch.arange(len(data.forget)) % len(last)]
    result = unlearn("amnesiac_updates", model, data, repair_epochs=0)
    assert result.facts["steps_taken_back"] == 1
    torch.testing.assert_close(flat_weights(result.model), flat_weights(model) - change, rtol=0, atol=1e-7)
    before = flat_weights(classifier()) + sum(change for _, change in others)
    torch.testing.assert_close(flat_weights(result.model), before)


def test_without_a_log_it_says_what_to_give():
    with pytest.raises(ValueError, match="expected the log of the model's training, got none"):
        unlearn("amnesiac_updates", classifier(), data_of())


def test_the_commands_make_the_log_and_use_it(tmp_path):
    run = (
        "--unlearn",
        "amnesiac_updates",
        "--metrics",
        "forget_score",
        "--report",
        "skip",
        "--ideal",
        "skip",
    )
    few = ("--epochs", "2", "--num_indexes_to_replace", "3")
    missing = call(tmp_path, *run, *few, main=mlflow_forget.main)
    assert missing.code == 2
    (command,) = re.findall(r"Make it: (.*main_baseline\.py .*)", missing.err)
    assert "--training_log" in command
    words = command.split("main_baseline.py ")[1].split()
    assert call(tmp_path, "--epochs", "2", main=main_baseline.main).code == 0  # a model without a log
    made = call(tmp_path, *words, main=main_baseline.main)
    assert made.code == 0, made.err
    again = call(tmp_path, *words, main=main_baseline.main)
    assert "loaded" in again.out
    found = call(tmp_path, *run, *few, main=mlflow_forget.main)
    assert found.code == 0, found.err
    too_small = call(tmp_path, *words, "0.00001", "--seed", "2", main=main_baseline.main)
    assert too_small.code == 2
    assert "--training_log: expected at least" in too_small.err


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (main_baseline.main, ("--training_log", "0"), "expected a number of GB above 0, got '0'"),
        (main_baseline.main, ("--training_log", "x"), "expected a number of GB above 0, got 'x'"),
        (main_baseline.main, ("--training_log", "--models", "2"), "expected one model, got --models too"),
        (
            audit.main,
            ("ulira", "--shadows", "16", "--epochs", "1", "--unlearn", "amnesiac_updates"),
            "amnesiac_updates needs the log of each model's training, and an audit's models have none",
        ),
    ],
)
def test_what_has_no_log_is_refused_in_one_line(main, words, message, tmp_path):
    refused = call(tmp_path, *words, main=main)
    assert refused.code == 2
    assert message in refused.err
    assert list(tmp_path.rglob("*.safetensors")) == []
