"""Commands in messages: as scripts of a checkout, or as `lethe COMMAND` where there are no scripts."""

import ast
from pathlib import Path

import pytest

from lethe import commands
from lethe.cli import forget
from lethe.experiment.run_flags import flags as flags_of_forget
from lethe.flag_words import command_line_of
from lethe.models import ARCHITECTURES
from lethe.sweeps.run import script_of, trains_base_models

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("lethe", "unlearn", "models", "evaluation")
WHERE_SCRIPTS_ARE_MEANT = ("commands.py", "checkout.py")


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(commands, "has_scripts", lambda: False)


@pytest.mark.parametrize(
    ("name", "in_a_sentence", "line"),
    [
        ("audit", "audit.py", "python -u audit.py"),
        ("parse", "mlruns_parser.py", "python mlruns_parser.py"),
        ("run", "array_param_file.py run", "python array_param_file.py run"),
    ],
)
def test_a_command_has_the_name_by_which_it_is_started(name, in_a_sentence, line, monkeypatch):
    assert (commands.named(name), commands.started(name)) == (in_a_sentence, line)
    monkeypatch.setattr(commands, "has_scripts", lambda: False)
    assert commands.named(name) == commands.started(name) == f"lethe {name}"


@pytest.mark.parametrize("name", ["audit.py", "mlflow_forget.py", "python -u compare.py"])
def test_a_file_of_the_users_own_keeps_its_name_in_a_message(installed, name, capsys):
    assert forget.main(["--unlearn", name]) == 2
    said = capsys.readouterr().err
    assert name in said and "lethe audit" not in said and "lethe forget" not in said


def test_a_users_docstring_stays_as_it_is_in_the_help(installed, tmp_path):
    (tmp_path / "own.py").write_text('def own(model, data):\n    """As my python -u audit.py does."""\n')
    from lethe.unlearn import METHODS

    shown = flags_of_forget(METHODS[f"{tmp_path}/own.py:own"], ARCHITECTURES["mlp"], "As audit.py.\n")
    assert "As my python -u audit.py does." in shown.format_help()
    assert "As lethe audit." in shown.format_help()


def messages_in(path: Path) -> list[str]:
    """The texts in a file, without its docstrings and the HEAD of a page of docs/."""
    tree = ast.parse(path.read_text())
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pages = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node).startswith("HEAD")
    ]
    left_out = docstrings | {node for page in pages for node in ast.walk(page)}
    constants = {node for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return [node.value for node in constants - left_out if isinstance(node.value, str)]


def test_messages_name_no_script_themselves():
    named = [
        (path.name, text)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in WHERE_SCRIPTS_ARE_MEANT
        for text in messages_in(path)
        if any(script in text for script in commands.COMMANDS)
    ]
    assert named == []


def test_a_docstring_shows_the_commands_that_are_there(installed):
    text = "python -u mlflow_forget.py --list; python array_param_file.py run; a CSV of mlruns_parser.py"
    assert commands.as_started(text) == "lethe forget --list; lethe run; a CSV of lethe parse"


def test_the_flags_of_a_printed_command_stay_as_they_are(installed):
    words = ["mlflow_forget.py", "--unlearn", "audit.py:method", "--config", "compare.py"]
    assert command_line_of(words) == "lethe forget --unlearn audit.py:method --config compare.py"


@pytest.mark.parametrize("start", ["lethe", "/opt/venv/bin/lethe", "python -m lethe", "python3.12 -m lethe"])
def test_a_line_of_a_sweep_may_start_the_command_in_any_way(start):
    assert script_of(f"{start} forget --seed 1".split()) == ("mlflow_forget.py", ["--seed", "1"])
    assert trains_base_models(f"{start} baseline --seed 1")
    assert not trains_base_models(f"{start} forget --unlearn FT")
