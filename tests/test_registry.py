"""Registration, names, and the signature as schema."""

import importlib
import math
import os
import pickle
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.flag_error import FlagError, errors_of
from lethe.nearest_name import did_you_mean
from lethe.registry import Registry
from lethe.signature import Help, Range, Search, hyperparameters_of
from lethe.user_files import changed_files, function_from_file

Amount = Annotated[int | float | str, "a count, a fraction or a percentage"]


@dataclass(frozen=True)
class Facts:
    source: str = ""


def sample(
    model,
    data=None,
    *,
    steps: int = 5,
    rate: float = 0.5,
    title: str = "plain",
    verbose: bool = False,
    mode: Literal["fast", "Slow"] = "fast",
    widths: tuple[int, ...] = (8, 4),
    limit: int | None = None,
    amount: Amount = "50%",
):
    """One line.

        rate <- rate / 2

    Flags:
        steps: how many
            updates are made
        rate: size of an update

    Raises nothing.
    """
    return model, steps


PARAMETERS = hyperparameters_of(sample)


@pytest.fixture
def things():
    """A registry of things: `sample` as Sample (also pattern), and Other."""
    registry = Registry("thing", Facts)
    registry.register("Sample", "pattern", source="Somebody 1999")(sample)
    registry.register("Other")(lambda: "other")
    return registry


def entry_of(function):
    registry = Registry("thing", Facts)
    registry.register("made")(function)
    return registry["made"]


# Registration and names


def test_a_function_without_flags_stays_as_it_is():
    function = lambda: "other"  # noqa: E731
    assert Registry("thing", Facts).register("name", "alias")(function) is function


def test_a_registered_function_checks_its_settings_when_it_is_called_directly():
    made = Registry("thing", Facts).register("name", "alias")(sample)
    assert made(model="m", steps=3) == ("m", 3)
    with pytest.raises(ValueError, match="^--rate: expected a finite number, got nan$"):
        made("m", rate=math.nan)
    with pytest.raises(ValueError, match=r"unknown flag of name '--stepps'\. Did you mean '--steps'"):
        made("m", stepps=3)


def test_an_entry_calls_its_function(things):
    assert things["Sample"]("m", steps=3) == ("m", 3)


@pytest.mark.parametrize("name", ["Sample", "sample", "SAMPLE", "pattern", "Pattern"])
def test_names_and_aliases_are_case_insensitive(things, name):
    assert things[name]("m", steps=3) == ("m", 3)


@pytest.mark.parametrize("name", ["sample", "PATTERN"])
def test_a_registry_contains_names_and_aliases(things, name):
    assert name in things


def test_a_registry_does_not_contain_what_nobody_registered(things):
    assert "nobody" not in things


def test_facts_are_those_of_the_registration(things):
    assert things["pattern"].facts == Facts(source="Somebody 1999")


def test_an_unknown_fact_is_refused():
    with pytest.raises(TypeError, match="colour"):
        Registry("thing", Facts).register("name", colour="red")(sample)


@pytest.mark.parametrize("names", [("Sample",), ("sAMPLE",), ("pattern",), ("new", "PATTERN")])
def test_a_second_registration_is_refused(things, names):
    with pytest.raises(ValueError, match=f"thing '{names[-1]}' is registered already"):
        things.register(*names)(sample)


def test_a_refused_registration_leaves_no_name_behind(things):
    with pytest.raises(ValueError, match="registered already"):
        things.register("new", "pattern")(sample)
    assert "new" not in things


def test_names_are_sorted_without_regard_to_case():
    registry = Registry("thing", Facts)
    for name in ("b", "C", "a"):
        registry.register(name)(sample)
    assert registry.names == ["a", "b", "C"]


def test_a_registry_gives_its_entries(things):
    assert [entry.name for entry in things] == ["Sample", "Other"]


def test_an_unknown_name_gets_the_nearest_match_and_the_list(things):
    reason = r"^unknown thing 'sampel'\. Did you mean 'Sample'\? Things: Other, Sample$"
    with pytest.raises(ValueError, match=reason):
        things["sampel"]


def test_a_name_that_is_near_nothing_gets_the_list_alone(things):
    with pytest.raises(ValueError, match=r"^unknown thing 'xyzzy'\. Things: Other, Sample$"):
        things["xyzzy"]


def test_a_registry_that_is_empty_says_so():
    with pytest.raises(ValueError, match="Things: none"):
        Registry("thing", Facts)["any"]


def test_the_nearest_match_may_be_one_that_is_not_listed():
    assert did_you_mean("flag", "--sede", ["--seed", "--steps"], listed=["--steps"]) == (
        "unknown flag '--sede'. Did you mean '--seed'? Flags: --steps"
    )


# path/to/file.py:function


def test_a_function_in_a_file(things, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def double(x, *, by: int = 2):\n    return by * x\n")
    assert things[f"{file}:double"](21) == 42


def test_a_function_in_a_file_has_its_flags(things, tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(
        "from __future__ import annotations\ndef double(x, *, by: int | None = 2):\n    return x\n"
    )
    assert things[f"{file}:double"].settings({"by": None}) == {"by": None}


def test_a_file_that_registers_its_function_gives_the_registered_entry(tmp_path, monkeypatch):
    file = tmp_path / "registers.py"
    file.write_text(
        "from lethe.data.impl import DATASETS\n@DATASETS.register('lethe test set', epochs=7)\ndef "
        "made_here(folder):\n    return None\n"
    )
    from lethe.data.impl import DATASETS

    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_names", dict(DATASETS._names))
    entry = DATASETS[f"{file}:made_here"]
    assert (entry.name, entry.facts.epochs) == ("lethe test set", 7)


def test_a_file_is_run_once(tmp_path):
    file = tmp_path / "once.py"
    file.write_text("def one(): ...\n")
    assert function_from_file(f"{file}:one") is function_from_file(f"{file}:one")


def test_two_files_of_the_same_name_are_two(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"def which():\n    return {folder!r}\n")
    assert [function_from_file(f"{tmp_path}/{folder}/same.py:which")() for folder in "ab"] == ["a", "b"]


def test_a_file_that_does_not_exist(things, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.py"):
        things[f"{tmp_path}/nowhere.py:function"]


def test_a_function_that_the_file_does_not_have(things, tmp_path):
    file = tmp_path / "short.py"
    file.write_text("def double(x):\n    return 2 * x\n")
    reason = r"unknown function of .*short\.py 'duoble'\. Did you mean 'double'\?"
    with pytest.raises(ValueError, match=reason):
        things[f"{file}:duoble"]


def test_a_value_in_a_file_is_no_function(things, tmp_path):
    file = tmp_path / "value.py"
    file.write_text("double = 2\n")
    with pytest.raises(ValueError, match="unknown function of"):
        things[f"{file}:double"]


@pytest.mark.parametrize("ends", ["import sys; sys.exit(0)", "raise SystemExit", "exit(3)"])
def test_a_file_that_ends_the_program_is_told(tmp_path, ends):
    file = tmp_path / "ends.py"
    file.write_text(f"def one(): ...\n{ends}\n")
    reason = r"ends\.py ends the program \(exit code .*\) when it is imported\. Put that under if __name__"
    for _ in range(2):  # it is not taken for imported
        with pytest.raises(ValueError, match=reason):
            function_from_file(f"{file}:one")


def test_code_of_another_user_that_anybody_can_change_is_worth_a_warning(tmp_path, monkeypatch):
    file = tmp_path / "shared.py"
    file.write_text("def one(): ...\n")
    file.chmod(0o666)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    reason = r"shared\.py is run as your own code, but it is another user's, and anybody can change it"
    with pytest.warns(UserWarning, match=reason):
        function_from_file(f"{file}:one")


def test_a_file_that_fails_can_be_corrected_and_run_again(tmp_path):
    file = tmp_path / "corrected.py"
    file.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        function_from_file(f"{file}:one")
    file.write_text(
        "def one():\n    return 1  # longer than before, so that no stale bytecode is taken for it\n"
    )
    assert function_from_file(f"{file}:one")() == 1


# The signature


@pytest.mark.parametrize("given", [{"steps": "many"}, {"stops": 1}])
def test_an_error_of_a_flag_has_the_flag(things, given):
    with pytest.raises(FlagError) as error:
        things["Sample"].settings(given)
    assert [error.value.flag] == list(given)
    assert pickle.loads(pickle.dumps(error.value)).flag == error.value.flag


def test_an_error_becomes_one_of_a_flag_and_keeps_its_message():
    with pytest.raises(FlagError, match="^there is no file x$") as error, errors_of("mask"):
        raise FileNotFoundError("there is no file x")
    assert error.value.flag == "mask"
    with pytest.raises(FlagError, match="^--seed: got x$") as error, errors_of("mask"):
        raise FlagError("seed", "got x")
    assert error.value.flag == "seed"


def test_the_keyword_only_parameters_are_the_hyperparameters():
    assert list(PARAMETERS) == ["steps", "rate", "title", "verbose", "mode", "widths", "limit", "amount"]


def test_a_parameter_without_default_is_required():
    def needy(x, *, rate: float): ...

    assert hyperparameters_of(needy)["rate"].required


def test_a_parameter_with_none_as_default_is_not_required():
    assert not PARAMETERS["limit"].required


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "7", 7),
        ("steps", "-7", -7),
        ("rate", "1e-4", 1e-4),
        ("rate", "3", 3.0),
        ("title", "two words", "two words"),
        ("verbose", "true", True),
        ("verbose", "No", False),
        ("verbose", "1", True),
        ("mode", "FAST", "fast"),
        ("mode", "slow", "Slow"),
        ("widths", "128,64", (128, 64)),
        ("widths", "128", (128,)),
        ("limit", "none", None),
        ("limit", "None", None),
        ("limit", "3", 3),
        ("amount", "50", 50),
        ("amount", "0.5", 0.5),
        ("amount", "50%", "50%"),
    ],
)
def test_parse(name, text, value):
    parsed = PARAMETERS[name].parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("steps", "7.5", "an integer"),
        ("steps", "", "an integer"),
        ("rate", "fast", "a finite number"),
        ("rate", "nan", "a finite number"),
        ("rate", "-inf", "a finite number"),
        ("rate", "1e999", "a finite number"),
        ("verbose", "maybe", "true or false"),
        ("mode", "medium", "one of fast, Slow"),
        ("widths", "128,", "an integer, or several separated by commas"),
        ("widths", "128;64", "an integer, or several separated by commas"),
        ("limit", "many", "an integer or none"),
        ("amount", "nan", "a count, a fraction or a percentage"),
        ("amount", "inf", "a count, a fraction or a percentage"),
    ],
)
def test_a_text_that_is_no_value_is_refused(name, text, expected):
    with pytest.raises(ValueError, match=f"^--{name}: expected {expected}, got '{text}'$"):
        PARAMETERS[name].parse(text)


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("steps", 3, 3),
        ("rate", 3, 3.0),
        ("widths", [3, 4], (3, 4)),
        ("widths", (), ()),
        ("mode", "Slow", "Slow"),
        ("limit", None, None),
        ("amount", 3, 3),
        ("amount", "3%", "3%"),
    ],
)
def test_check(name, value, checked):
    result = PARAMETERS[name].check(value)
    assert (result, type(result)) == (checked, type(checked))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 3.0),
        ("steps", "3"),
        ("steps", True),
        ("steps", None),
        ("rate", "0.5"),
        ("rate", True),
        ("rate", math.nan),
        ("rate", math.inf),
        ("rate", -math.inf),
        ("title", 3),
        ("verbose", 1),
        ("mode", "slow"),
        ("widths", 3),
        ("widths", (3, 4.5)),
        ("limit", 1.5),
        ("amount", None),
        ("amount", math.nan),
        ("amount", True),
    ],
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^--{name}: expected .*, got "):
        PARAMETERS[name].check(value)


@given(st.integers())
def test_every_integer_is_parsed_from_its_text(value):
    assert PARAMETERS["steps"].parse(str(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_is_parsed_from_its_text(value):
    assert PARAMETERS["rate"].parse(repr(value)) == value


@given(st.lists(st.integers(), min_size=1))
def test_every_tuple_is_parsed_from_its_text(values):
    assert PARAMETERS["widths"].parse(",".join(map(str, values))) == tuple(values)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_that_passes_as_an_amount_is_left_as_it_is(value):
    checked = PARAMETERS["amount"].check(value)
    assert (checked, type(checked)) == (value, type(value))


# Ranges

Rate = Annotated[float, Range(0, ends="(]"), Search("log", 1e-4, 1e-1), Help("size of a step")]


def ranged(
    x,
    *,
    rate: Rate = 0.5,
    own_rate: Annotated[Rate, Help("my own")] | None = None,
    part: Annotated[float, Range(0, 1, "[)")] = 0.0,
    share: Annotated[float, Range(0, 1, "(]")] = 1.0,
    inside: Annotated[float, Range(0, 1, "()")] = 0.5,
    angle: Annotated[float, Range(-90, 90)] = 0.0,
    count: Annotated[int, Range(1)] = 3,
    widths: tuple[Annotated[int, Range(1, 64)], ...] = (8, 4),
):
    return rate


RANGED = hyperparameters_of(ranged)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 1e-300),
        ("rate", 3e37),
        ("own_rate", None),
        ("part", 0.0),
        ("share", 1.0),
        ("angle", -90.0),
        ("angle", 90.0),
        ("count", 1),
        ("count", 10**9),
        ("widths", (1, 64)),
    ],
)
def test_an_end_that_counts_is_in_the_range(name, value):
    assert RANGED[name].check(value) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", 0.0, "a number > 0, got 0.0. Give e.g. 0.5"),
        ("rate", 1e38, "a number > 0 and at most 3e+37, got 1e+38. Give e.g. 0.5"),
        ("rate", math.nan, "a number > 0, got nan. Give e.g. 0.5"),
        ("rate", math.inf, "a number > 0, got inf. Give e.g. 0.5"),
        ("own_rate", -1.0, "a number > 0, got -1.0. Give e.g. 0.003"),
        ("part", 1.0, "a number from 0 to below 1, got 1.0. Give e.g. 0.0"),
        ("share", 0.0, "a number above 0 and at most 1, got 0.0. Give e.g. 1.0"),
        ("inside", 1.0, "a number between 0 and 1, got 1.0. Give e.g. 0.5"),
        ("inside", 0.0, "a number between 0 and 1, got 0.0. Give e.g. 0.5"),
        ("angle", -91.0, "a number from -90 to 90, got -91.0. Give e.g. 0.0"),
        ("count", 0, "an integer >= 1, got 0. Give e.g. 3"),
        ("count", 10**300, f"an integer >= 1 and at most 1e+09, got {10**300}. Give e.g. 3"),
        ("count", 1e300, "an integer >= 1, got 1e+300. Give e.g. 3"),
        (
            "widths",
            (0, 3),
            "an integer from 1 to 64, or several separated by commas, got (0, 3). Give e.g. 8,4",
        ),
    ],
)
def test_a_number_out_of_its_range_is_refused(name, value, expected):
    with pytest.raises(ValueError, match=re.escape(f"--{name}: expected {expected}") + "$"):
        RANGED[name].check(value)


def test_a_text_out_of_the_range_is_refused():
    with pytest.raises(ValueError, match=r"^--rate: expected a number > 0, got -1\.0\. Give e\.g\. 0\.5$"):
        RANGED["rate"].parse("-1")
    with pytest.raises(ValueError, match=r"^--count: expected an integer >= 1, got '1e300'\. Give e\.g\. 3$"):
        RANGED["count"].parse("1e300")


def test_the_help_of_an_annotation_is_a_flags_own_unless_the_function_has_another():
    assert (RANGED["rate"].help, RANGED["own_rate"].help) == ("size of a step", "my own")


def test_the_annotation_says_how_a_search_draws():
    assert RANGED["own_rate"].search == Search("log", 1e-4, 1e-1)
    assert RANGED["part"].search is None


# Settings


def test_settings_are_the_defaults_where_nothing_is_given(things):
    settings = things["Sample"].settings({})
    assert settings == {name: parameter.default for name, parameter in PARAMETERS.items()} and settings[
        "widths"
    ] == (8, 4)


def test_settings_take_the_given_value(things):
    assert things["Sample"].settings({"steps": 9})["steps"] == 9


def test_settings_check_the_given_value(things):
    with pytest.raises(ValueError, match="--steps: expected an integer, got 'nine'"):
        things["Sample"].settings({"steps": "nine"})


def test_an_unknown_setting_names_the_flags(things):
    flags = "--amount, --limit, --mode, --rate, --steps, --title, --verbose, --widths"
    reason = rf"unknown flag of Sample '--stepps'\. Did you mean '--steps'\? Flags of Sample: {flags}$"
    with pytest.raises(ValueError, match=reason):
        things["Sample"].settings({"stepps": 9})


def test_an_unknown_setting_of_a_function_without_flags(things):
    with pytest.raises(ValueError, match="Flags of Other: none"):
        things["Other"].settings({"steps": 9})


def test_a_missing_setting_is_named():
    def needy(x, *, rate: float, steps: int, title: str = ""): ...

    with pytest.raises(ValueError, match="made needs --rate and --steps"):
        entry_of(needy).settings({})


# The docstring


def test_help_is_the_line_under_flags():
    assert PARAMETERS["rate"].help == "size of an update"


def test_help_goes_on_over_indented_lines():
    assert PARAMETERS["steps"].help == "how many updates are made"


def test_a_parameter_without_a_line_has_no_help():
    assert PARAMETERS["title"].help == ""


def test_an_indented_line_outside_flags_is_no_help():
    def documented(x, *, rate: float = 1.0, steps: int = 1):
        """One line.

        Flags:
            steps: how many

        What it computes:

            rate: a line of a formula
            steps: another
        """

    assert [p.help for p in hyperparameters_of(documented).values()] == ["", "how many"]


def test_the_summary_is_the_first_line(things):
    assert things["Sample"].summary == "One line."


def test_about_has_names_docstring_and_source_but_no_flags(things):
    assert things["Sample"].about == (
        "Sample (also pattern): One line.\n\n    rate <- rate / 2\n\nRaises nothing.\n\nSource: Somebody 1999"
    )


def test_about_has_no_flags_where_they_end_the_docstring():
    def documented(x, *, rate: float = 1.0):
        """One line.

        Flags:
            rate: size of an update
        """

    assert "size of an update" not in entry_of(documented).about


def test_a_function_without_docstring_has_an_empty_summary(things):
    assert things["Other"].summary == ""


# Functions from a person's file


@pytest.fixture
def user_file(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_file_alone_is_told_how_to_name_its_function(user_file):
    file = user_file("def f(a, b): pass\n")
    with pytest.raises(ValueError, match=r"expected path/to/file\.py:function, got the file alone"):
        Registry("thing", Facts)[str(file)]


def test_a_function_of_other_parameters_is_refused_before_it_runs(user_file):
    file = user_file("def helper(a, b, c): pass\ndef right(a, b, *, rate: float = 1.0): pass\n")
    registry = Registry("thing", Facts, takes=("model", "data"))
    assert registry[f"{file}:right"].name == "right"
    reason = r"helper: expected a thing, a function of \(model, data, \*, flags\), got one of \(a, b, c\)"
    with pytest.raises(ValueError, match=reason):
        registry[f"{file}:helper"]


def test_functions_that_take_flags_alone_and_those_of_any_parameters(user_file):
    file = user_file("def pos(step): pass\n")
    rules, any_things = Registry("act", Facts, takes=(), returns="a rule"), Registry("thing", Facts)
    reason = r"pos: expected an act, a function of \(\*, flags\) that returns a rule, got one of \(step\)\. "
    with pytest.raises(ValueError, match=reason):
        rules[f"{file}:pos"]
    assert any_things[f"{file}:pos"].name == "pos"


def test_only_the_files_own_functions_are_offered(user_file):
    file = user_file("from copy import deepcopy\ndef mine(a): pass\n")
    with pytest.raises(ValueError, match=r"Did you mean 'mine'\? Functions of .*: mine$"):
        function_from_file(f"{file}:mine2")


@pytest.mark.parametrize(
    "flag", ["rate=0.5", "table: dict = {}", "sizes: list[int] = [1]", "sizes: tuple[dict, ...] = ()"]
)
def test_a_flag_needs_a_type_that_a_flag_can_have(user_file, flag):
    file = user_file(f"def odd(a, *, {flag}): pass\n")
    reason = "odd: expected a type for .* that a flag can have, got .*Annotate it with int, float"
    with pytest.raises(ValueError, match=reason):
        hyperparameters_of(function_from_file(f"{file}:odd"))


def test_the_same_file_may_be_imported_again_but_another_may_not_take_its_name(
    tmp_path, monkeypatch, user_file
):
    things_of_a_test = ModuleType("things_of_a_test")
    monkeypatch.setitem(sys.modules, "things_of_a_test", things_of_a_test)
    text = "from things_of_a_test import registry\n\n@registry.register('Thing')\ndef thing(a): pass\n"
    for name in ("one.py", "other.py"):
        user_file(text, name)
    things_of_a_test.registry = registry = Registry("thing", Facts)
    first = function_from_file(f"{tmp_path / 'one.py'}:thing")
    monkeypatch.syspath_prepend(tmp_path)
    again = importlib.import_module("one").thing
    assert again is not first
    assert registry["thing"].function is again
    with pytest.raises(ValueError, match=r"thing 'Thing' is registered already \(in .*one\.py\)"):
        function_from_file(f"{tmp_path / 'other.py'}:thing")


def test_none_is_none_where_any_text_may_stand():
    def named(*, layer: str | None = "last"): ...

    (layer,) = hyperparameters_of(named).values()
    assert (layer.parse("none"), layer.parse("3")) == (None, "3")


def test_what_was_run_of_a_file_is_its_code_whatever_it_says_by_now(user_file):
    file = user_file("def thing(a): return 1\n")
    things = Registry("thing", Facts)
    identity = things[f"{file}:thing"].identity
    assert file not in changed_files()
    file.write_text("def thing(a): return 2\n")
    again = things[f"{file}:thing"]
    assert (again(0), again.identity, again.code) == (1, identity, b"def thing(a): return 1\n")
    assert file in changed_files()
    file.unlink()
    assert again.identity == identity
    assert file in changed_files()


def test_a_default_is_the_authors_own_and_is_not_held_to_the_range():
    registry = Registry("thing", Facts)

    @registry.register("unbounded")
    def unbounded(*, norm: float = math.inf) -> float:
        return norm

    assert unbounded(norm=math.inf) == unbounded() == math.inf
    with pytest.raises(ValueError, match="--norm: expected a finite number, got nan"):
        unbounded(norm=math.nan)


def test_a_refusal_gives_no_example_where_none_is_known():
    registry = Registry("thing", Facts)

    @registry.register("needy")
    def needy(*, size: Annotated[int, Range(1)], seed: Annotated[int, Range(0)] | None = None) -> int:
        return size

    with pytest.raises(ValueError, match="--size: expected an integer >= 1, got 0$"):
        needy(size=0)
    with pytest.raises(ValueError, match="--seed: expected an integer >= 0, got -1$"):
        needy(size=1, seed=-1)


def test_an_unregistered_function_of_a_file_is_one_entry(tmp_path):
    (tmp_path / "own.py").write_text("def own(*, size: int = 1):\n    return size\n")
    registry = Registry("thing", Facts)
    name = f"{tmp_path}/own.py:own"
    assert registry[name] is registry[name]
