"""Plugins: functions of other installed packages, and what is said of those that can't be used."""

import json
import re
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType

import pytest

import audit
import mlflow_forget
from lethe import plugins
from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.audits.verified_package import check_package
from lethe.data import DATASETS
from lethe.evaluation import METRICS, chosen
from lethe.models import ARCHITECTURES
from lethe.registry import Entry, Registry, parted
from lethe.tracking.record import Record
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS

DOUBLE = "def double(x, *, by: int = 2):\n    return by * x\n"
REGISTERS = f"from things_of_a_test import things\n@things.register('double', 'twice')\n{DOUBLE}"


@dataclass(frozen=True)
class Facts:
    source: str = ""


@pytest.fixture
def things(monkeypatch):
    """A registry that looks for plugins, with one entry of its own."""
    registry = Registry("thing", Facts, takes=("x",), plugins="lethe.methods")
    registry.register("own")(lambda x: x)
    shared = ModuleType("things_of_a_test")
    shared.things = registry
    monkeypatch.setitem(sys.modules, "things_of_a_test", shared)
    return registry


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of one module, by its metadata alone."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def package(name, code, *entries, version="1.0", group="lethe.methods"):
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = "\n".join(entry.replace("MODULE", module) for entry in entries)
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        plugins.installed.cache_clear()

    plugins.installed.cache_clear()
    yield package
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    plugins.installed.cache_clear()


def test_a_plain_function_is_registered_by_the_name_of_its_entry(things, install):
    install("lethe-double", DOUBLE, "Twice = MODULE:double")

    assert things["twice"](21) == 42
    assert things["twice"](21, by=3) == 63
    assert things.names == ["own", "Twice"]


def test_a_module_registers_its_functions_itself(things, install):
    install("lethe-double", REGISTERS, "anything = MODULE")

    assert things["twice"](21) == 42
    assert "anything" not in things


def test_an_entry_may_name_a_function_that_its_module_registers(things, install):
    install("lethe-double", REGISTERS, "other = MODULE:double")

    assert things.names == ["double", "own"]


def test_the_package_and_its_version_are_part_of_the_identity(things, install):
    install("lethe-double", REGISTERS, "double = MODULE", version="0.3")
    entry = things["double"]

    assert (entry.package, entry.own) == ("lethe-double==0.3", False)
    assert entry.identity == entry.slug == "double@lethe-double==0.3"
    assert parted(entry.identity) == ("double", "lethe-double==0.3")
    assert "Package: lethe-double==0.3" in entry.about
    assert (things["own"].identity, parted("own")) == ("own", ("own", ""))


def test_a_function_from_elsewhere_is_of_the_package_that_names_it(things, install):
    install("other-package", DOUBLE)
    install("lethe-double", "from other_package import double", "double = MODULE:double")

    assert things["double"].package == "lethe-double==1.0"


def test_a_module_that_was_imported_before_is_of_its_package_too(things, install):
    install("lethe-double", REGISTERS, "double = MODULE")
    import lethe_double  # noqa: F401

    assert things["double"].package == "lethe-double==1.0"


@pytest.mark.parametrize("name", ["own", "OWN"])
def test_nothing_is_imported_for_a_name_of_lethe(things, install, name):
    install("lethe-double", REGISTERS, "double = MODULE")

    assert things[name](1) == 1
    assert name in things
    assert "lethe_double" not in sys.modules


def test_a_plugin_may_look_up_names_while_it_is_imported(things, install):
    install("lethe-double", REGISTERS + "assert 'own' in things and 'none' not in things\n", "d = MODULE")

    assert things.names == ["double", "own"]


@pytest.mark.parametrize(
    ("code", "entry", "why"),
    [
        ("import nowhere_at_all", "bad = MODULE", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        (DOUBLE, "bad = MODULE:duoble", "AttributeError: module 'lethe_bad' has no attribute 'duoble'"),
        ("1 / 0", "bad = MODULE:double", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "bad = MODULE", "SystemExit: 3"),
        ("double = 2", "bad = MODULE:double", "ValueError: expected a function, or a module that registers"),
        ("", "bad = MODULE", "ValueError: expected a function, or a module that registers one, got no thing"),
        ("def double(x, y): ...", "bad = MODULE:double", r"expected a thing, a function of \(x, \*, flags\)"),
        ("def double(x, *, by: dict = {}): ...", "bad = MODULE:double", "a type for by that a flag can have"),
        ("def double(x, *, by: 'Gone' = 2): ...", "bad = MODULE:double", "NameError: name 'Gone' is not"),
        (DOUBLE, "OWN = MODULE:double", r"thing 'OWN' is registered already \(in .*test_plugins\.py\)"),
        (REGISTERS.replace("'twice'", "'own'"), "bad = MODULE", "thing 'own' is registered already"),
        (f"{REGISTERS}1 / 0", "bad = MODULE", "ZeroDivisionError"),
        (DOUBLE, "bad = not a module!:", r"Error: .*(Invalid|no attribute)"),
    ],
)
def test_a_broken_plugin_is_one_warning_that_names_it(things, install, code, entry, why):
    install("lethe-bad", code, entry)
    install("lethe-good", DOUBLE, "good = MODULE:double")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = [things.names, things.names]

    (text,) = [str(warning.message) for warning in caught]
    assert text.startswith(f"plugin {entry.partition(' ')[0]} = ")
    assert "of lethe-bad==1.0 (lethe.methods) is left out: " in text
    assert text.endswith("Update or uninstall the package")
    assert re.search(why, text), text
    assert names == [["good", "own"]] * 2
    assert things["own"].own


def test_what_is_no_function_is_named_beside_a_good_one_of_its_package(things, install):
    install("lethe-half", f"{DOUBLE}rate = 2\n", "double = MODULE:double", "rate = MODULE:rate")

    with pytest.warns(
        UserWarning, match=r"rate = lethe_half:rate of lethe-half==1\.0 .* got no thing from 2\."
    ):
        assert things.names == ["double", "own"]


def test_of_two_plugins_with_one_name_the_first_package_is_taken_and_the_other_named(things, install):
    install("lethe-b", DOUBLE, "double = MODULE:double")
    install("lethe-a", DOUBLE, "double = MODULE:double")

    said = r"double = lethe_b:double of lethe-b==1\.0 .* 'double' is registered already \(in lethe-a==1\.0\)"
    with pytest.warns(UserWarning, match=said):
        assert things["double"].package == "lethe-a==1.0"


def test_ctrl_c_while_a_plugin_is_imported_is_not_taken_for_its_mistake(things, install):
    install("lethe-a", "raise KeyboardInterrupt", "a = MODULE")
    install("lethe-b", DOUBLE, "double = MODULE:double")

    with pytest.raises(KeyboardInterrupt):
        list(things)
    assert things.names == ["double", "own"]


def test_metadata_that_nobody_can_read_is_a_warning(things, install, tmp_path):
    install("lethe-double", DOUBLE, "double = MODULE:double")
    (tmp_path / "lethe_double-1.0.dist-info/entry_points.txt").write_bytes(b"[lethe.methods]\n\xff = x\n")

    with pytest.warns(UserWarning, match=r"plugins can't be looked for: UnicodeDecodeError.*Reinstall"):
        assert things.names == ["own"]
    assert things.names == ["own"]


def test_a_group_that_nobody_reads_is_a_warning(install):
    install("lethe-typo", DOUBLE, "Twice = MODULE:double", group="lethe.method")

    says = r"lethe-typo are left out: unknown group 'lethe\.method'\. Did you mean 'lethe\.methods'"
    with pytest.warns(UserWarning, match=says):
        assert all(plugin.name != "Twice" for plugin in plugins.installed())


def test_an_unknown_name_is_told_with_the_names_of_plugins(things, install):
    install("lethe-double", DOUBLE, "double = MODULE:double")

    with pytest.raises(ValueError, match=r"Did you mean 'double'\? Things: double, own$"):
        things["duoble"]


EVERYWHERE = """
import lethe
import torch
from torch import nn


@lethe.register_dataset("Stripes", arch="Tiny", epochs=1, embedded=True)
def stripes(folder):
    labels = torch.arange(120) % 3
    images = torch.zeros(120, 1, 4, 4, dtype=torch.uint8)
    images[torch.arange(120), 0, labels] = 255
    return lethe.RawDataset((images[:90], labels[:90]), (images[90:], labels[90:]), ("a", "b", "c"))


@lethe.register_architecture("Tiny")
def tiny(image_shape, classes, *, width: int = 8):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, classes))


@lethe.register_add_on("Plain")
def plain():
    return lambda step: step.direction


@lethe.register_method("Copied", leaves_weights=True)
def copied(model, data, *, strength: float = 1.0):
    return lethe.copy_of(model)


@lethe.register_metric("forget_size")
def forget_size(model):
    return float(len(model.forget))
"""


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("--unlearn NGPlus --unlearn_epochs 1 --addon plain", {"addon_package": "lethe-all==1.0"}),
        ("--unlearn copied", {"method": "Copied@lethe-all==1.0"}),
    ],
    ids=["add-on", "method"],
)
def test_a_run_with_plugins_in_every_place_says_so_and_is_verified(
    words, own, install, monkeypatch, empty_place, capsys
):
    for registry in (METHODS, DATASETS, ARCHITECTURES, ADD_ONS, METRICS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_names", dict(registry._names))
        monkeypatch.setattr(registry, "_plugins", None)
    groups = "\n".join(
        f"[lethe.{kind}]\nall = MODULE" for kind in ("methods", "architectures", "add_ons", "metrics")
    )
    install("lethe-all", EVERYWHERE, "all = MODULE", groups, group="lethe.datasets")
    common = "--dataset stripes --metrics forget_score,forget_size --report skip"

    assert mlflow_forget.main([*words.split(), *common.split()]) == 0
    (file,) = empty_place.glob("eval/**/*.json")
    written = json.loads(file.read_text())
    assert written["metrics"]["forget_size"] == 27
    packages = {name for name in written["params"] if name.endswith("_package")}
    assert packages > {"arch_package", "dataset_package"} and len(packages) == 3
    assert written["decisive"]["arch"] == "Tiny@lethe-all==1.0"
    assert written["decisive"]["metrics"] == ["forget_score", "forget_size@lethe-all==1.0"]
    assert own.items() <= written["decisive"].items()
    capsys.readouterr()
    assert audit.main(["verify", written["run_id"]]) == 0
    said = capsys.readouterr().out
    assert "same: package of the dataset" in said and "same: package of the architecture" in said


def test_what_is_installed_does_not_change_the_default_metrics(monkeypatch):
    extra = Entry("extra", lambda model: 1.0, (), METRICS["fidelity"].facts, package="lethe-extra==1.0")
    monkeypatch.setattr(METRICS, "_entries", METRICS._entries | {"extra": extra})
    monkeypatch.setattr(METRICS, "_names", METRICS._names | {"extra": "extra"})

    assert extra not in chosen(["default"])
    assert extra in chosen(["all"])
    assert chosen(["extra"]) == [extra]


@pytest.fixture
def recorded(tmp_path):
    """A run whose dataset came from lethe-double 1.0."""
    params = {"dataset_package": "lethe-double==1.0"}
    return RecordedRun(Record("0" * 32, "a run", "FINISHED", params, {}, {}, {}, tmp_path))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_run_is_verified_with_the_package_that_it_was_made_with(things, install, recorded, version):
    install("lethe-double", DOUBLE, "double = MODULE:double", version=version)
    done = Verification()
    check_package(recorded, done, "dataset", things, "double")

    assert done.holds == (version == "1.0")


def test_a_run_whose_package_is_not_installed_says_what_to_install(things, recorded):
    with pytest.raises(
        ValueError, match=r"expected lethe-double==1\.0, which has the thing 'double'.*Install it"
    ):
        check_package(recorded, Verification(), "dataset", things, "double")


def test_lethes_own_names_need_no_package(things, recorded):
    done = Verification()
    check_package(recorded, done, "arch", things, "own")

    assert done.checks == []
