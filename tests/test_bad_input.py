"""A person's mistakes: exit code 2, one line that says what to do, before anything is trained, and nothing
left behind.
"""

import json
import pickle
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import main_baseline
import main_ideal
import mlflow_forget
from lethe import command_line
from lethe.experiment import base_models, pipeline
from lethe.training import fit

JOB = "--unlearn random_mask --epochs 2 "

METHODS_OF_A_USER = '''
import copy

def clash(model, data, *, epochs: int = 3):
    """A method whose flag the job has already."""
    return copy.deepcopy(model)
'''


class OpensAFile:
    """What a pickle can do to who loads it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("run_by_the_pickle", "w")


@pytest.fixture(autouse=True)
def folder(empty_place, monkeypatch) -> Path:
    """An empty folder, MLflow's default store, and nothing that may be trained."""

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(base_models, "fit", trained)
    monkeypatch.setattr(pipeline, "unlearn", trained)
    return empty_place


@pytest.fixture
def initial(folder, monkeypatch) -> Path:
    """The checkpoint of an initial model, at its default place."""
    with monkeypatch.context() as patch:
        patch.setattr(base_models, "fit", fit)
        assert main_baseline.main(["--epochs", "2"]) == 0
    path = folder / "results/digits/1mlp_ep2.safetensors"
    assert path.is_file()
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    files = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]  # Python's, beside a user's file
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def refused(folder, capfd) -> Callable[..., str]:
    """Run a command line that has a mistake, check what holds for every mistake, and return the one line."""

    def check(words: str, says: str, main: command_line.Main = mlflow_forget.main) -> str:
        before = files_in(folder)
        capfd.readouterr()
        code = main(shlex.split(words))
        out, err = capfd.readouterr()

        assert code == 2, out + err
        assert re.fullmatch(r"error: [^\n]+\n", err), err
        assert re.search(says, err), err
        assert "metrics:" not in out
        assert files_in(folder) == before
        return str(err)

    return check


# The command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--unlearn MIMO",
            r"unknown method 'MIMO'\. Did you mean 'MIMU'\? Methods: amnesiac, .*default, .*SFT",
        ),
        ("--unlearn no/such/file.py:method", r"path/to/file\.py:function.*no file no/such/file\.py"),
        ("--epochs 2", r"--unlearn is missing\. Name a method: .*MIMU"),
        ("", r"--unlearn is missing\. Name a method"),
        (JOB + "--dataset MINST", r"unknown dataset 'MINST'\. Did you mean 'MNIST'\? Datasets: .*digits"),
        (JOB + "--arch mpl", r"unknown architecture 'mpl'\. Did you mean 'mlp'\? Architectures: .*resnet18"),
        (
            JOB + "--kapa 0.1",
            r"unknown flag '--kapa'\. Did you mean '--kappa'\? Flags of random_mask .*--kappa, --mask_layer",
        ),
        (JOB + "--kapp 0.1", r"unknown flag '--kapp'\. Did you mean '--kappa'"),  # no abbreviations
        (JOB + "--mask-laye 1", r"unknown flag '--mask_laye'\. Did you mean '--mask_layer'"),
        (
            JOB + "--topk 50",
            r"unknown flag '--topk'.* Flags of random_mask .*--kappa",
        ),  # another method's flag
        (JOB + "--hooked_width 8", r"unknown flag '--hooked_width'"),  # another architecture's flag
        (JOB + "astray", r"unknown flag 'astray'"),
        (JOB + "--kappa", r"--kappa: expected at least one argument.*--help"),
        (JOB + "--epochs 0", r"--epochs: expected an integer >= 1, got 0"),
        (JOB + "--epochs -3", r"--epochs: expected an integer >= 1, got -3"),
        (JOB + "--epochs two", r"--epochs.*'two'"),
        (JOB + "--seed abc", r"--seed.*'abc'"),
        (JOB + "--seed 1 abc", r"--seed.*'abc'"),
        (JOB + "--split_seed abc", r"--split_seed.*'abc'"),
        (JOB + "--seed +1", r"--seed: expected an integer.*'\+1'"),
        (JOB + "--seed 1_0", r"--seed: expected an integer.*'1_0'"),
        (JOB + "--checkpoint_epochs 1,+2", r"--checkpoint_epochs: expected integers.*'1,\+2'"),
        (JOB + f"--seed {10**30}", rf"--seed: expected an integer.*{10**30}"),
        (JOB + f"--split_seed {10**30}", rf"--split_seed: expected an integer.*{10**30}"),
        (JOB + "--device nonsense", r"--device: expected cpu or .*'nonsense'.*Use cpu, or auto"),
        (JOB + "--device meta", r"--device: expected cpu or .*'meta'.*Use cpu, or auto"),
        (JOB + "--ideal perhaps", r"--ideal.*auto, train, skip.*'perhaps'"),
        (JOB + "--num_classes 7", r"--num_classes: digits has 10 classes, got 7\. Leave the flag out"),
        (JOB + "--hidden 0", r"--hidden: expected an integer >= 1, or several"),
        (
            JOB + "--hidden 128,wide",
            r"--hidden: expected an integer >= 1, or several separated by commas, got '128,wide'",
        ),
        (
            "--unlearn SFT --sft_mode upside_down",
            r"--sft_mode: expected one of randomize_forget, .*got 'upside_down'",
        ),
        ("--unlearn SFT --sft_lr nan", r"--sft_lr: expected a number > 0, got 'nan'"),
        ("--unlearn MIMU --gcn_steps 1.5", r"--gcn_steps: expected an integer >= 1, got '1\.5'"),
        ("--unlearn MIMU --gcn_steps 0", r"--gcn_steps: expected an integer >= 1, got 0"),
        ("--unlearn SFT --sft_steps 0", r"--sft_steps.*expected.*>= 1, got 0"),
    ],
)
def test_the_command_line(words, says, refused):
    refused(words, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--class_to_replace 10", r"--class_to_replace: expected a class from 0 to 9, got 10"),
        ("--class_to_replace -2", r"--class_to_replace: expected a class from 0 to 9, got -2"),
        ("--class_to_replace 3 12", r"--class_to_replace: expected a class from 0 to 9, got 12"),
        ("--class_to_replace three", r"--class_to_replace.*'three'"),
        ("--class_to_replace -1", r"-1 .*would forget everything.*--num_indexes_to_replace"),
        ("--class_to_replace -1 3", r"-1"),
        ("--class_to_replace 0 1 2 3 4 5 6 7 8 9", r"every training image.*Ask for fewer"),
        ("--num_indexes_to_replace 129", r"--num_indexes_to_replace: expected at most 128, .*got 129"),
        (
            "--class_to_replace -1 --num_indexes_to_replace 99999",
            r"--num_indexes_to_replace: expected at most 129\d, .*got 99999",
        ),
        ("--num_indexes_to_replace 0", r"--num_indexes_to_replace: expected an integer >= 1, got 0"),
        ("--num_indexes_to_replace -5", r"--num_indexes_to_replace: expected an integer >= 1, got -5"),
        ("--forget_indexes absent.txt", r"--forget_indexes: .*no file absent\.txt"),
        (
            "--forget_indexes list.txt --class_to_replace 3",
            r"--forget_indexes .*Leave out --class_to_replace",
        ),
        (
            "--forget_indexes list.txt --num_indexes_to_replace 3",
            r"--forget_indexes .*Leave out .*--num_indexes_to_replace",
        ),
        (
            "--forget_indexes list.txt --forget_subclass bear",
            r"--forget_indexes .*Leave out .*--forget_subclass",
        ),
        ("--forget_subclass bear", r"--forget_subclass: .*digits have none"),
        ("--forget_where 'source == B'", r"--forget_where: .*digits have none"),
        ("--forget_hardest 99999", r"--forget_hardest: expected at most 129\d, .*got 99999"),
        ("--forget_hardest 5", r"--forget_hardest: expected --forget_scores FILE"),
        ("--forget_hardest 5 --forget_easiest 5", r"--forget_hardest .*Leave out --forget_easiest"),
        ("--forget_scores list.txt", r"--forget_scores: expected one of --forget_hardest"),
        ("--forget_hardest 5 --forget_scores list.txt", r"--forget_scores: expected the columns"),
        ("--forget_where source", r"--forget_where: expected a condition such as"),
    ],
)
@pytest.mark.parametrize("main", [mlflow_forget.main, main_ideal.main], ids=["job", "ideal"])
def test_the_forget_request(words, says, main, refused, folder):
    (folder / "list.txt").write_text("3\n5\n")
    refused((JOB if main is mlflow_forget.main else "--epochs 2 ") + words, says, main)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("3\nfive\n", r"line 2 of list\.txt, got 'five'"),
        ("3\n-5\n", r"line 2 of list\.txt, got '-5'"),
        ("\n\n", r"list\.txt has none"),
        ("3\n3\n", r"list\.txt repeats"),
        ("99999\n", r"--forget_indexes: expected indexes of training images, got 99999"),
        (f"{10**30}\n", rf"--forget_indexes: expected .*{10**30}"),
    ],
)
def test_the_list_of_indexes(content, says, refused, folder):
    (folder / "list.txt").write_text(content)
    refused(JOB + "--forget_indexes list.txt", says)


AMOUNTS = ["0", "-1", "-0.5", "nan", "inf", "1.0", "1.5", "8193", "1e-9", "abc", "150%", "0%", "nan%", "%"]


@pytest.mark.parametrize("value", AMOUNTS)
@pytest.mark.parametrize("flag", ["topk", "kappa"])
def test_amounts(flag, value, refused):
    refused(
        f"--unlearn MIMU --{flag} {value}",
        rf"--{flag}: (expected a count.*fraction.*percentage|1\.0 could mean one weight.*Write 1 or 100%)",
    )


@pytest.mark.parametrize("method", ["random_mask", "logit_attribution"])
def test_amounts_of_other_masks(method, refused):
    refused(f"--unlearn {method} --kappa 8193", r"--kappa: expected a count from 1 to 8192 .*got 8193")


def test_one_bad_amount_among_several_stops_all(refused):
    refused(JOB + "--kappa 0.1 0.2 8193", r"--kappa: .*got 8193")


@pytest.mark.parametrize("method", ["MIMU", "random_mask", "logit_attribution", "SFT"])
@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (
            "linear9",
            r"unknown layer 'linear9'\. Did you mean 'linear\d'\? Linear layers: linear1, linear2, linear3",
        ),
        ("relu1", r"expected a linear layer, got 'relu1', a ReLU\. Linear layers: linear1, linear2, linear3"),
        ("3", r"expected an index from -3 to 2, got 3\. Linear layers"),
        ("-4", r"expected an index from -3 to 2, got -4\. Linear layers"),
    ],
)
def test_layers(method, layer, says, refused):
    refused(f"--unlearn {method} --mask_layer {layer}", r"--mask_layer: " + says)


def test_a_flag_of_a_persons_method_that_is_taken(refused, folder):
    (folder / "mine.py").write_text(METHODS_OF_A_USER)
    refused("--unlearn mine.py:clash", r"--epochs")
    refused(
        "--unlearn mine.py:clas",
        r"unknown function of mine\.py 'clas'\. Did you mean 'clash'\? Functions of mine\.py: clash",
    )


# Checkpoints


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--arch resnet18",
            r"with arch resnet18, got mlp\. Ask for arch mlp, or name another file with --mask",
        ),
        ("--hidden 64,32", r"with options .*hidden"),
        ("--split_seed 1", r"with split_seed 1, got 0\. Ask for split_seed 0"),
        (
            "--hidden 128,32",
            r"with options {'hidden': \[128, 32\]}, got .*\. "
            "Ask for --hidden 128,64, or name another file with --mask",
        ),
        ("--dataset other.py:other", r"with dataset other, got digits\. Ask for dataset digits"),
    ],
)
def test_a_checkpoint_of_something_else(words, says, refused, initial, folder):
    (folder / "other.py").write_text(
        "from lethe.data.digits import digits\ndef other(folder):\n    return digits(folder)\n"
    )
    arch = "" if "--arch" in words else "--arch mlp "
    refused(f"{JOB}{arch}--mask {initial} {words}", re.escape(str(initial)) + r".*" + says)


def test_a_checkpoint_of_other_images_under_the_same_name(refused, initial, monkeypatch):
    tensors, header = load_file(initial), metadata_of(initial)
    save_file(tensors, initial, {"lethe": json.dumps(header | {"split": "0" * 64})})
    refused(JOB, r"with split [0-9a-f]{12}.*, got 000000000000")


def test_the_ideal_model_is_not_an_initial_one(refused, initial, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(base_models, "fit", fit)
        main_ideal.main(["--epochs", "2"])
    refused(
        JOB + "--mask results/digits/1mlp_ep2_ideal_class0.safetensors",
        r"expected a model trained on everything, got one marked 'class0'",
    )


def metadata_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        header: dict[str, object] = json.loads(file.metadata()["lethe"])
    return header


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def with_one_bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def with_another_weight(path: Path) -> None:
    tensors, header = load_file(path), metadata_of(path)
    tensors["linear1.weight"][0, 0] += 1
    save_file(tensors, path, {"lethe": json.dumps(header)})


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def as_a_mask(path: Path) -> None:
    save_file(load_file(path), path, {"lethe": json.dumps(metadata_of(path) | {"kind": "mask"})})


@pytest.mark.parametrize(
    "damage", [cut, emptied, with_one_bit_flipped, with_another_weight, without_metadata, as_a_mask]
)
def test_a_damaged_checkpoint(damage, refused, initial):
    damage(initial)
    remedies = (
        "Delete it and make it again",
        "delete one that Lethe made, and it is made again",
        "Name the checkpoint's file",
    )
    refused(JOB, rf"results/digits/1mlp_ep2\.safetensors: .*({'|'.join(remedies)})")


def test_a_damaged_ideal_checkpoint(refused, initial, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(base_models, "fit", fit)
        main_ideal.main(["--epochs", "2"])
    with_one_bit_flipped(initial.with_name("1mlp_ep2_ideal_class0.safetensors"))
    refused(JOB, r"_ideal_class0\.safetensors: .*Delete it and make it again")


@pytest.mark.parametrize(
    "content",
    [OpensAFile(), {"state_dict": OpensAFile()}, {"linear1.weight": OpensAFile()}],
    ids=["all", "inside", "value"],
)
def test_a_pickle_that_is_more_than_tensors_is_not_run(content, refused, folder):
    torch.save(content, folder / "old.pth.tar")
    refused(JOB + "--mask old.pth.tar", r"old\.pth\.tar: expected a pickle of tensors alone")
    assert not (folder / "run_by_the_pickle").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            pickle.dumps({"a": 1})[:-3],
            r"old\.pth\.tar: expected a pickle of tensors alone, and it is damaged",
        ),
        (b"", r"old\.pth\.tar: expected weights that torch.save wrote, got an empty file"),
        (
            b"GIF89a, not a checkpoint",
            r"old\.pth\.tar: expected weights that torch.save wrote, got a text, 'GIF89a, not a checkpoint'",
        ),
    ],
    ids=["cut", "empty", "picture"],
)
def test_an_older_checkpoint_that_is_none(content, says, refused, folder):
    (folder / "old.pth.tar").write_bytes(content)
    refused(JOB + "--mask old.pth.tar", says)


def test_an_older_checkpoint_without_tensors(refused, folder):
    torch.save({"epoch": 3, "accuracy": 99.0}, folder / "old.pth.tar")
    refused(
        JOB + "--mask old.pth.tar",
        r"old\.pth\.tar: expected the weights of this architecture, got no tensors",
    )


@pytest.mark.filterwarnings("ignore:.*old.pth.tar has no metadata")
def test_an_older_checkpoint_of_another_architecture(folder, refused):
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(10, 64)}}, folder / "old.pth.tar")

    line = refused(
        JOB + "--mask old.pth.tar", r"old\.pth\.tar: expected the weights of this architecture.*--arch"
    )

    assert line.count("error:") == 1


# Data, folders, the store


@pytest.mark.parametrize(
    ("dataset", "file"), [("MNIST", "train-images-idx3-ubyte"), ("CIFAR10", "data_batch_1")]
)
def test_missing_data_without_network(dataset, file, refused, monkeypatch, folder):
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    refused(
        f"{JOB}--arch mlp --dataset {dataset} --data nowhere",
        rf"{dataset}: expected .*{file}.* in nowhere/.*Put the files there, .*--data",
    )
    assert not (folder / "nowhere").exists() or not list((folder / "nowhere").iterdir())


def test_damaged_data(refused, folder):
    raw = folder / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x02\x01")
    refused(
        JOB + "--dataset MNIST",
        r"MNIST: the files in data/MNIST/raw are damaged.*Delete train-images-idx3-ubyte, .* there",
    )


@pytest.mark.parametrize(
    ("in_the_way", "flags"),
    [
        ("results", ""),
        ("results/digits", ""),
        ("mine", "--save_dir mine"),
        ("mine", "--mask mine/model.safetensors"),
    ],
)
def test_an_unwritable_results_folder(in_the_way, flags, refused, folder):
    (folder / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (folder / in_the_way).write_text("a file in its place")
    refused(JOB + flags, r"can't be written .*choose another with --save_dir")


def test_an_unwritable_cache(refused, initial, folder):
    (folder / "results/digits/cache").write_text("a file in its place")
    refused("--unlearn MIMU --epochs 2", r"results/digits/cache.* can't be written .*--save_dir")


@pytest.mark.parametrize("in_the_way", ["eval", "eval/metrics_and_plots"])
def test_an_unwritable_place_for_the_metrics(in_the_way, refused, folder):
    (folder / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (folder / in_the_way).write_text("a file in its place")
    line = refused(JOB, rf"{in_the_way}.*can't be written")
    assert "--save_dir" not in line  # that flag moves other files


@pytest.mark.parametrize("command", [main_baseline.main, main_ideal.main], ids=["baseline", "ideal"])
def test_base_models_need_a_folder_too(command, refused, folder):
    (folder / "results").write_text("a file in its place")
    refused("--epochs 2", r"can't be written .*--save_dir", command)


def test_a_tracking_server_that_does_not_answer(refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    remedy = "Start it, or correct or unset MLFLOW_TRACKING_URI"
    line = refused(JOB, rf"tracking server http://\S*127\.0\.0\.1:9 does not answer.*{remedy}")
    assert "secret" not in line


def test_an_old_file_store(refused, folder):
    (folder / "mlruns/0").mkdir(parents=True)
    (folder / "mlruns/0/meta.yaml").write_text(
        "artifact_location: mlruns/0\nexperiment_id: '0'\nlifecycle_stage: active\nname: Default\n"
    )
    remedies = r"MLFLOW_TRACKING_URI=sqlite:///mlflow\.db .*MLFLOW_ALLOW_FILE_STORE=true"
    refused(JOB, rf"\./mlruns is an old file store.*{remedies}")


@pytest.mark.parametrize("uri", ["nonsense://somewhere", "file:./mlruns", "sqlite:///notes.txt"])
def test_a_store_that_can_not_be_used(uri, refused, folder, monkeypatch):
    (folder / "notes.txt").write_text("These are notes, and no database. " * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused(JOB, r"MLFLOW_TRACKING_URI")
