"""A config, the flags that mean it, and the config again."""

import contextlib
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.data import ForgetRequest
from lethe.data.reading import FLAGS as READING
from lethe.experiment.base_config import BaseConfig, base_flags_of
from lethe.experiment.run_config import PipelineConfig, flags_of
from lethe.experiment.run_flags import configs_from, flags_given, options_of
from lethe.flag_words import command, text_of, words_of
from lethe.models import ARCHITECTURES
from lethe.training.recipe import FLAGS as RECIPE
from lethe.unlearn import METHODS

FEWER = settings(max_examples=8)


def is_number(text):
    with contextlib.suppress(ValueError):
        return bool(text.strip()) and float(text) is not None
    return False


def is_text(text):
    """Return whether a command line takes the value as text: none, ~ and -- have meanings of their own."""
    return not is_number(text) and text.casefold() != "none" and not text.startswith("~") and text != "--"


def values_of(annotation):
    """Values that an annotation takes, with ends of ranges and small numbers among them."""
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return st.lists(values_of(get_args(annotation)[0]), min_size=1, max_size=3, unique=True).map(tuple)
    if get_args(annotation):
        return st.one_of([values_of(kind) for kind in get_args(annotation)])
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    texts = st.text(st.characters(exclude_categories=["Cs"])).filter(is_text)
    whole = st.integers(-3, 10**12)
    return {
        int: whole,
        float: numbers | st.floats(0, 1),
        str: texts,
        bool: st.booleans(),
        type(None): st.none(),
        Path: st.sampled_from([Path("scores.csv"), Path("a folder/scores.csv")]),
    }[annotation]


def accepted(parameter, value):
    with contextlib.suppress(ValueError):
        return parameter.check(value) == value
    return False


def settings_of(entry):
    """Some of an entry's flags, with values that they accept."""
    flags = {
        name: values_of(parameter.annotation).filter(lambda value, of=parameter: accepted(of, value))
        for name, parameter in entry.hyperparameters.items()
    }
    return st.fixed_dictionaries({}, optional=flags)


def again(config):
    """The configs that the words for a config mean."""
    return configs_from(*options_of(words_of(flags_of(config))))


@pytest.mark.parametrize("method", list(METHODS), ids=lambda entry: entry.name)
def test_the_flags_of_a_method_mean_the_same_config_again(method):
    @FEWER
    @given(settings_of(method))
    def check(own):
        config = PipelineConfig(method.name, own)
        assert again(config) == [config]

    check()


@pytest.mark.parametrize("architecture", list(ARCHITECTURES), ids=lambda entry: entry.name)
def test_the_flags_of_the_base_models_mean_the_same_config_again(architecture):
    @FEWER
    @given(settings_of(architecture), settings_of(RECIPE), settings_of(READING))
    def check(options, recipe, reading):
        given = {
            name: {key: value for key, value in own.items() if value is not None}
            for name, own in (("r", recipe), ("i", reading))
        }
        config = PipelineConfig(
            "SSD",
            {},
            BaseConfig(arch=architecture.name, arch_options=options, training=given["r"], reading=given["i"]),
        )
        assert again(config) == [config]

    check()


@pytest.mark.parametrize(
    "config",
    [
        PipelineConfig(
            "SSD",
            base=BaseConfig(
                dataset="MNIST", data="my data", num_classes=10, epochs=3, seed=5, split_seed=2, device="cpu"
            ),
        ),
        PipelineConfig("SSD", base=BaseConfig(request=ForgetRequest((-1,), 45), normalize="0.5:0.25")),
        PipelineConfig(
            "SSD",
            ideal="skip",
            experiment="-it's mine",
            checkpoint_epochs=(1, 3),
            metrics=("mia", "tow"),
            report="skip",
        ),
    ],
    ids=["base", "request", "job"],
)
def test_the_other_flags_mean_the_same_config_again(config):
    assert again(config) == [config]


def test_a_text_in_the_field_of_a_path_is_the_path():
    assert BaseConfig(save_dir="out").save_dir == Path("out")


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        (BaseConfig, {"seed": -1}, "--seed: expected an integer from 0 to 2^63 - 1, got -1"),
        (BaseConfig, {"epochs": "3"}, "--epochs: expected an integer or none, got '3'"),
        (BaseConfig, {"save_dir": 3}, "--save_dir: expected a path or none, got 3"),
        (
            PipelineConfig,
            {"unlearn": "SSD", "ideal": "no"},
            "--ideal: expected one of auto, train, skip, got 'no'",
        ),
    ],
)
def test_a_field_of_a_config_is_checked_as_its_flag_is(config, field, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**field)


def test_an_integer_of_numpy_is_one():
    config = BaseConfig(seed=np.int64(2), epochs=np.int32(3))
    assert base_flags_of(config) == {"seed": ["2"], "epochs": ["3"]}


def test_a_dataset_given_by_position_is_refused():
    with pytest.raises(ValueError, match=r"arch_options: expected a mapping .*, got 'MNIST'\. Give fields"):
        BaseConfig("MNIST")


def test_a_text_that_begins_like_a_flag_stands_behind_an_equals_sign():
    assert words_of({"mask_layer": ["-2"], "experiment": ["-e"], "seed": ["1", "2"]}) == [
        *("--mask_layer", "-2", "--experiment=-e", "--seed", "1", "2")
    ]


def test_a_command_can_be_pasted_into_a_shell():
    assert command("ideal", {"data": ["my data"]}) == "python -u main_ideal.py --data 'my data'"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "none"), (True, "true"), ((64, 32), "64,32"), (1e-05, "1e-05"), ("50%", "50%")]
)
def test_values_as_text(value, text):
    assert text_of(value) == text


def test_the_flags_that_are_given_in_their_order():
    words = (
        "--kappa=0.10 --unlearn random_mask --class-to-replace 3 cat --skip_finished --seed 2 "
        "--checkpoint a.pth --metrics mia,tow"
    )

    assert list(flags_given(words.split()).items()) == [
        ("kappa", ["0.10"]),
        ("unlearn", ["random_mask"]),
        ("class_to_replace", ["3", "cat"]),
        ("skip_finished", []),
        ("seed", ["2"]),
        ("mask", ["a.pth"]),
        ("metrics", ["mia,tow"]),
    ]
