"""One experiment from a file: the same flags, those of the command line counting instead."""

import pytest

from lethe.cli import forget as mlflow_forget
from lethe.experiment import run_flags
from lethe.flag_error import FlagError
from lethe.sweeps.source_lines import flag_of_error


@pytest.fixture(autouse=True)
def folder(empty_place):
    return empty_place


@pytest.fixture
def config_of(folder):
    def of(text, *words):
        (folder / "run.yml").write_text(text)
        return run_flags.configs_from(*mlflow_forget.options_of(["--config", "run.yml", *words]))

    return of


def of_line(*words):
    return run_flags.configs_from(*mlflow_forget.options_of(words))


FULL = """
unlearn: random_mask
kappa: 10%
arch: mlp
hidden: 12,8
class-to-replace: [3, 5]
seed: [1, 2]
epochs: 2
metrics: mia,tow
ideal: skip
mask: null
"""


def test_a_file_is_the_same_as_its_flags(config_of):
    words = (
        "--unlearn random_mask --kappa 10% --arch mlp --hidden 12,8 --class_to_replace 3 5 --seed 1 2 "
        "--epochs 2 --metrics mia,tow --ideal skip"
    )
    assert config_of(FULL) == of_line(*words.split())


def test_a_key_without_a_value_is_a_flag_left_out_and_a_hyperparameters_none(config_of):
    text = (
        "unlearn: MIMU\nexperiment:\ndataset: ~\nskip_finished:\nnum-indexes-to-replace: null\nmask_layer:\n"
    )
    assert config_of(text) == of_line("--unlearn", "MIMU", "--mask_layer", "none")


def test_flags_of_the_line_win(config_of):
    (config,) = config_of(FULL, "--kappa=0.2", "--seed", "7", "--class-to-replace", "1")
    assert (config.settings, config.base.seed, config.base.request.classes) == ({"kappa": 0.2}, 7, ("1",))
    assert config.base.epochs == 2


def test_a_request_of_the_line_takes_the_place_of_the_files(config_of, folder):
    (folder / "list.txt").write_text("3\n5\n")
    (config,) = config_of(
        "unlearn: SSD\nclass_to_replace: 3\nnum_indexes_to_replace: 9\n", "--forget_indexes", "list.txt"
    )
    assert config.base.request.indexes == (3, 5)
    (config,) = config_of("unlearn: SSD\nforget_indexes: list.txt\n", "--class_to_replace", "4")
    assert config.base.request.classes == ("4",)
    (config,) = config_of(
        "unlearn: SSD\nclass_to_replace: 3\nnum_indexes_to_replace: 9\n", "--num_indexes_to_replace", "5"
    )
    assert (config.base.request.classes, config.base.request.number) == (("3",), 5)
    of_file = "unlearn: SSD\nforget_subclass: [bear, seal]\nnum_indexes_to_replace: 9\n"
    (config,) = config_of(of_file, "--forget_indexes", "list.txt")
    assert config.base.request == of_line("--unlearn", "SSD", "--forget_indexes", "list.txt")[0].base.request
    (config,) = config_of(of_file, "--class_to_replace", "4")
    assert config.base.request.flags() == {
        "class_to_replace": ["4"],
        "num_indexes_to_replace": ["9"],
        "forget_subclass": ["bear", "seal"],
    }
    (config,) = config_of(of_file, "--forget_hardest", "4", "--forget_scores", "a.csv")
    assert config.base.request.flags() == {
        "forget_subclass": ["bear", "seal"],
        "forget_hardest": ["4"],
        "forget_scores": ["a.csv"],
    }


def test_a_checkpoint_is_a_mask(config_of):
    (config,) = config_of("unlearn: SSD\ncheckpoint: a.safetensors\n", "--mask", "b.safetensors")
    assert str(config.base.mask) == "b.safetensors"


def test_a_method_with_a_flag_named_checkpoint_is_refused(config_of, folder):
    (folder / "mine.py").write_text("def ck(model, data, *, checkpoint: int = 1): ...\n")
    with pytest.raises(ValueError, match=r"ck: --checkpoint is already a flag of the command\. Rename"):
        config_of("unlearn: mine.py:ck\ncheckpoint: 3\n")


def test_an_error_is_on_the_line_of_the_flags_other_name():
    error = FlagError("mask", "expected a checkpoint")
    assert flag_of_error(error, ["unlearn", "checkpoint"]) == "checkpoint"
    assert flag_of_error(error, ["checkpoint", "mask"]) == "mask"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unlearn: SSD\n\nkapa: 3\n", "run.yml, line 3: unknown flag '--kapa'"),
        ("unlearn: random_mask\nkapa: 3\n", "run.yml, line 2: unknown flag '--kapa'. Did you mean '--kappa'"),
        ("kappa: 3\nunlearn: SSDD\n", "run.yml, line 2: unknown method 'SSDD'"),
        ("unlearn: SSD\nseed: one\n", "run.yml, line 2: argument --seed: expected an integer"),
        ("unlearn: SSD\nepochs: {a: 1}\n", "run.yml, line 2: expected a flag and its value"),
        ("unlearn: SSD\nconfig: other.yml\n", "run.yml, line 2: expected a flag and its value"),
        ("unlearn: SSD\nseed: 1\nseed: 2\n", "run.yml, line 3: 'seed' stands here a second time"),
        ("unlearn: SSD\nlist: true\n", "run.yml, line 2: --list shows what there is, and runs nothing"),
        ("unlearn: SSD\nhelp: true\n", "run.yml, line 2: --help shows what there is, and runs nothing"),
        ("unlearn: SSD\nh: true\n", "run.yml, line 2: --h shows what there is, and runs nothing"),
        ("unlearn: SSD\nkapa:\n", "run.yml, line 2: unknown flag '--kapa'"),
        ("unlearn: SSD\n{a: 1}: 2\n", "run.yml, line 2: expected a word as key, got a list or a mapping"),
        ("unlearn: SSD\n? [a, b]\n: 2\n", "run.yml, line 2: expected a word as key, got a list or a mapping"),
        ("unlearn: [SSD\n", "is not YAML that can be read"),
        ("- SSD\n", "run.yml: expected flags and their values"),
        (
            "unlearn: SSD\nepochs: [1, 2]\n",
            "run.yml, line 2: argument --epochs: expected an integer, got '1,2'",
        ),
        (
            "unlearn: SSD\nseed: &a [*a]\n",
            "--config: run.yml, line 2 is not YAML that can be read (expected values, got *a inside of &a",
        ),
        (
            f"unlearn: SSD\nseed: {'9' * 5000}\n",
            "--config: run.yml, line 2 is not YAML that can be read (expected an int, got 9999",
        ),
        (
            'unlearn: SSD\nexperiment: "a\\nb"\n',
            r"run.yml, line 2: expected a value of one line, got 'a\nb' with the control character",
        ),
        ("epochs: 3\n", "--unlearn is missing"),
        (None, "--config: expected a YAML file, and there is no file run.yml"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(folder, capsys, text, says):
    if text is not None:
        (folder / "run.yml").write_text(text)
    assert mlflow_forget.main(["--config", "run.yml"]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1


def test_a_mistake_on_the_line_is_not_the_files(config_of, capsys, folder):
    (folder / "run.yml").write_text("unlearn: random_mask\n")
    assert mlflow_forget.main(["--config", "run.yml", "--kapp", "3"]) == 2
    assert "run.yml" not in capsys.readouterr().err


def test_a_word_before_the_first_flag_is_refused(capsys, folder):
    (folder / "run.yml").write_text("unlearn: random_mask\n")
    assert mlflow_forget.main(["SSD", "--config", "run.yml"]) == 2
    message = capsys.readouterr().err
    assert "SSD" in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("metrics: [forget_score, mia]", ["--metrics", "forget_score,mia"]),
        ("hidden: [64, 32]", ["--hidden", "64,32"]),
        ("train_augment: [crop, flip]", ["--train_augment", "crop,flip"]),
        ("class_to_replace: [3, 5]", ["--class_to_replace", "3", "5"]),
        ("forget_subclass: [bear, seal]", ["--forget_subclass", "bear", "seal"]),
        ("mask_layer: [0, 1]", ["--mask_layer", "0", "1"]),
    ],
)
def test_a_list_is_what_the_flag_has_several_of(config_of, listed, words):
    text = f"unlearn: random_mask\nkappa: 0.1\n{listed}\n"
    assert config_of(text) == of_line("--unlearn", "random_mask", "--kappa", "0.1", *words)


@pytest.mark.parametrize("name", ["mask", "checkpoint"])
def test_a_tilde_is_the_home_folder(config_of, monkeypatch, name):
    monkeypatch.setenv("HOME", "/home/somebody")
    (config,) = config_of(f"unlearn: SSD\n{name}: ~/mine.pth\n")
    assert str(config.base.mask) == "/home/somebody/mine.pth"


@pytest.mark.parametrize(
    "words", [["--mask=~/mine.pth"], ["--mask", "~/mine.pth"], ["--checkpoint=~/mine.pth"]]
)
def test_a_tilde_that_no_shell_put_the_home_folder_for_is_that_too(monkeypatch, words):
    monkeypatch.setenv("HOME", "/home/somebody")
    (config,) = of_line("--unlearn", "SSD", *words)
    assert str(config.base.mask) == "/home/somebody/mine.pth"
