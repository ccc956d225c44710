"""Two processes of torchrun train the model that one trains."""

import json
import os
import subprocess
import sys
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
from lethe.training import Recipe, file_lock, fit, generator_for
from lethe.training.checkpoints import checkpoint_metadata
from lethe.training.process_group import ProcessGroup, own_device
from lethe.training.storage import read_tensors
from tests.two_processes import RECIPES, WORDS, trained, unused

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
NAME = "1mlp_ep5.safetensors"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes have trained, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    command = [
        sys.executable,
        *"-m torch.distributed.run --standalone --nproc_per_node=2".split(),
        str(ROOT / "tests" / "two_processes.py"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_first_process_alone_prints(together):
    _, done = together
    assert done.stdout.count("initial model trained in") == 1
    assert done.stdout.count("validation score") == 1


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
    assert (
        "error: expected one process, got 2 of torchrun (WORLD_SIZE). Train by torchrun main_baseline.py"
        in capsys.readouterr().err
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
