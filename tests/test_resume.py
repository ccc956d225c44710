"""A training that is killed goes on where it was, to the bits of one that was left alone."""

import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import main_baseline
from lethe.data import ImageSet, Normalisation
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.models import build
from lethe.training import Recipe, StateFile, checkpoint_digest, fit, generator_for, model_digest, state
from lethe.training.storage import read_tensors, write_tensors
from tests.warm_processes import ended, fixture_begin, fixture_warm, until  # noqa: F401

pytestmark = pytest.mark.slow

SHAPE = (1, 8, 8)
RECIPES = {
    "sgd": Recipe(3, batch_size=5, lr=0.05, augment=("crop", "flip", "cutout")),
    "adamw": Recipe(3, "adamw", lr=1e-2, batch_size=5),
    "cosine": Recipe(2, "adamw", lr=1e-2, batch_size=7, schedule="cosine", label_smoothing=0.1),
    "channels_last": Recipe(2, "adamw", lr=1e-2, batch_size=5, memory_format="channels_last"),
    "bf16": Recipe(2, batch_size=5, precision="bf16", memory_format="channels_last"),
}


class Killed(BaseException):
    """What a test raises where a process would be killed."""


def tiny(count=23):
    pixels = torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(pixels, torch.arange(count) % 3, torch.arange(count), Normalisation((0.5,), (0.25,)))


def with_dropout_and_norm():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, second = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), (nn.Conv2d(3, 3, 3), nn.ReLU())
        parts = [*first, *second, nn.Flatten(), nn.Dropout(0.3), nn.Linear(48, 3)]
        return nn.Sequential(*parts)


def trained(recipe, path=None, *, killed_at=None, every=0.0):
    """The model and its history; `killed_at`: the step before which the training ends."""

    def steps(every, label):
        for step in every:
            if step == killed_at:
                raise Killed
            yield step

    model = with_dropout_and_norm()
    state = None if path is None else StateFile(path, {"recipe": str(recipe)}, every=every)
    history = fit(model, tiny(), recipe, generator=generator_for(1, "train"), state=state, progress=steps)
    return model, history


@pytest.mark.parametrize("kind", RECIPES)
@settings(max_examples=12)
@given(kills=st.lists(st.integers(0, 14), max_size=4))
def test_killed_before_any_steps_it_ends_with_the_same_bits(kind, kills, tmp_path_factory):
    recipe, path = RECIPES[kind], tmp_path_factory.mktemp("state") / "model.state"
    alone, history = trained(recipe)
    for step in kills:
        try:
            trained(recipe, path, killed_at=step)
        except Killed:
            continue
    again, continued = trained(recipe, path)
    assert model_digest(again) == model_digest(alone)
    assert continued == history


def test_nothing_is_done_twice_where_every_step_is_kept(tmp_path):
    recipe, path, seen = RECIPES["sgd"], tmp_path / "model.state", []

    def steps(every, label):
        for step in every:
            seen.append(step)
            if len(seen) == 8:
                raise Killed
            yield step

    for _ in range(2):
        try:
            state = StateFile(path, {}, every=0.0)
            fit(
                with_dropout_and_norm(),
                tiny(),
                recipe,
                generator=generator_for(1),
                state=state,
                progress=steps,
            )
        except Killed:
            assert seen == list(range(8))
    assert seen == [*range(8), *range(7, 15)]


def test_a_state_is_written_no_more_often_than_asked(tmp_path):
    trained(RECIPES["sgd"], tmp_path / "model.state", every=60.0)
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_training_is_not_gone_on_with(tmp_path):
    path = tmp_path / "model.state"
    with pytest.raises(Killed):
        trained(RECIPES["sgd"], path, killed_at=7)
    reason = "the training starts over: .*model.state is the state of one with other"
    with pytest.warns(UserWarning, match=reason):
        again, _ = trained(RECIPES["adamw"], path)
    assert model_digest(again) == model_digest(trained(RECIPES["adamw"])[0])


def test_a_damaged_state_is_not_gone_on_with(tmp_path):
    path = tmp_path / "model.state"
    with pytest.raises(Killed):
        trained(RECIPES["sgd"], path, killed_at=7)
    path.write_bytes(path.read_bytes()[:-3])
    reason = "the training starts over: .*model.state: expected a complete safetensors file"
    with pytest.warns(UserWarning, match=reason):
        again, _ = trained(RECIPES["sgd"], path)
    assert model_digest(again) == model_digest(trained(RECIPES["sgd"])[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header.pop("about"),
        lambda tensors, header: header.pop("position"),
        lambda tensors, header: header["position"].update(step="7"),
        lambda tensors, header: header["position"].update(step=-1),
        lambda tensors, header: header["position"].update(total=float("nan")),
        lambda tensors, header: header["position"].update(colour="red"),
        lambda tensors, header: header["position"].update(history=[{}, {}, {}]),
        lambda tensors, header: header.update(way={"bf16": 1}),
        lambda tensors, header: header.update(groups=[]),
        lambda tensors, header: tensors.pop("generator"),
        lambda tensors, header: tensors.update(random=torch.zeros(3)),
        lambda tensors, header: tensors.pop("model.0.weight"),
        lambda tensors, header: tensors.update({"model.0.weight": torch.zeros(1)}),
        lambda tensors, header: tensors.update({"optimizer.99.momentum_buffer": torch.zeros(1)}),
        lambda tensors, header: tensors.update({"optimizer": torch.zeros(1), "optimizer.0": torch.zeros(1)}),
    ],
)
def test_a_state_with_parts_missing_or_of_another_type_is_not_gone_on_with(tmp_path, change):
    path = tmp_path / "model.state"
    with pytest.raises(Killed):
        trained(RECIPES["sgd"], path, killed_at=7)
    tensors, header = read_tensors(path)
    change(tensors, header)
    write_tensors(path, tensors, header)
    with pytest.warns(UserWarning, match=r"the training starts over: .*model\.state is"):
        again, _ = trained(RECIPES["sgd"], path)
    assert model_digest(again) == model_digest(trained(RECIPES["sgd"])[0])


@pytest.fixture
def full_disk(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


def test_a_training_goes_on_where_its_state_cannot_be_written(tmp_path, full_disk):
    reason = "the training goes on, but starts over if it is interrupted: .*No space left on device"
    with pytest.warns(UserWarning, match=reason) as told:
        model, _ = trained(RECIPES["sgd"], tmp_path / "model.state")

    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []
    assert model_digest(model) == model_digest(trained(RECIPES["sgd"])[0])


def test_of_a_checkpoint_that_cannot_be_written_the_training_is_kept(tmp_path, digits, monkeypatch):
    monkeypatch.setattr("lethe.training.state.SECONDS", 0.0)
    base = BaseModels(BaseConfig(epochs=2, save_dir=tmp_path), splits=digits)

    def fail(*_):
        raise ValueError("results can't be written (No space left on device)")

    with (
        monkeypatch.context() as patched,
        pytest.raises(ValueError, match=r"can't be written .*kept in .*\.state: the same command goes on"),
    ):
        patched.setattr("lethe.experiment.base_models.save_checkpoint", fail)
        base.initial()
    (state,) = tmp_path.glob("*.state")
    assert base.initial().path.exists()
    assert not state.exists()


def test_of_a_training_that_diverged_nothing_is_kept(tmp_path):
    path = tmp_path / "model.state"
    recipe = Recipe(3, batch_size=5, lr=1e30)
    with pytest.raises(FloatingPointError):
        trained(recipe, path)
    assert list(tmp_path.iterdir()) == []


def test_the_seconds_of_the_earlier_process_count(tmp_path):
    path = tmp_path / "model.state"
    with pytest.raises(Killed):
        trained(RECIPES["sgd"], path, killed_at=7)
    state = StateFile(path, {"recipe": str(RECIPES["sgd"])}, every=60.0)
    fit(with_dropout_and_norm(), tiny(), RECIPES["sgd"], generator=generator_for(1, "train"), state=state)
    assert state.before > 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kill_9_at_random_times_ends_with_the_same_bits(tmp_path):
    """Processes that are killed for good, a moment after they began."""
    recipe = Recipe(8, batch_size=2)
    alone = model_digest(trained(recipe)[0])
    moments, kills = random.Random(0), 0
    for longest in range(1, 61):  # in the end long enough for a busy machine
        child = os.fork()
        if child == 0:
            model, _ = trained(recipe, tmp_path / "model.state")
            (tmp_path / "digest").write_text(model_digest(model))
            os._exit(0)
        time.sleep(moments.uniform(0.0, 0.05 * longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
        kills += 1
        if (tmp_path / "digest").exists():
            break
    assert kills > 0
    assert (tmp_path / "digest").read_text() == alone


def baseline_with_states(*words):
    """main_baseline.py, which keeps a state at every epoch."""
    state.SECONDS = 0.0
    return main_baseline.main(words)


def test_main_baseline_goes_on_after_kill_9(tmp_path, monkeypatch, capsys, begin):
    """As a user: the command is killed, started again, and leaves the checkpoint alone, with the weights of a
    run without a kill.
    """
    monkeypatch.chdir(tmp_path)
    words = ["--epochs", "10", "--train_batch_size", "16"]
    child = begin(baseline_with_states, *words, "--save_dir", "killed")
    until(lambda: list(tmp_path.glob("killed/*.state")), 60)
    time.sleep(0.1)
    child.kill()
    assert ended(child) == -signal.SIGKILL
    assert not list(tmp_path.glob("killed/*.safetensors"))
    assert main_baseline.main([*words, "--save_dir", "killed"]) == 0
    assert main_baseline.main([*words, "--save_dir", "alone"]) == 0
    name = "1mlp_ep10_batch_size16.safetensors"
    assert checkpoint_digest(Path("killed") / name) == checkpoint_digest(Path("alone") / name)
    assert [path.name for path in Path("killed").iterdir() if path.is_file()] == [name]
    assert "initial model trained in" in capsys.readouterr().out


def test_an_architecture_that_is_built_anew_goes_on_too(tmp_path):
    recipe = Recipe(2, "adamw", lr=1e-3, batch_size=8)

    def run(killed_at=None):
        def steps(every, label):
            for step in every:
                if step == killed_at:
                    raise Killed
                yield step

        model = build("vit_tiny", SHAPE, 3, seed=1, options={"depth": 1, "dim": 12})
        state = StateFile(tmp_path / "model.state", {}, every=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model, tiny(), recipe, generator=generator_for(1), state=state, progress=steps)
        return model

    with pytest.raises(Killed):
        run(killed_at=4)
    continued = model_digest(run())
    (tmp_path / "model.state").unlink()
    assert model_digest(run()) == continued
