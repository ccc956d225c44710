"""The ideal model of the main job: made, printed as a command, loaded; and the commands that make base
models.
"""

import re
import shlex

import pytest

import main_baseline
import main_ideal
from tests.main_job_runs import (
    AGAINST_THE_IDEAL,
    RANDOM,
    Outcome,
    call,
    default_store,  # noqa: F401
    files_below,
    fixture_folder,  # noqa: F401
)

pytestmark = pytest.mark.slow


def printed_command(outcome: Outcome) -> list[str]:
    (words,) = re.findall(r"python (-u main_ideal\.py.*)", outcome.out)
    return shlex.split(words)


@pytest.mark.parametrize("ideal", ["auto", "skip"])
def test_without_the_ideal_model_the_command_that_makes_it_is_printed(ideal, folder):
    outcome = call(
        folder, *RANDOM, *"--dataset tiny.py:tiny --arch mlp --kappa 5 --report skip --ideal".split(), ideal
    )

    assert outcome.code == 0
    assert outcome.params["ideal_model"] == "none"
    assert not [name for name in outcome.metrics if name.startswith("ideal_") or name in AGAINST_THE_IDEAL]
    assert {f"undefined.{name}" for name in AGAINST_THE_IDEAL} <= set(outcome.tags)
    assert printed_command(outcome)


def test_the_printed_command_makes_the_ideal_model_and_auto_loads_it(folder):
    job = (*RANDOM, *"--dataset tiny.py:tiny --arch mlp --hidden 8,4 --kappa 5 --class_to_replace 2".split())
    job = (*job, "--report", "skip", "--save_dir", str(folder / "tiny models"))
    script, *words = printed_command(call(folder, *job))[1:]

    done = call(folder, *words, main=main_ideal.main)
    then = call(folder, *job)

    assert (script, done.code, done.err) == ("main_ideal.py", 0, "")
    assert str(folder / "tiny models/1mlp_ep2_hidden8-4_ideal_class2.safetensors") in done.out
    assert then.params["ideal_model"] == "loaded"
    assert "rUA" in then.metrics


def test_train_makes_the_ideal_model_of_any_dataset(folder):
    outcome = call(
        folder,
        *RANDOM,
        *"--dataset tiny.py:tiny --arch mlp --kappa 5 --ideal train --save_dir train --report skip".split(),
    )

    assert outcome.params["ideal_model"] == "trained"
    assert (folder / "train/1mlp_ep2_ideal_class0.safetensors").is_file()
    assert "main_ideal.py" not in outcome.out


@pytest.mark.parametrize(
    ("main", "name"),
    [(main_baseline.main, "1mlp_ep1.safetensors"), (main_ideal.main, "1mlp_ep1_ideal_class4.safetensors")],
)
def test_base_models_are_trained_once_and_shown(main, name, tmp_path):
    first = call(tmp_path, "--epochs", "1", "--class_to_replace", "4", main=main)
    again = call(tmp_path, "--epochs", "1", "--class_to_replace", "4", main=main)
    scores = re.findall(r"(validation|test) score(?: of the retained classes)? (\d+\.\d\d) %", first.out)

    assert (first.code, again.code) == (0, 0)
    assert re.search(
        rf"model(?: without class 4)? trained in [\d.]+ s: results/digits/{re.escape(name)}", first.out
    )
    assert re.search(rf"model(?: without class 4)? loaded: results/digits/{re.escape(name)}", again.out)
    assert [which for which, _ in scores] == ["validation", "test"]
    assert scores == re.findall(
        r"(validation|test) score(?: of the retained classes)? (\d+\.\d\d) %", again.out
    )
    assert files_below(tmp_path) == {f"results/digits/{name}", f"results/digits/locks/{name}.lock"}


def test_the_baseline_is_trained_on_all_and_the_ideal_without_the_forget_set(folder):
    flags = ("--epochs", "15", "--class_to_replace", "4", "--save_dir", "fifteen")
    for main in (main_baseline.main, main_ideal.main):
        call(folder, *flags, main=main)
    outcome = call(folder, "--unlearn", "default", "--report", "skip", *flags)

    assert outcome.metrics["initial_forget_score"] > 80
    assert outcome.metrics["ideal_forget_score"] == 0
    assert outcome.metrics["ideal_test_retain_score"] > 80
    assert outcome.params["initial_model"] == outcome.params["ideal_model"] == "loaded"
