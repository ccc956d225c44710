"""Flags by their description in the cache: the same words as by the registries, without importing them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.cli import audit, baseline, forget, ideal
from lethe.cli import list as listed
from lethe.data import DATASETS
from lethe.experiment import flag_sources
from lethe.experiment.described_function import described_function, description_of
from lethe.experiment.flag_sources import described_first, description, imported
from lethe.models import ARCHITECTURES
from lethe.signature import hyperparameters_of
from lethe.system.kept_files import keep, read_kept
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(flag_sources, "is_torch_there", lambda: False)
    return tmp_path / "cache" / "lethe"


@pytest.fixture
def described(cache):
    """The description, made and read."""
    assert description() is None
    found = description()
    assert found is not None
    return found


def said_by(main, words, capsys):
    """What a command prints, and its exit code."""
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return printed.out, printed.err, code


METHOD_PAGES = [["--unlearn", method.name, "--help"] for method in METHODS]
ADD_ON_PAGES = [["--unlearn", "NGPlus", "--addon", entry.name, "--help"] for entry in ADD_ONS]
ARCHITECTURE_PAGES = [["--arch", each.name, "--help"] for each in ARCHITECTURES]
DATASET_PAGES = [["--dataset", each.name, "--help"] for each in DATASETS]
MISTAKES = [
    [],
    ["--foo"],
    ["--unlearn", "MIMO"],
    ["--unlearn", "MIMU", "--kapa", "3"],
    ["--unlearn", "SSD", "--selection_alpha", "-1"],
    ["--unlearn", "SSD", "--kappa", "0.1"],
    ["--unlearn", "NGPlus", "--addon", "GradMax"],
    ["--unlearn", "NGPlus", "--addon_beta", "3"],
    ["--unlearn", "SSD", "--epochs", "many"],
    ["--unlearn", "SSD", "--seed", "-1"],
    ["--unlearn", "SSD", "--arch", "resnet"],
    ["--unlearn", "SSD", "--dataset", "digit"],
    ["--unlearn", "SSD", "--arch", "mlp", "--hidden", "x"],
    ["--unlearn", "SSD", "--train_lr", "0"],
    ["--unlearn", "SSD", "--metrics", "forget_scor"],
    ["--unlearn", "SSD", "--report", "some"],
]
COMMANDS = [
    *((forget.main, words) for words in (["--help"], *METHOD_PAGES, *ADD_ON_PAGES, *ARCHITECTURE_PAGES)),
    *((baseline.main, words) for words in (["--help"], *DATASET_PAGES, ["--arhc", "mlp"])),
    (ideal.main, ["--help"]),
    *((forget.main, words) for words in MISTAKES),
    *(
        (audit.main, [name, *words])
        for name in ("klom", "ulira", "evaluate")
        for words in (["--help"], ["--foo"])
    ),
    (audit.main, ["klom", "--unlearn", "SSD", "--metrics", "forget_scor"]),
    (listed.main, []),
    (forget.main, ["--list"]),
]


@pytest.mark.slow
def test_the_description_says_what_the_registries_say(described, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        for module in (flag_sources, listed):
            patched.setattr(module, "description", lambda: None)
        by_registries = [said_by(main, words, capsys) for main, words in COMMANDS]
    monkeypatch.setattr(flag_sources, "imported", lambda: pytest.fail("imported"))
    for (main, words), expected in zip(COMMANDS, by_registries, strict=True):
        assert said_by(main, words, capsys) == expected, words


def test_what_is_described_has_the_same_flags(described):
    for name in flag_sources.CONFIGS:
        ours = hyperparameters_of(getattr(imported(), name).function)
        assert hyperparameters_of(getattr(described, name).function) == ours, name


def only_positional(model, data): ...


def required(*, count: int, share: float | None = None): ...


@pytest.mark.parametrize("function", [only_positional, required])
def test_a_function_is_described_whole(function):
    described = described_function(json.loads(json.dumps(description_of(function))), {})
    assert hyperparameters_of(described) == hyperparameters_of(function)


def test_a_described_function_computes_nothing():
    with pytest.raises(TypeError, match="required is described alone"):
        described_function(description_of(required), {})()


def test_the_result_is_that_of_what_is_imported(described):
    seen = []

    def parse():
        seen.append(flag_sources.flag_sources().methods["SSD"])
        return seen[-1]

    assert described_first(parse) is METHODS["SSD"] and len(seen) == 2


@pytest.mark.parametrize(
    "words",
    [["--unlearn", "own.py:method"], ["--arch", "own.py:net"], ["--dataset", "folder:images"]],
    ids=lambda words: words[1],
)
def test_what_only_its_code_describes_is_left_to_it(described, monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "own.py").write_text(
        "def method(model, data, *, own_flag: int = 1):\n    return model\n\n\n"
        "def net(image_shape, classes, *, own_flag: int = 1):\n    return None\n"
    )
    out, _, code = said_by(forget.main, [*words, "--help"], capsys)
    assert code == 0 and ("--own_flag" in out) == words[1].startswith("own.py")


@pytest.mark.parametrize("started", ["lethe list", "mlflow_forget.py"])
def test_the_list_names_the_command_as_it_was_started(described, monkeypatch, capsys, started):
    monkeypatch.setattr(sys, "argv", [started])
    out, _, _ = said_by(listed.main, [], capsys)
    assert ("lethe forget --unlearn NAME" in out) == (started == "lethe list")


def test_where_torch_is_there_flags_are_parsed_once(described, monkeypatch):
    monkeypatch.setattr(flag_sources, "is_torch_there", lambda: True)
    seen = []
    described_first(lambda: seen.append(flag_sources.flag_sources().methods))
    assert seen == [METHODS]


def test_a_description_of_other_sources_is_made_anew(described, monkeypatch):
    monkeypatch.setattr(flag_sources, "_digest_of_sources", lambda: "of other sources")
    assert description() is None
    assert description() is not None


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"digest": "DIGEST"}', b'{"digest": "DIGEST", "registries": 3}']
)
def test_a_description_of_another_form_is_made_anew(cache, monkeypatch, content):
    monkeypatch.setattr(flag_sources, "_digest_of_sources", lambda: "DIGEST")
    assert description() is None
    (file,) = cache.iterdir()
    keep(file, content)
    assert description() is None
    assert json.loads(read_kept(file))["listing"]


def test_plugins_are_asked_themselves(described, monkeypatch):
    monkeypatch.setattr(flag_sources, "installed", lambda: ("a plugin",))
    assert description() is None


SCRIPT = """
import sys
sys.argv = ["mlflow_forget.py"]
from lethe.command_line import Main
from lethe.{module} import main
try:
    main({words})
finally:
    loaded = {{"torch", "numpy", "mlflow", "sklearn", "pandas", "matplotlib", "yaml"}} & set(sys.modules)
    print("loaded:", *sorted(loaded), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("cli.forget", ["--help"]),
        ("cli.forget", ["--unlearn", "MIMO"]),
        ("cli.forget", ["--unlearn", "MIMU", "--kapa", "1"]),
        ("cli.list", []),
        ("cli.baseline", ["--help"]),
        ("cli.ideal", ["--foo"]),
        ("cli.audit", ["klom", "--help"]),
        ("cli.grid", ["--help"]),
        ("cli.run", ["--foo"]),
        ("cli.compare", ["--help"]),
        ("cli.tune", ["--unlearn", "SSD", "--help"]),
        ("cli.parse", ["--foo"]),
        ("__main__", ["forget", "--help"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_help_and_mistakes_import_no_library(described, module, words):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module, words=words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "loaded:", done.stderr
