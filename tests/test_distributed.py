"""Two processes of torchrun's agent train the model that one trains, and unlearn as one does."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import main_baseline
import mlflow_forget
from lethe import command_line, termination
from lethe.data import ImageSet, Normalisation
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.system.process_ended import ProcessEnded
from lethe.training import Recipe, file_lock, fit, generator_for
from lethe.training.checkpoints import checkpoint_metadata
from lethe.training.process_group import ProcessGroup, own_device
from lethe.training.storage import read_tensors
from tests.main_job_runs import all_runs, artifacts_of, call
from tests.two_processes import RECIPES, RUN, WORDS, everything, torchrun, trained, unused
from tests.unlearned_together import weights_of_all
from tests.warm_processes import (
    command,
    ended,
    fixture_begin,  # noqa: F401
    fixture_begin_in_module,  # noqa: F401
    fixture_warm,  # noqa: F401
)

pytestmark = pytest.mark.slow

NAME = "1mlp_ep5.safetensors"


@pytest.fixture(scope="module")
def together(tmp_path_factory, tables, begin_in_module):
    """The folder in which two processes have trained, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    shutil.copy(tables, folder)
    code = ended(begin_in_module(torchrun, everything, folder=folder), 280)
    assert code == 0, (folder / "err").read_text()
    return folder, (folder / "out").read_text()


def test_the_first_process_alone_prints(together):
    _, said = together
    assert said.count("initial model trained in") == 1
    assert said.count("validation score") == 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_no_thread_outlives_the_group(together):
    """A gloo thread that drops a tensor while Python exits aborts the process, once in some hundred runs."""
    folder, _ = together
    assert [json.loads((folder / f"threads{rank}.json").read_text()) for rank in (0, 1)] == [0, 0]


def test_the_checkpoint_is_written_once_and_nothing_else(together):
    folder, _ = together
    assert [path.name for path in (folder / "results").iterdir() if path.is_file()] == [NAME]


def test_the_checkpoint_is_that_of_one_process_but_for_float_noise(together, tmp_path, monkeypatch):
    folder, _ = together
    monkeypatch.chdir(tmp_path)
    assert main_baseline.main(WORDS) == 0
    here, there = Path("results") / NAME, folder / "results" / NAME
    torch.testing.assert_close(read_tensors(there)[0], read_tensors(here)[0], atol=1e-4, rtol=0)
    one, other = checkpoint_metadata(here), checkpoint_metadata(there)
    assert (one.train_score, one.validation_score) == (other.train_score, other.validation_score)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("mlp")])
def test_the_loss_curve_is_that_of_one_process_but_for_float_noise(name, together):
    folder, _ = together
    history, _ = trained(name.split()[0], RECIPES[name])
    found = json.loads((folder / "rank0.json").read_text())[name]["history"]
    assert [epoch["loss"] for epoch in found] == pytest.approx([epoch["loss"] for epoch in history], rel=1e-4)
    assert [epoch["score"] for epoch in found] == pytest.approx(
        [epoch["score"] for epoch in history], abs=0.1
    )


def test_with_batch_norm_the_loss_curve_is_near_it(together):
    folder, _ = together
    history, _ = trained("cnn", RECIPES["cnn"])
    found = json.loads((folder / "rank0.json").read_text())["cnn"]["history"]
    assert [epoch["loss"] for epoch in found] == pytest.approx([epoch["loss"] for epoch in history], rel=0.1)


def test_all_processes_end_with_the_same_weights_and_history(together):
    folder, _ = together
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name in RECIPES:
        assert first[name]["history"] == second[name]["history"]
    assert first["mlp"]["digest"] == second["mlp"]["digest"]


def test_a_training_that_goes_on_ends_as_one_that_was_left_alone(together):
    folder, _ = together
    for rank in (0, 1):
        found = json.loads((folder / f"rank{rank}.json").read_text())
        assert found["mlp resumed"]["digest"] == found["mlp"]["digest"]
        assert [epoch["score"] for epoch in found["mlp resumed"]["history"]] == [
            epoch["score"] for epoch in found["mlp"]["history"]
        ]
        losses = ([epoch["loss"] for epoch in found[name]["history"]] for name in ("mlp resumed", "mlp"))
        assert next(losses) == pytest.approx(next(losses), rel=1e-6)  # the sums were added in another order


def test_parameters_that_the_loss_does_not_depend_on_stay_as_they_are(together):
    folder, _ = together
    history, model = unused()
    for rank in (0, 1):
        found = json.loads((folder / f"rank{rank}.json").read_text())["unused"]
        assert [epoch["loss"] for epoch in found["history"]] == pytest.approx(
            [epoch["loss"] for epoch in history], rel=1e-4
        )
        assert found["spare"] == model.spare.weight.tolist()


def test_all_processes_end_where_one_sees_that_it_diverges(together):
    folder, _ = together
    for rank in (0, 1):
        (message,) = json.loads((folder / f"rank{rank}.json").read_text())["mlp diverged"]["history"]
        assert message.startswith("training diverged in epoch 1: the loss is nan at step 1 of 1")


# Unlearning


@pytest.fixture(name="alone", scope="module")
def fixture_alone():
    return weights_of_all()


def test_methods_that_share_their_batches_make_the_weights_of_one_process(together, alone):
    folder, _ = together
    first, second = (torch.load(folder / f"unlearned{rank}.pt") for rank in (0, 1))
    assert first.keys() == alone.keys() > {"FT", "SCRUB", "NGradMask", "VarGrad", "CFk", "LoTUS"}
    for name, values in alone.items():
        torch.testing.assert_close(
            first[name], values, atol=1e-8, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
        torch.testing.assert_close(second[name], first[name], atol=0, rtol=0)


def test_a_run_of_two_processes_is_that_of_one_but_for_float_noise(together, tmp_path):
    folder, _ = together
    shutil.copytree(folder / "cnn", tmp_path / "cnn")  # the model that two have trained
    assert call(tmp_path, *RUN).code == 0
    theirs, own = all_runs(folder), all_runs(tmp_path)
    assert [run.info.status for run in theirs] == ["FINISHED"] * 3  # a parent and its two children
    for run, other in list(zip(theirs, own, strict=True))[1:]:
        assert [each.data.params["processes"] for each in (run, other)] == ["2", "1"]
        assert run.data.tags["config_hash"] == other.data.tags["config_hash"]
        assert run.data.metrics["retain_loss"] == pytest.approx(other.data.metrics["retain_loss"], rel=1e-4)
        weights = [
            read_tensors(next(artifacts_of(each).rglob("unlearned.safetensors")))[0] for each in (run, other)
        ]
        torch.testing.assert_close(*weights, atol=1e-4, rtol=0)


KILLS = """
import os, signal, lethe, torch
from lethe.training import descend

@lethe.register_method("kills", parallel=True)
def kills(model, data):
    student = lethe.copy_of(model)
    if not data.group.first:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    descend(student, data.retain.batches(32), optimizer=optimizer, group=data.group)
    return student
"""


def test_a_run_ends_where_one_of_its_processes_is_killed(together, tmp_path, begin):
    folder, _ = together
    shutil.copytree(folder / "results", tmp_path / "results")
    shutil.copy(folder / "mlflow.db", tmp_path)  # with the tables, which take seconds to make
    (tmp_path / "kills.py").write_text(KILLS)
    words = [*WORDS, *"--unlearn kills.py:kills --ideal skip --report skip".split()]
    assert ended(begin(torchrun, command, "mlflow_forget", *words, folder=tmp_path)) == 1
    run = all_runs(tmp_path)[-1]
    assert run.info.run_name.startswith("kills")
    # torchrun ends the process that is left, which notices by itself too: whichever is first.
    assert run.info.status in ("FAILED", "KILLED")


def test_those_who_train_together_hear_from_the_one_that_waits_for_a_lock(tmp_path, monkeypatch):
    said = []

    class Told(ProcessGroup):
        def broadcast(self, value):
            said.append(value)
            if said == [False, False]:
                held.close()
            return value

    monkeypatch.setattr(file_lock, "REPORT_EVERY", 0.1)
    with ExitStack() as held:
        held.enter_context(file_lock.locked(tmp_path / "it"))
        with file_lock.locked_together(tmp_path / "it", Told(0, 2)):
            assert said == [False, False, True]
    answers = iter([False, False, True])
    monkeypatch.setattr(ProcessGroup, "broadcast", lambda self, value: next(answers))
    with file_lock.locked_together(tmp_path / "it", ProcessGroup(1, 2)):
        assert list(answers) == []


# Parts of a batch


def some(count=23):
    pixels = torch.randint(
        0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(
        pixels, torch.arange(count) % 3, torch.arange(count), Normalisation((0.5,) * 3, (0.25,) * 3)
    )


@pytest.mark.parametrize("augment", [False, True, ("flip", "cutout")])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_a_batch_are_the_batch(processes, augment):
    def batches(**share):
        return some().batches(7, generator=torch.Generator().manual_seed(3), augment=augment, **share)

    shares = [list(batches(share=(rank, processes))) for rank in range(processes)]
    for whole, *parts in zip(batches(), *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part[0], whole[0][rank::processes])
            assert torch.equal(part[1], whole[1][rank::processes])


@pytest.mark.parametrize("skip", [1, 3])
def test_batches_that_are_skipped_are_drawn(skip):
    def batches(**how):
        return list(some().batches(7, generator=torch.Generator().manual_seed(3), augment=True, **how))

    for one, other in zip(batches(skip=skip), batches()[skip:], strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("images", "size", "processes"), [(9, 4, 2), (128, 128, 2), (131, 128, 2), (10, 1, 3), (1000, 7, 4)]
)
def test_every_process_gets_two_images_of_every_batch(images, size, processes):
    found = Recipe(1, batch_size=size).batch_size_for(images, processes)
    assert found >= size
    assert all(
        len(range(start, min(start + found, images))[processes - 1 :: processes]) >= 2
        for start in range(0, images, found)
    )


# Refusals


def test_fewer_images_than_the_processes_need_are_refused():
    reason = "training: expected two images a process, got 3 for 2 processes. Start fewer"
    with pytest.raises(ValueError, match=reason):
        fit(torch.nn.Flatten(), some(3), Recipe(1), generator=generator_for(1), group=ProcessGroup(0, 2))


def test_what_trains_nothing_together_is_refused_under_torchrun(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert mlflow_forget.main(["--unlearn", "default"]) == 2
    assert capsys.readouterr().err == (
        "error: --unlearn: default computes in one process, got 2 of torchrun (WORLD_SIZE). Start it without "
        "torchrun; docs/methods.md says which methods take several\n"
    )
    assert main_baseline.main(["--models", "2"]) == 2
    with pytest.raises(ValueError, match="expected one process, got 2 of torchrun"):
        BaseModels(BaseConfig())


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (True, ""),
        (False, "process 5: error: --epochs: expected an integer >= 1, got 0. Give the number of epochs\n"),
    ],
)
def test_another_process_than_the_first_says_what_the_first_has_not_said(
    ended, said, monkeypatch, capsys, tmp_path
):
    def sleep(seconds):
        if ended:
            raise termination.Terminated

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setattr(command_line.time, "sleep", sleep)
    assert main_baseline.main(["--epochs", "0"]) == 2
    assert capsys.readouterr().err == said


def test_a_process_whose_fellow_has_ended_lets_it_say_why(monkeypatch, capsys):
    @command_line.command
    def main(argv=None):
        raise ProcessEnded("another process of torchrun has ended")

    waited = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)
    assert main([]) == 1
    assert waited[0] > command_line.ENDED_WITHIN
    assert capsys.readouterr().err == "error: another process of torchrun has ended\n"


@pytest.mark.parametrize(
    ("size", "message"),
    [("two", "WORLD_SIZE: expected an integer >= 1"), ("0", "WORLD_SIZE: expected an integer >= 1")],
)
def test_variables_that_torchrun_did_not_set_are_refused(size, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=message):
        own_device("auto")


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    reason = "--device: expected auto, cuda or cpu for 2 processes, got 'cuda:1'"
    with pytest.raises(ValueError, match=reason):
        own_device("cuda:1")
    assert own_device("cpu") == "cpu"
