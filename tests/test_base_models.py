"""The initial and the ideal model: where they lie, what they are trained on, and that this is done once."""

import copy
import shlex

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lethe.data import ForgetRequest
from lethe.experiment import base_models
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.models import build
from lethe.training import checkpoint_digest, fit, model_digest
from lethe.training.storage import read_header
from tests.edited_headers import edit_header
from tests.saved_models import OLDER, SHAPE
from tests.seeded import states_equal


@pytest.fixture
def base(tmp_path, digits, monkeypatch):
    """BaseModels on digits with one epoch in a folder of its own, and what they trained on."""
    monkeypatch.chdir(tmp_path)

    def make(**settings):
        return BaseModels(
            BaseConfig(**{"epochs": 1, **settings}), splits=None if "split_seed" in settings else digits
        )

    return make


@pytest.fixture
def trainings(monkeypatch):
    """The image sets that are trained on while the test runs."""
    seen = []

    def noting(model, images, recipe, **settings):
        seen.append(images)
        return fit(model, images, recipe, **settings)

    monkeypatch.setattr(base_models, "fit", noting)
    return seen


def test_the_default_path_of_the_initial_model(base):
    assert str(base(epochs=None).initial_path) == "results/digits/1mlp_ep30.safetensors"


def test_the_default_path_of_the_ideal_model(base):
    assert str(base().ideal_path) == "results/digits/1mlp_ep1_ideal_class0.safetensors"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"seed": 7}, "7mlp_ep1"),
        ({"arch": "HookedMLPClassifier"}, "1mlp_ep1"),
        ({"arch_options": {"hidden": (8, 4)}}, "1mlp_ep1_hidden8-4"),
        ({"arch_options": {"hidden": (128, 64)}}, "1mlp_ep1"),
        ({"split_seed": 3}, "1mlp_ep1_split3"),
        ({"arch_options": {"hidden": (8,)}, "split_seed": 3}, "1mlp_ep1_hidden8_split3"),
    ],
)
def test_the_name_holds_what_is_not_the_default(base, settings, name):
    assert base(**settings).initial_path.name == f"{name}.safetensors"


@pytest.mark.parametrize(
    ("request_", "slug"),
    [
        (ForgetRequest((3,), 20), "class3-20"),
        (ForgetRequest((-1,), 100), "any-100"),
        (ForgetRequest((3, 5)), "class3+5"),
    ],
)
def test_the_ideal_models_name_holds_the_forget_request(base, request_, slug):
    assert base(request=request_).ideal_path.name == f"1mlp_ep1_ideal_{slug}.safetensors"


def test_the_initial_models_name_does_not_hold_the_forget_request(base):
    assert base(request=ForgetRequest((3,))).initial_path == base().initial_path


def test_a_folder_and_a_file_can_be_named(base, tmp_path):
    made = base(save_dir=tmp_path / "here", mask=tmp_path / "mine.safetensors")
    assert (made.initial_path, made.ideal_path.parent) == (tmp_path / "mine.safetensors", tmp_path / "here")


def test_the_initial_model_is_trained_once(base, trainings):
    first, second = base().initial(), base().initial()
    assert (first.loaded, second.loaded, len(trainings)) == (False, True, 1)


def test_the_loaded_model_has_the_trained_ones_bits(base):
    first, second = base().initial(), base().initial()
    assert states_equal(second.model.state_dict(), first.model.state_dict())


def test_training_twice_gives_the_same_file(base):
    first = base().initial()
    first.path.rename("first.safetensors")
    assert model_digest(base().initial().model) == model_digest(first.model)


def test_the_initial_model_is_trained_on_all_of_train(base, trainings, digits):
    base(request=ForgetRequest((3,))).initial()
    assert [images.digest for images in trainings] == [digits.train.digest]


def test_the_ideal_model_leaves_the_forget_set_out(base, trainings, digits):
    base(request=ForgetRequest((3,))).ideal()
    assert [images.digest for images in trainings] == [digits.train.without_classes(3).digest]


def test_the_ideal_model_is_trained_once(base, trainings):
    assert [base().ideal().loaded, base().ideal().loaded, len(trainings)] == [False, True, 1]


@pytest.mark.parametrize(("which", "trained_on"), [("initial", "train"), ("ideal", "class0")])
def test_a_checkpoint_says_what_it_was_trained_on(base, which, trained_on):
    made = base()
    getattr(made, which)()
    assert read_header(getattr(made, f"{which}_path"))["trained_on"] == trained_on


def test_the_metadata_is_that_of_the_experiment(base, digits):
    metadata = base(seed=5).initial().metadata
    assert (metadata.dataset, metadata.split, metadata.arch, metadata.seed, metadata.epochs) == (
        "digits",
        digits.digest,
        "mlp",
        5,
        1,
    )


def test_the_validation_score_in_the_metadata_is_the_models(base, digits):
    initial = base().initial()
    ((x, y),) = digits.validation.batches(1000)
    assert initial.metadata.validation_score == pytest.approx(
        100 * (initial.model(x).argmax(1) == y).double().mean().item()
    )


def test_models_come_in_eval_mode(base):
    assert not any(base().initial().model.training for _ in range(2))


def test_an_older_checkpoint_can_be_the_initial_model(base, tmp_path):
    torch.save(build("mlp", SHAPE, 10, seed=9).state_dict(), tmp_path / OLDER)
    with (
        pytest.warns(UserWarning, match="has no metadata"),
        pytest.warns(UserWarning, match=r"images are normalised by mean 0\.3058 and"),
    ):
        made = base(mask=tmp_path / OLDER)
    assert model_digest(made.initial().model) == model_digest(build("mlp", SHAPE, 10, seed=9))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_of_another_program_can_be_the_initial_model(base, tmp_path, prefix):
    weights = build("mlp", SHAPE, 10, seed=9).state_dict()
    save_file(
        {prefix + name: value for name, value in weights.items()},
        tmp_path / "theirs.safetensors",
        metadata={"format": "pt"},
    )
    normalised = r"images are normalised by mean 0\.3058 and deviation 0\.3765"
    said = rf"theirs\.safetensors: (names without 'module\.'; )?{normalised}"
    with (
        pytest.warns(UserWarning, match=r"theirs\.safetensors has no metadata"),
        pytest.warns(UserWarning, match=said),
    ):
        made = base(mask=tmp_path / "theirs.safetensors")
    assert model_digest(made.initial().model) == model_digest(build("mlp", SHAPE, 10, seed=9))
    assert checkpoint_digest(tmp_path / "theirs.safetensors", made.untrained()) == model_digest(
        made.initial().model
    )


def test_safetensors_of_another_architecture_are_refused(base, tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "theirs.safetensors")
    reason = r"theirs\.safetensors: expected the weights of this architecture, got others"
    with pytest.raises(ValueError, match=reason):
        base(mask=tmp_path / "theirs.safetensors")


def test_a_function_in_a_file_can_be_the_architecture(base, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef flat(shape, classes):\n    return nn.Sequential(nn.Flatten(), "
        "nn.Linear(64, classes))\n"
    )
    assert base(arch=f"{tmp_path}/mine.py:flat").initial().path.name.startswith("1flat-")


def test_two_files_with_one_function_name_are_two_architectures(base, tmp_path):
    text = (
        "from torch import nn\ndef flat(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, bias={}))\n"
    )
    (tmp_path / "a.py").write_text(text.format(True))
    (tmp_path / "b.py").write_text(text.format(False))
    paths = {base(arch=f"{tmp_path}/{name}.py:flat").initial_path.name for name in "ab"}
    assert len(paths) == 2


def test_an_older_name_is_saved_with_metadata_and_loaded_again(base, tmp_path):
    mask = tmp_path / "mine.pth.tar"
    trained = base(mask=mask).initial()
    loaded = base(mask=mask).initial()
    assert (trained.loaded, loaded.loaded) == (False, True)
    assert loaded.metadata == trained.metadata
    assert states_equal(loaded.model.state_dict(), trained.model.state_dict())


def test_the_epochs_of_a_given_checkpoint_are_those_of_the_ideal_model(base, tmp_path):
    base(epochs=2, mask=tmp_path / "mine.safetensors").initial()
    assert base(epochs=None, mask=tmp_path / "mine.safetensors").epochs == 2
    with pytest.raises(ValueError, match="--epochs: .* was trained for 2, got 3. Leave out"):
        base(epochs=3, mask=tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch_options": {"hidden": (9,)}}, "expected a checkpoint with options"),
        ({"arch": "HookedResnet"}, "expected a checkpoint with arch HookedResnet, got mlp"),
        ({"split_seed": 3}, "expected a checkpoint with split_seed 3, got 0"),
    ],
)
def test_a_checkpoint_of_something_else_is_found_before_training(
    base, trainings, tmp_path, settings, message
):
    base(mask=tmp_path / "mine.safetensors").initial()
    trainings.clear()
    with pytest.raises(ValueError, match=message):
        base(mask=tmp_path / "mine.safetensors", **settings)
    assert trainings == []


def test_an_ideal_model_is_no_initial_model(base):
    made = base()
    made.ideal()
    with pytest.raises(ValueError, match="expected a model trained on everything, got one marked 'class0'"):
        base(mask=made.ideal_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 9}, "--num_classes: digits has 10 classes, got 9"),
        ({"device": "banana"}, "--device: expected cpu or a device that is here, got 'banana'"),
        ({"device": "cuda:99"}, "--device: expected cpu or a device that is here, got 'cuda:99'"),
        ({"device": "meta"}, "--device: expected cpu or a device that is here, got 'meta'"),
        ({"epochs": 0}, "--epochs: expected an integer >= 1, got 0"),
        ({"dataset": "digit"}, "unknown dataset 'digit'"),
        ({"arch": "mpl"}, "unknown architecture 'mpl'"),
        ({"arch_options": {"width": 3}}, "unknown flag of mlp '--width'"),
        (
            {"arch_options": {"hidden": (0,)}},
            "--hidden: expected an integer >= 1, or several separated by commas",
        ),
        ({"request": ForgetRequest((10,))}, "expected a class from 0 to 9, got 10"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_a_mistake_is_found_by_the_constructor(base, settings, message):
    with pytest.raises(ValueError, match=message):
        base(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_classes": 9},
        {"epochs": 0},
        {"request": ForgetRequest((10,))},
        {"arch_options": {"hidden": (0,)}},
    ],
)
def test_a_mistake_leaves_nothing_behind(base, tmp_path, settings):
    with pytest.raises(ValueError, match=r"expected|classes"):
        base(**settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found_by_the_constructor(base, tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        base()


def test_the_right_number_of_classes_is_accepted(base):
    assert base(num_classes=10).splits.classes == 10


def test_the_untrained_model_has_the_seeds_weights(base):
    assert model_digest(base(seed=4).untrained()) == model_digest(build("mlp", SHAPE, 10, seed=4))


def test_the_incompetent_model_has_weights_of_its_own_that_the_seed_decides(base):
    drawn = [model_digest(base(seed=seed).incompetent()) for seed in (4, 4, 5)]

    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] not in [model_digest(base(seed=seed).untrained()) for seed in range(8)]


def test_the_command_of_the_ideal_model_names_what_is_not_the_default(base):
    made = base(seed=3, arch_options={"hidden": (8, 4)}, request=ForgetRequest((3,), 20))
    assert made.ideal_command() == (
        "python -u main_ideal.py --epochs 1 --seed 3 --hidden 8,4 --class_to_replace 3 "
        "--num_indexes_to_replace 20"
    )


def test_the_command_of_the_ideal_model_can_be_pasted_into_a_shell(base, tmp_path):
    made = base(
        save_dir=tmp_path / "my results",
        request=ForgetRequest(indexes=tuple(base().splits.train.indexes[:3].tolist()), file="to forget.txt"),
    )
    words = shlex.split(made.ideal_command())
    assert str(tmp_path / "my results") in words and "to forget.txt" in words


def test_a_copy_of_a_loaded_model_is_independent(base):
    initial = base().initial().model
    before = model_digest(initial)
    nn.init.zeros_(copy.deepcopy(initial).linear1.weight)
    assert model_digest(initial) == before


def test_an_ideal_model_whose_header_was_edited_is_refused(base):
    """The initial model, said to be the ideal one."""
    made = base()
    edit_header(made.initial().path, made.ideal_path, trained_on="class0")
    reason = r"_ideal_class0\.safetensors: its header is not the one that was saved"
    with pytest.raises(ValueError, match=reason):
        base()


def test_an_ideal_model_with_the_initial_models_weights_is_refused(base):
    made = base()
    edit_header(made.initial().path, made.ideal_path, "made anew", trained_on="class0")
    reason = r"expected a model that was retrained .*, got the weights of the initial model\. .*main_ideal"
    with pytest.raises(ValueError, match=reason):
        base()


def test_what_a_checkpoint_from_before_the_headers_digest_says_is_believed_aloud(base):
    path = base().initial().path
    edit_header(path, path, "taken out")
    reason = r"1mlp_ep1\.safetensors was saved before .* covered its header: .* can't be detected"
    with pytest.warns(UserWarning, match=reason):
        base()


def test_a_checkpoint_has_a_name_that_file_systems_hold(tmp_path):
    base = BaseModels(BaseConfig(save_dir=tmp_path))
    assert base.checkpoint_named("1mlp_ep30") == tmp_path / "1mlp_ep30.safetensors"
    names = {base.checkpoint_named("遗忘" * 60 + end).name for end in ("a", "b")}
    assert len(names) == 2 and max(len(f"{name}.state.4194304.partial".encode()) for name in names) <= 255
