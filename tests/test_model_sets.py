"""Models by the hundred: what each is trained on, where it is kept, and that a kill loses none that was
finished.
"""

import re
import signal
import threading
from pathlib import Path

import pytest
import torch

import main_baseline
import main_ideal
from lethe.data import ForgetRequest
from lethe.experiment import model_sets
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.experiment.model_sets import command, load_set, specs_of, train_set
from lethe.training import checkpoint_metadata, fit_many
from lethe.training.file_lock import all_locked, locked
from tests import warm_processes
from tests.edited_headers import edit_header
from tests.warm_processes import ended, fixture_begin, fixture_warm, until  # noqa: F401

SMALL = {"epochs": 1, "arch_options": {"hidden": (6,)}}
FLAGS = ["--epochs", "1", "--hidden", "6"]


pytestmark = pytest.mark.usefixtures("empty_place")


def base(**config):
    return BaseModels(BaseConfig(**SMALL | config))


def states(models):
    return [model.state_dict() for model in models]


def test_an_oracle_is_the_ideal_model_of_its_seed(tmp_path):
    together = base(save_dir=tmp_path / "together")
    train_set(together, "oracles", 3)
    for seed, oracle in enumerate(load_set(together, "oracles", 3), 1):
        alone = base(save_dir=tmp_path / "alone", seed=seed).ideal()
        torch.testing.assert_close(oracle.model.state_dict(), alone.model.state_dict(), atol=1e-5, rtol=0)
        assert oracle.path.name == alone.path.name
        assert checkpoint_metadata(oracle.path).seed == seed
        assert checkpoint_metadata(oracle.path).validation_score == pytest.approx(
            alone.metadata.validation_score, abs=1
        )
        assert torch.equal(
            together.splits.train.subset(oracle.rows).indexes, together.division.retain.indexes
        )


def test_initial_models_of_several_seeds_are_those_of_main_baseline(tmp_path):
    together = base(save_dir=tmp_path / "together", seed=4)
    train_set(together, "initial models", 2)
    for seed, (one, rows) in enumerate(
        ((kept.model, kept.rows) for kept in load_set(together, "initial models", 2)), 4
    ):
        alone = base(save_dir=tmp_path / "alone", seed=seed).initial()
        torch.testing.assert_close(one.state_dict(), alone.model.state_dict(), atol=1e-5, rtol=0)
        assert len(rows) == len(together.splits.train)


def test_models_that_are_there_are_not_trained_again():
    first = base().ideal()
    made = train_set(base(), "oracles", 3)
    assert made.loaded == 1
    assert torch.equal(load_set(base(), "oracles", 1)[0].model[1].weight, first.model[1].weight)
    assert train_set(base(), "oracles", 3).loaded == 3


def test_a_model_that_another_makes_meanwhile_is_waited_for_and_left_as_it_is(monkeypatch):
    """Another run may rest on it, whose digest those of many models at once would not have."""
    place = base().initial_path_of(2)
    kept, done = [], []

    def other_process():
        with locked(place):
            holds.set()
            begins.wait(20)
            kept.append(
                base(seed=2)._train(base().splits.train, place, "train", "initial model").path.read_bytes()
            )

    holds, begins = threading.Event(), threading.Event()
    other, ours = (
        threading.Thread(target=other_process),
        threading.Thread(target=lambda: done.append(train_set(base(), "initial models", 3))),
    )
    trained = []
    monkeypatch.setattr(
        model_sets,
        "fit_many",
        lambda models, *rest, **more: trained.append(len(models)) or fit_many(models, *rest, **more),
    )
    monkeypatch.setattr(model_sets, "all_locked", lambda paths: (begins.set(), all_locked(paths))[1])
    monkeypatch.setattr(model_sets, "models_at_once", lambda *_: 3)
    other.start()
    assert holds.wait(20)
    ours.start()
    for thread in (other, ours):
        thread.join(60)

    assert [place.read_bytes()] == kept
    assert trained == [2]
    assert done[0].loaded == 1


def test_every_image_is_in_half_of_the_shadows_and_they_do_not_depend_on_the_request():
    shadows, others = (
        specs_of(base(), "shadows", 6),
        specs_of(base(request=ForgetRequest((3,), 5)), "shadows", 8),
    )
    images = len(base().splits.train)
    times = torch.bincount(torch.cat([spec.rows for spec in shadows]), minlength=images)
    assert times.sum() == 6 * (images // 2)
    assert (times < 3).sum() <= 3 * (images % 2)  # an odd one is left out of each pair
    assert [spec.path for spec in shadows] == [spec.path for spec in others[:6]]
    assert all(torch.equal(one.rows, other.rows) for one, other in zip(shadows, others, strict=False))
    assert not torch.equal(shadows[0].rows, shadows[2].rows)
    assert len({spec.weights for spec in shadows}) == 6


def test_an_odd_number_of_images_leaves_one_out_of_a_pair(monkeypatch):
    models = base()
    object.__setattr__(models.splits, "train", models.splits.train.subset(torch.arange(101)))
    for one, other in zip(*[iter(specs_of(models, "shadows", 4))] * 2, strict=True):
        assert len(one.rows) == len(other.rows) == 50
        assert len(set(one.rows.tolist()) | set(other.rows.tolist())) == 100


def test_shadows_are_found_with_their_images():
    train_set(base(), "shadows", 2)
    one, other = load_set(base(), "shadows", 2)
    assert not set(one.rows.tolist()) & set(other.rows.tolist())
    assert not torch.equal(one.model[1].weight, other.model[1].weight)
    assert checkpoint_metadata(one.path).trained_on == "shadow1"


def test_what_is_missing_is_said_with_the_command_that_makes_it():
    train_set(base(), "oracles", 2)
    models = base(request=ForgetRequest((0,)))
    message = "expected 5 oracles in results/digits, and 3 of them are missing. Make them: "
    with pytest.raises(
        FileNotFoundError,
        match=re.escape(message + "python -u main_ideal.py --oracles 5 --epochs 1 --hidden 6"),
    ):
        load_set(models, "oracles", 5)
    assert command(models, "shadows", 4) == "python -u main_ideal.py --shadows 4 --epochs 1 --hidden 6"


def test_the_command_that_is_named_makes_them(capsys):
    with pytest.raises(FileNotFoundError) as raised:
        load_set(base(), "shadows", 2)
    _, _, words = str(raised.value).partition("main_ideal.py ")
    assert main_ideal.main(words.split()) == 0
    assert re.match(
        r"2 shadows: 0 were there, 2 trained in .* s each: results/digits/", capsys.readouterr().out
    )
    assert len(load_set(base(), "shadows", 2)) == 2


def test_oracles_of_another_forget_set_are_others(capsys):
    assert main_ideal.main([*FLAGS, "--oracles", "2"]) == 0
    assert main_ideal.main([*FLAGS, "--oracles", "2", "--class_to_replace", "3"]) == 0
    assert capsys.readouterr().out.count("0 were there, 2 trained") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--oracles", "0"], "error: --oracles: expected an integer >= 1, got 0. Say how many models"),
        (
            ["--shadows", "3"],
            "error: --shadows: expected an even number, as they are pairs of halves, got 3. Give 4",
        ),
        (["--oracles", "2", "--shadows", "3"], "error: --shadows: expected an even number"),
        (["--oracles", "many"], "error: argument --oracles: invalid int value: 'many'"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_trained(flags, message, capsys, tmp_path):
    assert main_ideal.main([*FLAGS, *flags]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_something_else_in_the_place_of_an_oracle_is_refused(capsys):
    assert main_ideal.main([*FLAGS, "--oracles", "2"]) == 0
    place = base().ideal_path_of(2)
    place.replace(base().ideal_path_of(2).with_name(place.name.replace("class0", "class1")))
    assert main_ideal.main([*FLAGS, "--oracles", "2", "--class_to_replace", "1"]) == 2
    assert "expected a model trained on all but class1, got one marked 'class0'" in capsys.readouterr().err


def test_main_baseline_makes_initial_models(capsys):
    assert main_baseline.main([*FLAGS, "--models", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 initial models: 0 were there, 2 trained in ")


def killed_after(first: int, process, folder: Path) -> int:
    """Kill a process as soon as so many checkpoints are there, and say how many it left."""
    until(lambda: len(list(folder.glob("*.safetensors"))) >= first or not process.is_alive(), 100)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    return len(list(folder.glob("*.safetensors")))


@pytest.mark.slow
def test_killed_after_40_of_64_it_goes_on_with_the_others_to_the_same_weights(tmp_path, capsys, begin):
    flags = ["--epochs", "6", "--oracles", "64", "--device", "cpu", "--save_dir"]
    process = begin(warm_processes.command, "main_ideal", *flags, "killed")
    there = killed_after(40, process, tmp_path / "killed")
    assert 40 <= there < 64
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.safetensors")}
    assert main_ideal.main([*flags, "killed"]) == 0
    assert capsys.readouterr().out.startswith(f"64 oracles: {there} were there, {64 - there} trained")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert main_ideal.main([*flags, "whole"]) == 0
    interrupted, whole = (
        load_set(base(epochs=6, arch_options={}, save_dir=Path(name)), "oracles", 64)
        for name in ("killed", "whole")
    )
    for one, other in zip(interrupted, whole, strict=True):
        torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (
            "1mlp_ep1_hidden6_ideal_class0",
            {},
            r"2mlp\S+: expected the model of seed 2, got that of seed 1\. Move it away",
        ),
        (
            "1mlp_ep1_hidden6_ideal_class0",
            {"seed": 2},
            r"2mlp\S+: expected a model of its own, got the weights of \S+/1mlp",
        ),
        (
            "2mlp_ep1_hidden6",
            {"trained_on": "class0"},
            r"2mlp\S+_class0\S+: expected a model of its own, got the weights of \S+/2mlp_ep1_h",
        ),
    ],
    ids=["another's oracle", "another's oracle, edited", "the initial model, edited"],
)
def test_a_copy_is_no_oracle_of_another_seed(source, changes, message):
    folder = Path("results/digits")
    train_set(base(), "initial models", 2)
    train_set(base(), "oracles", 2)
    edit_header(
        folder / f"{source}.safetensors",
        folder / "2mlp_ep1_hidden6_ideal_class0.safetensors",
        "made anew",
        **changes,
    )
    for use in (train_set, load_set):
        with pytest.raises(ValueError, match=message):
            use(base(), "oracles", 2)


def test_oracles_from_before_the_headers_digest_are_named_once():
    made = train_set(base(), "oracles", 3)
    for spec in made.specs[1:]:
        edit_header(spec.path, spec.path, "taken out")
    with pytest.warns(UserWarning, match=r"^2 models, the first: \S+/2mlp\S+ was saved before") as told:
        assert len(load_set(base(), "oracles", 3)) == 3
    assert len(told) == 1
