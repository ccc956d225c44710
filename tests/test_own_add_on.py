"""An add-on in a user's file, with a flag of its own, wherever flags are read. Its run is in test_toys.py."""

import contextlib
import io
import re

import pytest
import torch
from torch import nn

from lethe.cli import forget as mlflow_forget
from lethe.cli.grid import main as write_grid
from lethe.experiment import run_flags
from lethe.experiment.base_models import BaseConfig, BaseModels
from lethe.experiment.identity import decisive_of, run_params
from lethe.experiment.pipeline import Pipeline, PipelineConfig
from lethe.unlearn import METHODS, ForgetData, unlearn
from lethe.unlearn.add_ons import ADD_ONS

TOY = '''
from typing import Annotated
from lethe.signature import Range
from lethe.unlearn.add_ons import register

@register("Damped", source="nobody 2026")
def damped(*, strength: Annotated[float, Range(0, 1)] = 0.5):
    """Shrink the step.

    Flags:
        strength: what the step is multiplied by
    """
    return lambda step: [strength * d for d in step.direction]
'''
GREEDY = '''
def greedy(*, beta: float = 0.5):
    """Take a flag's name that the method has."""
    return lambda step: step.direction
'''
NOT_CHOSEN = "--strength: expected an --addon that has it, got {}. Name one of Damped"


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a toy registers ends with its test."""
    for table in ("_entries", "_names"):
        monkeypatch.setattr(ADD_ONS, table, dict(getattr(ADD_ONS, table)))


@pytest.fixture(autouse=True)
def folder(empty_place):
    (empty_place / "toy.py").write_text(TOY)
    (empty_place / "greedy.py").write_text(GREEDY)
    return empty_place


def given_by(*words):
    """The method's settings in each config of a command line."""
    return [config.settings for config in run_flags.configs_from(*mlflow_forget.options_of(words))]


def test_its_flag_is_on_the_command_line_where_it_is_chosen():
    words = "--unlearn NGPlus --addon toy.py:damped --strength .25"
    assert given_by(*words.split()) == [{"addon": "toy.py:damped", "strength": 0.25}]


@pytest.mark.parametrize(("addon", "got"), [("", "none"), ("--addon OPT", "OPT")])
def test_its_flag_is_refused_in_one_line_where_another_is_chosen(addon, got):
    assert ADD_ONS["toy.py:damped"].name == "Damped"
    with pytest.raises(ValueError, match=f"^{NOT_CHOSEN.format(got)}$"):
        given_by(*f"--unlearn SRL {addon} --strength .25".split())


@pytest.mark.parametrize("none", ["--memory_start none", "--memory_start=None"])
def test_a_flag_of_another_add_on_may_be_none(none, folder):
    assert given_by("--unlearn", "NGPlus", "--addon", "OPT", *none.split()) == [{"addon": "OPT"}]
    (folder / "grid.yml").write_text("methods: {NGPlus: {addon: [OPT, null], memory_start: null}}\n")
    assert write_grid(["--grid", "grid.yml"]) == 0
    assert len((folder / "params.txt").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="memory_start"):
        given_by("memory_start", "none", "--unlearn", "NGPlus", "--addon", "OPT")


def test_none_is_the_default_of_a_flag_of_the_chosen_add_on():
    given = given_by("--unlearn", "NGPlus", "--addon", "VarGrad", "--memory_start", "none", "0.5")
    method = METHODS["NGPlus"]
    assert [method.settings(one)["memory_start"] for one in given] == [1.0, 0.5]
    with pytest.raises(ValueError, match="--memory_start: expected a number >= 0, got 'no'"):
        given_by("--unlearn", "NGPlus", "--addon", "VarGrad", "--memory_start", "no")


def test_its_values_are_a_sweep_and_are_checked():
    words = ["--unlearn", "SCRUB", "--addon", "toy.py:damped", "--strength", "0.1"]
    assert [one["strength"] for one in given_by(*words, "0.9")] == [0.1, 0.9]
    with pytest.raises(ValueError, match="--strength: expected a number from 0 to 1, got 2"):
        given_by(*words, "2")


def test_its_flag_is_in_the_help_where_it_is_chosen():
    def help_of(*words):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
            given_by("--unlearn", "NGPlus", *words, "--help")
        return " ".join(out.getvalue().split())

    shown = "what the step is multiplied by (a number from 0 to 1; default: 0.5)"
    assert shown in help_of("--addon", "toy.py:damped")
    assert "--strength" not in help_of("--addon", "OPT")


def test_its_flag_is_in_a_config_and_a_grid(folder):
    text = "unlearn: NGPlus\naddon: toy.py:damped\nstrength: [0.1, 0.9]\n"
    (folder / "run.yml").write_text(text)
    assert [one["strength"] for one in given_by("--config", "run.yml")] == [0.1, 0.9]
    (folder / "grid.yml").write_text("methods:\n  NGPlus: {addon: toy.py:damped, strength: [0.1, 0.9]}\n")
    assert write_grid(["--grid", "grid.yml"]) == 0
    jobs = (folder / "params.txt").read_text().splitlines()
    assert [line.split()[-1] for line in jobs] == ["0.1", "0.9"]
    assert "strength" not in (folder / "base_params.txt").read_text()


def tiny():
    images = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    return ForgetData.of_tensors(images, labels, labels == 0)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(4, 3)


@pytest.mark.parametrize("method", ["NGPlus", "SRL", "SCRUB"])
def test_its_flag_reaches_the_rule_from_python(method):
    """A step multiplied by 0 is none; by 1 it is the plain one, as GradMask's that keeps every entry."""

    def weights(**flags):
        done = unlearn(method, model(), tiny(), unlearn_epochs=2, **flags).model
        return torch.cat([p.detach().flatten() for p in done.parameters()])

    start = torch.cat([p.detach().flatten() for p in model().parameters()])
    assert torch.equal(weights(addon="toy.py:damped", strength=0.0), start)
    plain = weights(addon="GradMask", quantile=0.0)
    assert torch.equal(weights(addon="toy.py:damped", strength=1.0), plain)
    direct = METHODS[method].function(model(), tiny(), addon="toy.py:damped", strength=0.0)
    assert torch.equal(nn.utils.parameters_to_vector(direct.model.parameters()), start)


def test_a_flag_that_the_method_has_already_is_refused():
    with pytest.raises(ValueError, match="greedy: --beta is a flag of NGPlus already. Rename the parameter"):
        given_by("--unlearn", "NGPlus", "--addon", "greedy.py:greedy")


TYPES = """
def half(*, strength: float = 0.5): return lambda step: step.direction
def same(*, strength: float | None = None): return lambda step: step.direction
def whole(*, strength: int = 1): return lambda step: step.direction
"""


def test_one_flag_of_two_add_ons_has_one_type(folder):
    (folder / "a.py").write_text(TYPES)
    words = "--unlearn NGPlus --strength .5 --addon a.py:half".split()
    assert [one["strength"] for one in given_by(*words, "a.py:same")] == [0.5, 0.5]
    reason = (
        "--strength: expected the same type in half and whole, got a finite number and an integer. Rename"
    )
    with pytest.raises(ValueError, match=reason):
        given_by(*words, "a.py:whole")


@pytest.mark.parametrize("flag", ["seed", "epochs", "help"])
def test_the_add_on_is_named_whose_flag_the_command_has(folder, flag):
    (folder / "a.py").write_text(f"def mine(*, {flag}: int = 1): return lambda step: step.direction\n")
    with pytest.raises(ValueError, match=f"^mine: --{flag} is already a flag of the command. Rename"):
        given_by("--unlearn", "NGPlus", "--addon", "a.py:mine")


BEFORE = "expected an add-on that returns a rule, a function of \\(step\\), got one that returns"
AT_A_STEP = "expected a rule that returns 2 tensors, like those of step.direction, got"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def pos(step): return step.direction", r"expected an add-on, a function of .* got one of \(step\)"),
        (
            "from lethe.unlearn.add_ons import register\n"
            "@register('Own')\ndef own(step): return step.direction",
            r"expected an add-on, a function of .* got one of \(step\)",
        ),
        ("def none(): return 7", f"{BEFORE} int. Return a rule"),
        ("def two(): return lambda a, b: a", rf"{BEFORE} a function of \(a, b\)"),
    ],
)
def test_an_add_on_without_a_rule_is_refused_before_anything_is_trained(folder, checked, code, message):
    (folder / "a.py").write_text(code)
    name = re.search(r"def (\w+)", code)[1]
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        checked("SCRUB", addon=f"a.py:{name}")


@pytest.mark.parametrize("method", ["NGPlus", "SRL"])
def test_the_other_methods_check_the_rule_before_training_too(folder, checked, method):
    (folder / "a.py").write_text("def none(): return 7")
    with pytest.raises(ValueError, match=f"none: {BEFORE} int"):
        checked(method, addon="a.py:none")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("step.direction[1:]", rf"{AT_A_STEP} 1, with \(3,\) torch.float32 on cpu in place of \(3, 4\)"),
        ("step.direction[:1]", rf"{AT_A_STEP} 1, with nothing in place of \(3,\) "),
        ("step.direction * 2", rf"{AT_A_STEP} 4, with \(3, 4\) torch.float32 on cpu in place of nothing"),
        ("[d.double() for d in step.direction]", rf"{AT_A_STEP} 2, with \(3, 4\) torch.float64"),
        ("None", f"{AT_A_STEP} 1, with NoneType in place of"),
        ("step.direction[0]", f"{AT_A_STEP} 1, with nothing in place of"),
        ("step.of_true_labels()", "expected an add-on registered with true_labels=True.* Register it so"),
    ],
)
def test_what_a_rule_returns_is_checked(folder, returned, message):
    (folder / "a.py").write_text(f"def mine(): return lambda step: {returned}")
    with pytest.raises(ValueError, match=f"^mine: {message}"):
        unlearn("NGPlus", model(), tiny(), addon="a.py:mine", unlearn_epochs=1)


def test_a_builtin_as_a_rule_is_checked_by_what_it_returns(folder):
    (folder / "a.py").write_text("def mine(): return type")
    with pytest.raises(ValueError, match=f"^mine: {AT_A_STEP} "):
        unlearn("NGPlus", model(), tiny(), addon="a.py:mine", unlearn_epochs=1)


@pytest.fixture
def checked(folder, digits):
    base = BaseModels(BaseConfig(epochs=1, arch_options={"hidden": (6,)}), splits=digits)

    def of(unlearn, **settings):
        return Pipeline(PipelineConfig(unlearn, settings, base=base.config), base=base).checked

    of.initial = base.initial()
    return of


def test_its_flag_is_a_param_and_in_the_hash_where_it_is_chosen(checked, folder):
    chosen, other = checked("SRL", addon="toy.py:damped"), checked("SRL", addon="OPT")
    assert (run_params(chosen)["strength"], run_params(chosen)["addon"]) == (0.5, "toy.py:damped")
    assert "strength" not in run_params(other)
    decisive = decisive_of(chosen, checked.initial, None)
    assert decisive["settings"]["strength"] == 0.5
    assert decisive["addon_code"] == run_params(chosen)["addon_code"] == ADD_ONS["Damped"].code_digest
    assert not {"strength", "addon_code"} & {*decisive_of(other, checked.initial, None)["settings"]}


FIRST = {"quantile": None, "memory": None, "memory_start": None}
SHARED = {"unlearn_epochs": 30, "unlearn_lr": 1e-4, "batch_size": 256, "beta": 0.95}


@pytest.mark.parametrize(
    ("method", "given", "hashed"),
    [
        ("NGPlus", {}, {"addon": None, **FIRST}),
        ("NGPlus", {"addon": "OPT"}, {"addon": "OPT", **FIRST}),
        ("NGPlus", {"addon": "GradMask"}, {"addon": "GradMask", **FIRST}),
        ("SRL", {"addon": "GradMask", "quantile": 0.3}, {"addon": "GradMask", **FIRST, "quantile": 0.3}),
        ("NGPlus_OPT", {}, {}),
        ("NGradMask", {}, FIRST),
        ("SRGradFocus", {"memory": 0.5}, {"memory": 0.5, "memory_start": None}),
    ],
)
def test_the_settings_in_the_hash_of_the_first_add_ons_are_those_of_version_0_1(
    checked, method, given, hashed
):
    decisive = decisive_of(checked(method, **given), checked.initial, None)
    assert decisive["settings"] == SHARED | hashed
