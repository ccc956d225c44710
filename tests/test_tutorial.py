"""docs/tutorial.md: every command in it is run, in its order, and prints what is printed there."""

import contextlib
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.printed_numbers import alike

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
SHOWN = [
    (own.splitlines(), out.splitlines())
    for (kind, own), (_, out) in itertools.pairwise(BLOCKS)
    if kind == "sh"
]


def run(command: str) -> str:
    """What a line of the tutorial prints; RUN_ID is that of the run which the tutorial names."""
    python, *words = shlex.split(command)
    assert python == "python"
    script, *flags = (word for word in words if word != "-u")
    flags = [run_of_the_claim() if word == "RUN_ID" else word for word in flags]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        status = importlib.import_module(script.removesuffix(".py")).main(flags)
    assert status == 0, f"{command}: {errors.getvalue()}"
    return out.getvalue()


def run_of_the_claim() -> str:
    runs = pd.read_csv("mlruns_parsed.csv")
    return str(runs.run_id[runs.run_name == "MIMU class0 seed1"].item())


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The output of each block of commands, all run in one folder, one after another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return ["".join(map(run, commands)) for commands, _ in SHOWN]


def test_a_number_is_compared_and_words_are_too():
    assert alike("forget_score   100.000  0.000", "forget_score 100.000   0.780")
    assert not alike("forget_score   100.000  0.000", "forget_score 100.000   1.010")
    assert alike("steps 24.0 ± 4.0  10.0 to 38.0", "steps 22.0 ± 7.5  6.0 to 40.0")
    assert not alike("steps 24.0 ± 4.0", "steps 30.0 ± 4.0") and not alike(
        "steps 24.0 ± 4.0", "steps 24.0 ± 14.0"
    )
    assert not alike("forget_score 1.0", "retain_score 1.0") and not alike("score 1.0", "score 1.0 2.0")


def test_every_command_has_its_output():
    assert (
        len(SHOWN) == sum(kind == "sh" for kind, _ in BLOCKS) == sum(kind == "text" for kind, _ in BLOCKS) > 5
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SHOWN)), ids=lambda number: SHOWN[number][0][0][:60])
def test_what_the_tutorial_prints_is_printed(printed, number):
    lines = printed[number].splitlines()
    expected = [shown for shown in SHOWN[number][1] if shown.strip() not in ("", "...")]
    missing = [shown for shown in expected if not any(alike(shown, line) for line in lines)]
    assert not missing, "\n".join(["not printed:", *missing, "but:", *lines])
