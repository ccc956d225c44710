"""The signature of a function as flags: its keyword-only parameters are its hyperparameters.

Their names become flags, their annotations say how values are checked and how a search draws them, and the
docstring is the help.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers as abstract_numbers
import operator
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from lethe.flag_error import FlagError
from lethe.flag_words import text_of
from lethe.nearest_name import did_you_mean

Function = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Function)
Note = TypeVar("Note")
File = Path  # the type of a setting that names a file: a run is known by what the file holds
FLAGS_BLOCK = r"^Flags:\n(?: {4}.*(?:\n|\Z))*\n?"  # the part of a docstring with the flags' help


@dataclass(frozen=True)
class Range:
    """The range of a flag's numbers, written into its annotation: Annotated[float, Range(0, 1, "(]")].

    `ends` is as in an interval: [ and ] include an end, ( and ) exclude it. Without `most`, integers end at
    10^9 and other numbers at 3e37: Adam's first step is ten times its learning rate, and float32 ends at
    3.4e38.
    """

    least: float
    most: float | None = None
    ends: Literal["[]", "(]", "[)", "()"] = "[]"

    def holds(self, value: float) -> bool:
        """Return whether the value is in the range; NaN never is."""
        above = value >= self.least if self.ends[0] == "[" else value > self.least
        most = self.limit(value)
        return above and (value <= most if self.ends[1] == "]" else value < most)

    def limit(self, value: float) -> float:
        """Return the upper end for a number of this type."""
        if self.most is not None:
            return self.most
        return 10**9 if isinstance(value, int) else 3e37

    def words(self, number: str) -> str:
        """Describe the range, after "an integer" or "a number"."""
        if self.most is None:
            return f"{number} {'>=' if self.ends[0] == '[' else '>'} {self.least}"
        forms = {
            "[]": "from {} to {}",
            "(]": "above {} and at most {}",
            "[)": "from {} to below {}",
            "()": "between {} and {}",
        }
        return f"{number} {forms[self.ends].format(self.least, self.most)}"


@dataclass(frozen=True)
class Search:
    """The distribution that a search draws a flag's values from: uniform on a linear or logarithmic scale."""

    scale: Literal["linear", "log"]
    low: float
    high: float

    @property
    def middle(self) -> float:
        """The middle of the scale, to one digit."""
        middle = math.sqrt(self.low * self.high) if self.scale == "log" else (self.low + self.high) / 2
        rounded = float(f"{middle:.1g}")
        return int(rounded) if isinstance(self.low, int) and rounded >= 1 else rounded


@dataclass(frozen=True)
class Help:
    """The help of a flag that many functions share; a line in a function's own docstring overrides it."""

    text: str


class Choices(Protocol):
    """The entries that a flag can name: a registry."""

    @property
    def names(self) -> list[str]: ...

    def __getitem__(self, name: str, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class OneOf:
    """The note of a flag that names an entry: Annotated[str, OneOf(ADD_ONS)].

    The hyperparameters of the chosen entry are flags beside it, and the function gets them by `**`.
    """

    choices: Choices

    @property
    def words(self) -> str:
        return f"one of {', '.join(self.choices.names)} or path/to/file.py:function"


@dataclass(frozen=True)
class Shown:
    """The words of --help for a flag's value, and for a default of None or ()."""

    value: str = "VALUE"
    default: str | None = None


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only parameter of a registered function: a flag on the command line.

    `annotation` is the bare type. `notes` are the metadata of Annotated: a Range, a Search, a Help, a OneOf,
    or a str that describes the expected values.
    """

    name: str
    annotation: Any
    default: Any
    help: str
    notes: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def takes_none(self) -> bool:
        return type(None) in _members(self.annotation)

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        kinds = _kinds(self)
        return int in kinds and float not in kinds

    @property
    def range(self) -> Range | None:
        return _last(Range, self.notes)

    @property
    def search(self) -> Search | None:
        return _last(Search, self.notes)

    @property
    def choices(self) -> Choices | None:
        one_of = _last(OneOf, self.notes)
        return None if one_of is None else one_of.choices

    @property
    def shown(self) -> Shown:
        return _last(Shown, self.notes) or Shown()

    @property
    def expects(self) -> str:
        """A description of the values that are accepted."""
        one_of = _last(OneOf, self.notes)
        if one_of is not None:
            return one_of.words + (" or none" if self.takes_none else "")
        return _last(str, self.notes) or _described(self.annotation, self.range)

    def chosen(self, value: Any) -> Any:
        """Return the entry that a value names, None for no value. Raises ValueError for an unknown name."""
        if self.choices is None or value is None:
            return None
        try:
            return self.choices[value]
        except ValueError as error:
            raise FlagError(self.name, error) from error

    def without_none(self) -> Hyperparameter:
        """Return the same flag without None among its values, where None means that the flag is left out."""
        kinds = [kind for kind in _members(self.annotation) if kind is not type(None)]
        return replace(self, annotation=functools.reduce(operator.or_, kinds))

    def parse(self, text: str) -> Any:
        """Return the value of a text. Raises as `check`."""
        try:
            value = _parse(self.annotation, text)
        except ValueError:
            raise self._refused(text) from None
        return self.check(value, text)

    def setting(self, given: Mapping[str, Any]) -> Any:
        """Return the given value, checked, or the default, which is not checked."""
        value = given.get(self.name, self.default)
        return value if value is self.default or value == self.default else self.check(value)

    def check(self, value: Any, text: str | None = None) -> Any:
        """Return the value, an int as a float where the type is float.

        Raises ValueError, naming the flag, for another type and for a number out of the range. `text`: the
        value as the user wrote it.
        """
        try:
            checked = _checked(self.annotation, value)
        except ValueError:
            raise self._refused(value if text is None else text) from None
        for number in checked if isinstance(checked, tuple) else (checked,):
            if self.range is not None and isinstance(number, (int, float)) and not self.range.holds(number):
                raise self._refused(value, number)
        self.chosen(checked)
        return checked

    def _refused(self, value: Any, number: float = math.nan) -> ValueError:
        """Return the error for a value; `number`: the part of it that is out of the range."""
        if self.range is None:
            return FlagError(self.name, f"expected {self.expects}, got {value!r}")
        limit = self.range.limit(number)
        end = f" and at most {limit:g}" if self.range.most is None and number > limit else ""
        expects = self.expects.removesuffix(" or none")
        example = self._example
        remedy = "" if example is None else f". Give e.g. {example}"
        return FlagError(self.name, f"expected {expects}{end}, got {value!r}{remedy}")

    @property
    def _example(self) -> str | None:
        """An accepted value: the default, or the middle of a search; None without either."""
        if self.required or self.default is None:
            return None if self.search is None else str(self.search.middle)
        return text_of(self.default)


def checked(name: str, function: Decorated) -> Decorated:
    """Wrap a function so that each call checks its settings by `settings_of`."""
    if not _own_flags(function):
        return function
    others = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        arguments = {other: given.pop(other) for other in others if other in given}
        return function(*args, **arguments, **settings_of(name, function, given))

    return cast(Decorated, call)


def settings_of(name: str, function: Function, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every hyperparameter of a function, and of the entries it chooses, with its value.

    The value is the given one, checked, or the default. name: of the function, for errors. Raises ValueError
    for an unknown flag, a missing one, and a value of another type or out of its range.
    """
    chosen = chosen_by(function, given)
    known = flags_with(name, function, chosen)
    # None means the default of a chosen entry's flag that does not take None itself.
    of_chosen = known.keys() - hyperparameters_of(function)
    never_none = {flag for flag in of_chosen if not known[flag].takes_none}
    given = {flag: value for flag, value in given.items() if value is not None or flag not in never_none}
    for flag, value in given.items():
        if flag in known:
            continue
        elsewhere = not_chosen(function, flag, chosen)
        if elsewhere and value is None:  # as good as not given
            continue
        names = [f"--{each}" for each in known]
        unknown = did_you_mean(f"flag of {name}", f"--{flag}", names, f"flags of {name}")
        raise FlagError(flag, elsewhere or unknown, named=False)
    missing = [flag for flag, parameter in known.items() if parameter.required and flag not in given]
    if missing:
        raise ValueError(f"{name} needs --{' and --'.join(missing)}. Give a value for each")
    return {flag: parameter.setting(given) for flag, parameter in known.items()}


def chosen_by(function: Function, given: Mapping[str, Any]) -> list[Any]:
    """Return the entries that the given values, or the defaults, name by flags that choose one.

    A value may be a list of names, as for a sweep.
    """
    found = []
    for flag in hyperparameters_of(function).values():
        if flag.choices is not None:
            value = given.get(flag.name, None if flag.required else flag.default)
            for name in value if isinstance(value, list) else [value]:
                name = flag.parse(name) if isinstance(name, str) else flag.check(name)
                found += [] if name is None else [flag.chosen(name)]
    return found


def flags_with(name: str, function: Function, chosen: Iterable[Any]) -> dict[str, Hyperparameter]:
    """Return the flags of a function and of the chosen entries.

    Raises ValueError for a flag of both, and for one that has other types in two of the chosen entries.
    """
    own = hyperparameters_of(function)
    flags = dict(own)
    owners: dict[str, str] = {}
    for entry in chosen:
        both = sorted(own.keys() & entry.hyperparameters)
        if both:
            taken = f"{entry.name}: --{both[0]} is a flag of {name} already. Rename the parameter"
            raise FlagError(both[0], taken, named=False)
        for flag, parameter in entry.hyperparameters.items():
            if flag in owners and _kinds(parameter) != _kinds(flags[flag]):
                message = (
                    f"expected the same type in {owners[flag]} and {entry.name}, got {flags[flag].expects} "
                    f"and {parameter.expects}. Rename one of the parameters, or choose one at a time"
                )
                raise FlagError(flag, message)
            owners[flag] = entry.name
        flags |= entry.hyperparameters
    return flags


def not_chosen(function: Function, flag: str, chosen: Iterable[Any]) -> str:
    """Return the message for a flag of entries other than the chosen ones; "" if no entry has the flag."""
    got = ", ".join(entry.name for entry in chosen) or "none"
    for chooser in hyperparameters_of(function).values():
        having = [entry.name for entry in chooser.choices or () if flag in entry.hyperparameters]
        if having:
            expected = f"--{flag}: expected an --{chooser.name} that has it, got {got}"
            return f"{expected}. Name one of {', '.join(having)}"
    return ""


@functools.cache
def hyperparameters_of(function: Function) -> dict[str, Hyperparameter]:
    """Return the keyword-only parameters of a function, by name.

    The help is the parameter's line in the docstring, `    name: text` under `Flags:`, or the annotation's.
    A parameter whose default is None accepts None. Raises ValueError for a type that no flag can have.
    """
    types_alone, annotated = get_type_hints(function), get_type_hints(function, include_extras=True)
    block = re.search(FLAGS_BLOCK, inspect.getdoc(function) or "", flags=re.MULTILINE)
    helps = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", block[0] if block else "", flags=re.MULTILINE))
    found = {}
    for name, parameter in _own_flags(function).items():
        _check_understood(function, name, types_alone.get(name))
        kind, notes = types_alone[name], tuple(_notes(annotated[name]))
        if parameter.default is None and type(None) not in _members(kind):
            kind |= None
        shared = _last(Help, notes)
        own = re.sub(r"\s+", " ", helps.get(name, ""))
        found[name] = Hyperparameter(
            name, kind, parameter.default, own or (shared.text if shared else ""), notes
        )
    return found


def _own_flags(function: Function) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _notes(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of every Annotated in an annotation, from the inner to the outer."""
    if get_origin(annotation) is Annotated:
        yield from _notes(get_args(annotation)[0])
        yield from annotation.__metadata__
    else:
        for part in get_args(annotation):
            yield from _notes(part)


def _last(kind: type[Note], notes: tuple[Any, ...]) -> Note | None:
    """Return the outermost note of a kind, which overrides the inner ones."""
    return next((note for note in reversed(notes) if isinstance(note, kind)), None)


def _check_understood(function: Function, name: str, annotation: Any) -> None:
    """Raise ValueError for a type that no flag can have."""
    for kind in () if annotation is None else _members(annotation):
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if get_origin(inner) is not Literal and inner not in (int, float, str, Path, bool, type(None)):
            annotation = None
    if annotation is None:
        raise ValueError(
            f"{function.__name__}: expected a type for {name} that a flag can have, got "
            f"{inspect.signature(function).parameters[name]}. "
            "Annotate it with int, float, str, bool, Literal[...], tuple[int, ...] or one of them | None"
        )


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _kinds(parameter: Hyperparameter) -> frozenset[Any]:
    """Return the types of a flag's values; None aside, which a default of None adds."""
    return frozenset(_members(parameter.annotation)) - {type(None)}


def _parse(annotation: Any, text: str) -> Any:
    # A str and a Path accept every text, so they come last.
    for kind in sorted(_members(annotation), key=lambda kind: kind in (str, Path)):
        try:
            return _parse_one(kind, text)
        except ValueError:
            continue
    raise ValueError(text)


def _parse_one(kind: Any, text: str) -> Any:
    if kind is type(None):
        if text.casefold() == "none":
            return None
        raise ValueError(text)
    if kind is bool:
        answers = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.casefold() not in answers:
            raise ValueError(text)
        return answers[text.casefold()]
    if get_origin(kind) is Literal:
        matches = [choice for choice in get_args(kind) if str(choice).casefold() == text.casefold()]
        if not matches:
            raise ValueError(text)
        return matches[0]
    if get_origin(kind) is tuple:
        of = get_args(kind)[0]
        parts = [part.strip() for part in text.split(",")]
        return tuple(_parse(of, part) for part in parts if part or of is not str)
    if kind is int and not re.fullmatch(r"-?[0-9]+", text):  # int() reads +1 and 1_0 too
        raise ValueError(text)
    return kind(text)


def _checked(annotation: Any, value: Any) -> Any:
    for kind in _members(annotation):
        if get_origin(kind) is tuple and isinstance(value, (tuple, list)):
            return tuple(_checked(get_args(kind)[0], part) for part in value)
        if kind is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if kind is int and isinstance(value, abstract_numbers.Integral) and not isinstance(value, bool):
            return int(value)  # one of NumPy too
        if kind is not float and _is_a(kind, value):
            return value
    if isinstance(value, str) and Path in _members(annotation):
        return Path(value)
    raise ValueError(value)


def _is_a(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return isinstance(value, Path) if kind is Path else type(value) is kind


def _described(annotation: Any, numbers: Range | None) -> str:
    words = {
        int: "an integer",
        float: "a finite number",
        str: "text",
        Path: "a path",
        bool: "true or false",
        type(None): "none",
    }
    if numbers is not None:
        words |= {int: numbers.words("an integer"), float: numbers.words("a number")}

    def one(kind: Any) -> str:
        if get_origin(kind) is Literal:
            return "one of " + ", ".join(map(str, get_args(kind)))
        if get_origin(kind) is tuple:
            return f"{one(get_args(kind)[0])}, or several separated by commas"
        return words.get(kind, getattr(kind, "__name__", str(kind)))

    return " or ".join(one(kind) for kind in _members(annotation))
