"""Commands in messages: as scripts of a checkout, or as `lethe COMMAND` where there are no scripts."""

import pytest

from lethe import commands
from lethe.flag_words import command_line_of
from lethe.sweeps.run import script_of, trains_base_models


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(commands, "has_scripts", lambda: False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run them:  python array_param_file.py run --grid g.yml", "run them:  lethe run --grid g.yml"),
        ("expected 'python -u mlflow_forget.py --unlearn ...'", "expected 'lethe forget --unlearn ...'"),
        (
            "a CSV of mlruns_parser.py. Make it: python mlruns_parser.py --all",
            "a CSV of lethe parse. Make it: lethe parse --all",
        ),
        ("mlruns_parser.py: skipped 1 run", "lethe parse: skipped 1 run"),
        ("Train by torchrun main_baseline.py, then", "Train by torchrun -m lethe baseline, then"),
        ("oracles, made by `main_ideal.py --oracles N`", "oracles, made by `lethe ideal --oracles N`"),
    ],
)
def test_a_message_names_the_command_that_is_there(installed, text, shown):
    assert commands.as_started(text) == shown


@pytest.mark.parametrize(
    "own",
    [
        "./audit.py",
        "mine/audit.py:method",
        "audit.py:method",
        "'compare.py'",
        "my_audit.py",
        "my-audit.py",
        "audit.pyc",
    ],
)
def test_a_users_file_of_that_name_stays_as_it_is(installed, own):
    assert commands.as_started(f"expected a method, got {own}") == f"expected a method, got {own}"


def test_the_flags_of_a_printed_command_stay_as_they_are(installed):
    words = ["mlflow_forget.py", "--unlearn", "audit.py:method", "--config", "compare.py"]
    assert command_line_of(words) == "lethe forget --unlearn audit.py:method --config compare.py"


@pytest.mark.parametrize("start", ["lethe", "/opt/venv/bin/lethe", "python -m lethe", "python3.12 -m lethe"])
def test_a_line_of_a_sweep_may_start_the_command_in_any_way(start):
    assert script_of(f"{start} forget --seed 1".split()) == ("mlflow_forget.py", ["--seed", "1"])
    assert trains_base_models(f"{start} baseline --seed 1")
    assert not trains_base_models(f"{start} forget --unlearn FT")
