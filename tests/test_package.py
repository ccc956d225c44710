"""Lethe as an installed package, beside a project that has folders of the same names; and as a checkout."""

import importlib
import importlib.util
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

import mlflow_forget
from lethe.checkout import MOVED, MovedModules
from lethe.experiment.identity import git_commit
from tests.test_readme import block

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("unlearn", "models", "evaluation")  # the folders beside lethe/ that it links to
OF_A_CHECKOUT = re.compile(
    r"\bpython\b(?!\.)|\b(mlflow_forget|mlruns_parser|main_\w+|array_param_file|audit|compare)\.py\b"
)
PROJECT_VERSION = re.compile(r'__version__ = "(.*)"')
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, cwd, **environment):
    """Run a command to its end, on one thread."""
    known = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=known | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def tracked():
    """The tracked files; links are among them."""
    listed = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


def copied(folder):
    """Copy the tracked files, so that no build leaves anything in the checkout."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def code_files():
    """What has to be in a wheel: the files of the package, by the names that they are imported by."""
    names = [f"lethe/{name}" if name.startswith(BESIDE) else name for name in tracked()]
    code = re.compile(r"lethe/.*(\.py|py\.typed|/templates/.*|\.safetensors)")
    return {name for name in names if code.fullmatch(name)}


def files_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of Lethe and of the example of a plugin."""
    folder = copied(tmp_path_factory.mktemp("checkout"))
    words = "-m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir".split()
    place = tmp_path_factory.mktemp("wheels")
    run(sys.executable, *words, place, folder, folder / "examples/lethe-plugin", cwd=place)
    return place


@pytest.fixture(scope="module")
def without_links(tmp_path_factory):
    """A checkout as git makes it without symbolic links: each is a text file with its target."""
    folder = copied(tmp_path_factory.mktemp("without_links"))
    for name in BESIDE:
        link = folder / "lethe" / name
        target = os.readlink(link)  # noqa: PTH115
        link.unlink()
        link.write_text(target)
    return folder


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory):
    """A fresh environment in a user's repository: Lethe and a plugin from wheels, and our libraries.

    A second plugin is broken.
    """
    place = tmp_path_factory.mktemp("project")
    run("git", "init", "--quiet", cwd=place)
    names = "-c user.name=Somebody -c user.email=somebody@example.org".split()
    run("git", *names, "commit", "--quiet", "--allow-empty", "--message", "theirs", cwd=place)
    folder = place / "env"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    words = "install --quiet --no-deps --no-index --no-compile".split()
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    run(*pip, *words, *wheels.glob("*.whl"), cwd=place)
    info = packages / "lethe_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lethe-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lethe.methods]\nBroken = nowhere_at_all\n")
    return folder


# What is packed


def test_the_wheel_has_the_package_alone_typed_and_with_its_templates(wheels):
    (wheel,) = wheels.glob("lethe_unlearning-*.whl")

    assert files_in(wheel) == code_files()
    assert {"lethe/py.typed", "lethe/report/templates/run.html", "lethe/unlearn/impl.py"} <= files_in(wheel)


PACKED = """
import shutil, sys
from pathlib import Path
from setuptools import build_meta
place = Path(sys.argv[1])
sdist = build_meta.build_sdist(str(place))
shutil.unpack_archive(place / sdist, place, filter="data")
import os
os.chdir(place / sdist.removesuffix(".tar.gz"))
from setuptools import build_meta
build_meta.build_wheel(str(place))
"""


def test_a_checkout_without_links_packs_the_same_also_by_way_of_an_sdist(without_links, tmp_path):
    run(sys.executable, "-c", PACKED, tmp_path, cwd=without_links)
    (wheel,) = tmp_path.glob("*.whl")

    assert files_in(wheel) == code_files()


def requirements(file):
    """The lines of a file of requirements, with those of the files that it names."""
    lines = (ROOT / file).read_text().split("\n")
    named = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    return {line for line in lines if line and not line.startswith("-r ")}.union(*map(requirements, named))


def test_the_requirements_are_those_of_the_package():
    assert requirements("requirements.txt") - set(PROJECT["dependencies"]) == {"pytest>=8,<10"}
    assert set(PROJECT["dependencies"]) <= requirements("requirements.txt")


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_the_requirements_of_an_extra_are_those_of_its_file(extra):
    own = set(PROJECT["optional-dependencies"][extra])
    file = requirements(f"requirements-{extra}.txt")

    assert own <= file
    assert file - own <= set(PROJECT["dependencies"]) | requirements("requirements.txt")


# An installed Lethe beside a user's project

GRID = """
epochs: 1
metrics: forget_score
report: skip
methods: {default: , Uniform: {unlearn_epochs: 1}}
"""
TEN_LINES = """
import torch
from torch import nn

images = torch.nn.functional.one_hot(torch.arange(1300) % 4, 6).float()
labels = torch.arange(1300) % 4
train_set = test_set = torch.utils.data.TensorDataset(images, labels)
model, retrained = (nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)) for _ in range(2))
"""
# One process for all commands: to start one takes seconds.
PROGRAM = """
import sys
from pathlib import Path


def main():
    import lethe
    from lethe import data, evaluation, models, unlearn
    from lethe.plugins import installed

    print("lethe is in", Path(lethe.__file__).parent)
    print("plugins were looked for:", installed.cache_info().currsize)
    exec(compile(Path("example.txt").read_text(), "README", "exec"), {})
    tests = {}
    exec(compile(Path("tests.txt").read_text(), "the plugin's tests", "exec"), tests)
    for name in [name for name in tests if name.startswith("test_")]:
        tests[name]()
        print("passed:", name)
    for name in ("models", "evaluation", "training", "unlearn", "registry", "utils"):
        try:
            __import__(name)
        except RuntimeError as error:
            assert str(error) == "the user's own", error
        else:
            raise SystemExit(f"{name} is not the user's own")
    for name in ("pipeline", "vision_data"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            print(error)

    from lethe.__main__ import main

    commands = (
        "list",
        "forget --unlearn SSD --epochs 1 --report skip --metrics forget_score,forget_entropy",
        "grid --grid grid.yml",
        "run --grid grid.yml --workers 1",
        "parse",
        "compare",
    )
    for words in commands:
        assert main(words.split()) == 0, words


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def used(environment):
    """A folder with modules of the names that Lethe once had, and what an installed Lethe prints there."""
    folder = environment.parent / "theirs"
    raising = 'raise RuntimeError("the user\'s own")\n'
    for name in ("models", "evaluation", "training", "unlearn"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(raising)
    for name in ("registry", "utils"):
        (folder / f"{name}.py").write_text(raising)
    (folder / "example.txt").write_text(TEN_LINES + block("retrained", "README.md"))
    shutil.copy(ROOT / "examples/lethe-plugin/tests/test_lethe_uniform.py", folder / "tests.txt")
    (folder / "grid.yml").write_text(GRID)
    (folder / "program.py").write_text(PROGRAM)
    return folder, run(environment / "bin/python", "program.py", cwd=folder)


def tags_and_params(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        tags = store.execute("select key, value from tags").fetchall()
        return tags, store.execute("select key, value from params").fetchall()


@pytest.mark.slow
def test_an_installed_lethe_runs_beside_modules_of_any_name(used, environment):
    folder, done = used

    assert f"lethe is in {environment}" in done.stdout
    assert "Lethe's `pipeline` moved in version 0.2: write `from lethe import ...`" in done.stdout
    assert "Lethe's `vision_data` moved in version 0.2: write `from lethe.data import ...`" in done.stdout
    assert (folder / "mlruns_parsed.csv").is_file()


@pytest.mark.slow
def test_its_commands_are_those_of_lethe(used):
    folder, done = used
    said = done.stdout + done.stderr
    written = "".join(path.read_text() for path in folder.glob("*params.txt"))

    assert "lethe parse" in said and "lethe forget" in written
    assert [line for line in (said + written).splitlines() if OF_A_CHECKOUT.search(line)] == []


@pytest.mark.slow
def test_the_commit_of_the_users_repository_is_not_that_of_lethe(used):
    tags, _ = tags_and_params(used[0])

    assert {value for key, value in tags if key == "git_commit"} == {"unknown"}


@pytest.mark.slow
def test_a_plugin_is_used_by_every_command_and_recorded(used):
    folder, done = used
    _, params = tags_and_params(folder)

    assert "plugins were looked for: 0" in done.stdout
    assert re.search(r"^Uniform .*lethe-uniform==0\.1\.0", done.stdout, flags=re.MULTILINE | re.DOTALL)
    assert re.search(r"^forget_entropy +\d\.\d{3}", done.stdout, flags=re.MULTILINE)
    assert ("unlearn", "Uniform") in params
    assert ("unlearn_package", "lethe-uniform==0.1.0") in params


@pytest.mark.slow
def test_the_tests_of_the_example_of_a_plugin_pass(used):
    assert used[1].stdout.count("passed: test_") == 2


@pytest.mark.slow
def test_a_broken_plugin_is_a_warning_and_no_crash(used):
    (line,) = {line for line in used[1].stderr.splitlines() if "left out" in line}

    assert "plugin Broken = nowhere_at_all of lethe-broken==1.0 (lethe.methods) is left out" in line
    assert "No module named 'nowhere_at_all'" in line


def test_the_command_is_installed(environment, tmp_path):
    version = PROJECT_VERSION.search((ROOT / "lethe/version.py").read_text())[1]

    assert run(environment / "bin/lethe", "--version", cwd=tmp_path).stdout == f"lethe {version}\n"


# A checkout


def test_a_checkout_has_its_commit_whatever_repository_git_is_told_of(tmp_path, monkeypatch):
    commit = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    monkeypatch.setenv("GIT_DIR", str(tmp_path))

    assert git_commit() == commit


@pytest.mark.parametrize("name", ["unlearn.impl", "models.mask", "evaluation.impl", "unlearn.mimu.graph"])
def test_a_module_is_the_same_under_both_names(name):
    module = importlib.import_module(name)

    assert module is importlib.import_module(f"lethe.{name}")
    assert module.__name__ == module.__spec__.name == f"lethe.{name}"


def test_what_was_pickled_under_either_name_is_the_same():
    from lethe.models import Mask
    from lethe.unlearn import copy_of

    assert pickle.loads(pickle.dumps(Mask)) is pickle.loads(b"cmodels.mask\nMask\n.") is Mask
    assert pickle.loads(pickle.dumps(copy_of)) is pickle.loads(b"cunlearn\ncopy_of\n.") is copy_of


FIRST_BY_THE_OLD_NAME = """
import multiprocessing
import unlearn.scrub, models.cnn, evaluation.gap
import lethe.unlearn.scrub, lethe.models.cnn, lethe.evaluation.gap

assert unlearn.scrub is lethe.unlearn.scrub and unlearn is lethe.unlearn
assert models.cnn is lethe.models.cnn and evaluation.gap is lethe.evaluation.gap
from unlearn.impl import METHODS
from lethe.unlearn.impl import METHODS as SAME
assert METHODS is SAME


def same_elsewhere(given):
    import lethe.models
    return given is lethe.models.Mask and models.Mask is given


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(same_elsewhere, [models.Mask]))
"""


@pytest.mark.slow
def test_the_old_name_may_come_first_also_in_a_spawned_process(tmp_path):
    (tmp_path / "program.py").write_text(FIRST_BY_THE_OLD_NAME)

    assert run(sys.executable, "program.py", cwd=tmp_path, PYTHONPATH=str(ROOT)).stdout == "[True]\n"


WITHOUT_LINKS = """
import mlflow_forget
from unlearn.impl import METHODS as SAME

import lethe
from lethe.unlearn.impl import METHODS

assert METHODS is SAME is lethe.METHODS
print(*METHODS.names, *lethe.METRICS.names, *lethe.ARCHITECTURES.names, *lethe.DATASETS.names)
mlflow_forget.main(["--help"])
"""


@pytest.mark.slow
def test_a_checkout_without_links_works(without_links):
    said = run(sys.executable, "-c", WITHOUT_LINKS, cwd=without_links).stdout

    assert {"MIMU", "avg_gap", "resnet18", "digits"} <= set(said.split())
    assert "--class_to_replace" in said


# Imports of before version 0.2


@pytest.mark.parametrize("name", sorted(MOVED.keys() - set(BESIDE)))
def test_an_old_import_says_where_the_module_is(name):
    with pytest.raises(ModuleNotFoundError, match=rf"`{name}` moved in version 0\.2: write `from lethe"):
        importlib.import_module(name)


@pytest.mark.parametrize("name", BESIDE)
def test_an_installed_lethe_says_where_the_folders_beside_it_are(name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [MovedModules()])
    with pytest.raises(ModuleNotFoundError, match=f"write `from lethe.{name} import"):
        importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(MOVED))
def test_who_asks_for_a_module_of_an_old_name_is_told_that_there_is_none(name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [MovedModules()])
    assert importlib.util.find_spec(name) is None


@pytest.mark.parametrize("place", sorted(set(MOVED.values())))
def test_what_an_old_import_is_told_is_there(place):
    importlib.import_module(place)


def test_a_users_file_with_an_old_import_is_a_mistake_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from registry import register\n\ndef mine(model, data): ...\n")

    assert mlflow_forget.main(["--unlearn", "mine.py:mine"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: No module named 'registry'. Lethe's `registry` moved in version 0.2: write "
        "`from lethe.registry import ...`\n"
    )
