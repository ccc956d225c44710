"""How many threads torch computes with: by the work of a step, once, and as a run's param says."""

import pytest
import torch
from torch import nn

from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.models import step_work
from lethe.models.work import multiplications
from lethe.sweeps import local_pool
from lethe.system import threads
from lethe.training import Recipe, StateFile, fit, generator_for
from lethe.training.storage import read_tensors, write_tensors
from tests.numbered_images import numbered

pytestmark = pytest.mark.usefixtures("empty_place")


@pytest.fixture
def cores(monkeypatch):
    """A machine of eight cores whose user has asked for no number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "processor_count", lambda: 8)
    monkeypatch.setattr(threads, "_share", None)
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 100.0)


@pytest.mark.parametrize(("step", "expected"), [(0, 1), (199, 1), (200, 2), (450, 4), (1e9, 8)])
def test_a_thread_for_each_part_of_the_work_that_is_worth_one(step, expected, cores):
    assert threads.threads_for(step) == expected


def test_what_the_user_asks_for_wins_over_the_work(cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert (threads.threads_for(0), threads.threads_for(1e9), threads.usable_cores()) == (3, 3, 3)


def test_a_share_of_the_cores_is_the_most_and_no_wish(cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # as the pool sets it for the worker's libraries
    threads.take_share(4)
    assert (threads.threads_for(0), threads.threads_for(1e9), threads.usable_cores()) == (1, 4, 4)


def test_a_worker_knows_whether_the_user_has_asked(cores, monkeypatch, tmp_path):
    monkeypatch.setattr(local_pool, "processor_count", lambda: 8)
    assert [(one.threads, one.asked) for one in local_pool.places(2, (), tmp_path)] == [(4, False)] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [(one.threads, one.asked) for one in local_pool.places(2, (), tmp_path)] == [(8, True)] * 2


def test_the_work_of_a_layer_by_hand():
    """A filter of 2 x 3 x 3 x 3 at 6 x 6 places, then a matrix of 72 x 5; normalisation is no product."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    image = torch.zeros(1, 3, 8, 8)

    assert multiplications(model, image) == 2 * 54 * 36 + 2 * 72 * 5
    assert step_work(model, image, 10) == 30 * multiplications(model, image)
    assert model.training and not model[0]._forward_hooks


@pytest.mark.parametrize(("asked", "expected"), [(None, 1), (2, 2)])
def test_a_run_computes_with_its_threads_and_says_so(asked, expected, cores, monkeypatch):
    """By default as many as a small model's step is worth, even where there are many cores."""
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 150e6)
    seen = {}

    def progress(every, label, total=None):
        seen[label] = torch.get_num_threads()
        return every

    base = BaseConfig(epochs=1, threads=asked)
    config = PipelineConfig("FT", {"unlearn_epochs": 1}, base, metrics=("forget_score",), report="skip")
    result = Pipeline(config, progress=progress).run()

    assert {label: seen[label] for label in ("initial model", "ideal model")} == {
        "initial model": expected,
        "ideal model": expected,
    }
    assert {*seen.values()} == {expected} and len(seen) > 4  # the method and the evaluation too
    assert result.params["threads"] == expected
    assert torch.get_num_threads() == 1


def test_a_training_goes_on_with_the_threads_that_it_began_with(tmp_path):
    path, images = tmp_path / "model.state", numbered([0, 1] * 4)
    seen = []

    def steps(every, label):
        for step in every:
            seen.append(torch.get_num_threads())
            if step == 2 and len(seen) < 4:
                raise KeyboardInterrupt
            yield step

    def train():
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        state = StateFile(path, {}, every=0.0)
        recipe = Recipe(1, batch_size=2)
        fit(model, images, recipe, generator=generator_for(1), state=state, progress=steps)

    with pytest.raises(KeyboardInterrupt), threads.computing_with(2):
        train()
    train()

    assert seen == [2] * 5
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("damaged", [0, -1, "2", True, 10**9])
def test_a_state_with_no_number_of_threads_is_damaged(damaged, tmp_path):
    path, model = tmp_path / "model.state", nn.Sequential(nn.Flatten(), nn.Linear(1, 2))

    def steps(every, label):
        yield 0
        yield 1
        raise KeyboardInterrupt

    def train(progress):
        recipe = Recipe(1, batch_size=2)
        state = StateFile(path, {}, every=0.0)
        fit(model, numbered([0, 1] * 4), recipe, generator=generator_for(1), state=state, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        train(steps)
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | {"threads": damaged})
    with pytest.warns(UserWarning, match="the training starts over: .* is damaged"):
        train(lambda every, label: every)


def test_a_flag_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert BaseModels(BaseConfig(epochs=1, threads=3)).threads == 3
