"""How images are normalised: by the training images' own numbers, as a person asks, or as the weights' own
file says; always said.
"""

import pytest
import torch

import audit
from lethe.data import Normalisation, checked_normalisation, in_words, normalisation_of, spelled
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels
from lethe.models import build
from lethe.training import checkpoint_metadata

OWN = Normalisation((0.25, 0.5), (0.5, 0.25), white=16)


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("auto", "auto"),
        ("DATA", "data"),
        ("none", "none"),
        ("0.5:0.250", "0.5:0.25"),
        ("0,0.50:1,2e-1", "0,0.5:1,0.2"),
        ("0:1", "none"),
    ],
)
def test_what_may_be_asked(asked, known):
    assert checked_normalisation(asked) == known


@pytest.mark.parametrize(
    "asked", ["", "imagenet", "0.5", "0.5:", ":1", "0.5:0", "0.5:-1", "0.5,0.5:1", "nan:1", "0:inf", "0:1:2"]
)
def test_what_makes_no_sense_is_refused(asked):
    with pytest.raises(ValueError, match=r"--normalize: expected auto, data, none or MEAN,...:STD,..."):
        checked_normalisation(asked)


@pytest.mark.parametrize(
    ("asked", "mean", "std"),
    [
        ("data", OWN.mean, OWN.std),
        ("none", (0.0, 0.0), (1.0, 1.0)),
        ("0.5:0.1", (0.5, 0.5), (0.1, 0.1)),
        ("0,1:2,3", (0.0, 1.0), (2.0, 3.0)),
    ],
)
def test_what_is_asked_is_done(asked, mean, std):
    assert normalisation_of(asked, OWN) == Normalisation(mean, std, white=16)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="--normalize: expected 1 or 2 channels, got 3"):
        normalisation_of("0,0,0:1,1,1", OWN)


def test_a_way_and_its_words():
    assert spelled((0.1307,), (0.3081,)) == "0.1307:0.3081"
    assert in_words("none", OWN) == "images are taken as pixels in [0, 1] (--normalize none)"
    assert in_words("data", OWN).startswith(
        "images are normalised by mean 0.25, 0.5 and deviation 0.5, 0.25, of pixels in [0, 1] (the training"
    )


def test_splits_are_normalised_anew_and_remember_the_datas_own_way(digits):
    pixels = digits.normalised(normalisation_of("none", digits.own_normalisation))

    assert torch.equal(next(pixels.test.batches(5))[0], digits.test.images[:5] / 16)
    assert pixels.normalised(pixels.own_normalisation).train.normalisation == digits.train.normalisation
    assert digits.normalised(digits.train.normalisation) is digits
    assert pixels.digest == digits.digest


# The base models


@pytest.fixture
def base(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda **settings: BaseModels(BaseConfig(**{"epochs": 1, **settings}), splits=digits)


def test_the_default_changes_no_name_and_no_metadata(base):
    for asked in ("auto", "data"):
        made = base(normalize=asked)
        assert (made.initial_path.name, made.metadata("train").normalisation) == ("1mlp_ep1.safetensors", "")


def test_another_way_is_part_of_the_names_and_the_metadata(base):
    made = base(normalize="0.5:0.25")

    assert made.initial_path.name == "1mlp_ep1_normalize-0.5-by-0.25.safetensors"
    assert made.metadata("train").normalisation == "0.5:0.25"
    assert "--normalize 0.5:0.25" in made.ideal_command()
    assert made.splits.train.normalisation.mean == (0.5,)


def test_a_checkpoint_is_used_as_it_was_trained(base, tmp_path):
    mask = tmp_path / "own.safetensors"
    base(normalize="none", mask=mask).initial()

    assert checkpoint_metadata(mask).normalisation == "none"
    assert base(mask=mask).normalize == "none"
    reason = "expected a checkpoint with normalisation , got none. Ask for --normalize none"
    with pytest.raises(ValueError, match=reason):
        base(mask=mask, normalize="data")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, "data"),
        ({"normalize.mean": torch.tensor([0.5]), "normalize.std": torch.tensor([0.25])}, "0.5:0.25"),
        ({"0.mean": torch.tensor([0.0]), "0.std": torch.tensor([1.0])}, "none"),
    ],
)
def test_what_the_weights_of_another_program_say_holds_and_is_told(base, tmp_path, extra, expected):
    torch.save(build("mlp", (1, 8, 8), 10, seed=9).state_dict() | extra, tmp_path / "theirs.pth")
    words = {
        "data": "by mean 0.3",
        "0.5:0.25": "by mean 0.5 and deviation 0.25, of",
        "none": r"are taken as pixels in \[0, 1\]",
    }[expected]
    with pytest.warns(UserWarning, match="has no metadata"), pytest.warns(UserWarning, match=words):
        made = base(mask=tmp_path / "theirs.pth")
    assert made.normalize == expected
    with (
        pytest.warns(UserWarning, match="has no metadata"),
        pytest.warns(UserWarning, match=r"taken as pixels"),
    ):
        assert base(mask=tmp_path / "theirs.pth", normalize="none").normalize == "none"


# The audit of models from elsewhere


def test_evaluate_measures_the_model_as_it_was_trained_and_says_so(base, digits, capsys):
    model = base(normalize="none", epochs=3).initial().model
    pixels = digits.test.images[:] / 16
    own_score = 100 * (model(pixels).argmax(1) == digits.test.labels).double().mean().item()
    torch.save(model.state_dict(), "bare.pth")
    torch.save(
        model.state_dict() | {"normalize.mean": torch.zeros(1), "normalize.std": torch.ones(1)}, "says.pth"
    )

    def evaluated(file, *flags):
        words = ["evaluate", "--initial", file, "--unlearned", file, "--metrics", "test_score", *flags]
        assert audit.main(words) == 0
        out = capsys.readouterr().out
        return out, float(
            next(line for line in out.splitlines() if line.startswith("test_score")).split()[-1]
        )

    for file, flags in (("bare.pth", ("--normalize", "none")), ("says.pth", ())):
        out, score = evaluated(file, *flags)
        assert score == pytest.approx(own_score, abs=1e-3)
        assert "\nimages are taken as pixels in [0, 1] (--normalize none)\n" in out
    out, score = evaluated("bare.pth")
    assert (
        "\nimages are normalised by mean 0.3058 and deviation 0.3765, of pixels in [0, 1] (the training "
        "images' own mean" in out
    )


def test_models_that_say_different_things_are_refused(base, capsys):
    weights = build("mlp", (1, 8, 8), 10, seed=9).state_dict()
    for name, mean in (("a", 0.5), ("b", 0.25)):
        torch.save(
            weights | {"normalize.mean": torch.tensor([mean]), "normalize.std": torch.ones(1)}, f"{name}.pth"
        )

    assert audit.main(["evaluate", "--initial", "a.pth", "--unlearned", "b.pth"]) == 2
    said = (
        "expected models of one normalisation, and their files say 0.5:1 (initial), 0.25:1 (unlearned). "
        "Give the one that holds for all"
    )
    assert said in capsys.readouterr().err
