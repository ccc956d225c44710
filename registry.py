"""What all registries share: registration, names and aliases, the nearest match, and the signature as schema.

The keyword-only parameters of a registered function are its hyperparameters: their names become flags, their
annotations say what is checked at every call and how a search draws them, its docstring is the help.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from foreign_files import read_foreign, warn_if_others_write

__version__ = "0.1.0"

USER_MODULE = "lethe_user_"
_CODE = "__lethe_code__"  # of the module of a user's file: what was run of it
Facts = TypeVar("Facts")
Function = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Function)
Note = TypeVar("Note")
_FLAGS = r"^Flags:\n(?: {4}.*(?:\n|\Z))*\n?"  # the block of a docstring that holds the flags' help


def did_you_mean(
    kind: str, name: str, known: Iterable[str], plural: str = "", listed: Iterable[str] | None = None
) -> str:
    """One line for an unknown name: the nearest match among all that are known, then those that are `listed`
    (all, by default).
    """
    known = sorted(known, key=str.casefold)
    listed = known if listed is None else sorted(listed, key=str.casefold)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    plural = plural or f"{kind}s"
    return f"unknown {kind} {name!r}.{hint} {plural[:1].upper()}{plural[1:]}: {', '.join(listed) or 'none'}"


@dataclass(frozen=True)
class Range:
    """The numbers that a flag takes, written into its annotation: Annotated[float, Range(0, 1, "(]")].

    `ends` is as in an interval: [ and ] count, ( and ) do not. Without `most`, numbers end at 3e37, for
    Adam's first step is ten times its learning rate and float32 ends at 3.4e38, and integers at 10^9.
    """

    least: float
    most: float | None = None
    ends: Literal["[]", "(]", "[)", "()"] = "[]"

    def holds(self, value: float) -> bool:
        """Whether the value is in the range, which NaN never is."""
        above = value >= self.least if self.ends[0] == "[" else value > self.least
        most = self.limit(value)
        return above and (value <= most if self.ends[1] == "]" else value < most)

    def limit(self, value: float) -> float:
        """The upper end for a number of this type."""
        if self.most is not None:
            return self.most
        return 10**9 if isinstance(value, int) else 3e37

    def words(self, number: str) -> str:
        """The range in words, after "an integer" or "a number"."""
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
    """How a search draws a flag's values: evenly between `low` and `high`, on a linear or on a logarithmic
    scale.
    """

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
    """The help of a flag that many functions share; the line of a function's own docstring goes before it."""

    text: str


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only parameter of a registered function: a flag on the command line.

    `annotation` is the type alone; `notes` is what is Annotated: a Range, a Search, a Help, or a str that
    says what is expected.
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
    def range(self) -> Range | None:
        return _last(Range, self.notes)

    @property
    def search(self) -> Search | None:
        return _last(Search, self.notes)

    @property
    def expects(self) -> str:
        """What a value has to be, in words."""
        return _last(str, self.notes) or _described(self.annotation, self.range)

    def parse(self, text: str) -> Any:
        """The value that `text` spells. Raises ValueError that names the flag, what was expected and what
        came.
        """
        try:
            value = _parse(self.annotation, text)
        except ValueError:
            raise self._refused(text) from None
        return self.check(value, text)

    def setting(self, given: Mapping[str, Any]) -> Any:
        """The given value, checked, else the default, which the function's author answers for."""
        value = given.get(self.name, self.default)
        return value if value is self.default or value == self.default else self.check(value)

    def check(self, value: Any, text: str | None = None) -> Any:
        """`value` as the annotation has it (an int where a float is meant becomes one), or ValueError."""
        try:
            checked = _checked(self.annotation, value)
        except ValueError:
            raise self._refused(value if text is None else text) from None
        for number in checked if isinstance(checked, tuple) else (checked,):
            if self.range is not None and isinstance(number, (int, float)) and not self.range.holds(number):
                raise self._refused(value, number)
        return checked

    def _refused(self, value: Any, number: float = math.nan) -> ValueError:
        """The error for a value; `number` is what of it is out of the range."""
        if self.range is None:
            return ValueError(f"--{self.name}: expected {self.expects}, got {value!r}")
        limit = self.range.limit(number)
        end = f" and at most {limit:g}" if self.range.most is None and number > limit else ""
        expects = self.expects.removesuffix(" or none")
        example = self._example
        way_out = "" if example is None else f". Give e.g. {example}"
        return ValueError(f"--{self.name}: expected {expects}{end}, got {value!r}{way_out}")

    @property
    def _example(self) -> str | None:
        """A value that is taken: the default, else the middle of a search; None if neither is known."""
        if self.required or self.default is None:
            return None if self.search is None else str(self.search.middle)
        return ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)


@dataclass(frozen=True)
class Entry(Generic[Facts]):
    """A registered function with the names it answers to and what its registration declares."""

    name: str
    function: Function
    aliases: tuple[str, ...]
    facts: Facts

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self.function(*args, **settings)

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return hyperparameters_of(self.function)

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of the hyperparameters that need not be given."""
        return {
            name: parameter.default
            for name, parameter in self.hyperparameters.items()
            if not parameter.required
        }

    @property
    def file(self) -> Path | None:
        """The user's file that the function came from, None for Lethe's own."""
        module = sys.modules.get(self.function.__module__)
        return (
            Path(str(module.__file__))
            if module is not None and module.__name__.startswith(USER_MODULE)
            else None
        )

    @property
    def code(self) -> bytes | None:
        """The text of the user's file as it was run, whatever the file says by now; None for Lethe's own."""
        module = sys.modules.get(self.function.__module__)
        return None if module is None else vars(module).get(_CODE)

    @property
    def identity(self) -> str:
        """The name, and for a user's file the digest of its text: two functions of one name are not the same."""
        return self.name if self.code_digest is None else f"{self.name}-{self.code_digest}"

    @property
    def code_digest(self) -> str | None:
        """SHA-256 of the user's file as it was run; None for Lethe's own."""
        return None if self.code is None else hashlib.sha256(self.code).hexdigest()

    @property
    def slug(self) -> str:
        """`identity` for the name of a file: a few letters of the digest will do there, and decide nothing."""
        return self.name if self.code_digest is None else f"{self.name}-{self.code_digest[:8]}"

    @property
    def summary(self) -> str:
        """The docstring's first paragraph, in one line."""
        paragraph = (inspect.getdoc(self.function) or "").partition("\n\n")[0]
        return " ".join(paragraph.split())

    @property
    def about(self) -> str:
        """Names, source and docstring, without the lines that become the flags' help."""
        also = f" (also {', '.join(self.aliases)})" if self.aliases else ""
        text = re.sub(_FLAGS, "", inspect.getdoc(self.function) or "", flags=re.MULTILINE)
        source = getattr(self.facts, "source", "")
        return f"{self.name}{also}: {text}" + (f"\n\nSource: {source}" if source else "")

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every hyperparameter with its value: the given one, checked, else the default. See `settings_of`."""
        return settings_of(self.name, self.function, given)


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, which registers what is in it: a new file needs no entry in a list."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


class Registry(Generic[Facts]):
    """Names to functions, for one kind of thing ("method", "dataset", ...).

    Names and aliases are case-insensitive. Registering a name a second time raises ValueError. `takes` names
    the positional
    parameters that every function of the kind has: one from a person's file is held to them.
    """

    def __init__(self, kind: str, facts: type[Facts], takes: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._takes = takes
        self._facts = facts
        self._entries: dict[str, Entry[Facts]] = {}
        self._names: dict[str, str] = {}
        self._families: dict[str, tuple[str, Callable[[str], Entry[Facts]]]] = {}
        self._of_files: dict[
            Function, Entry[Facts]
        ] = {}  # by a user's unregistered function: one entry, however often it is named

    def register(self, name: str, *aliases: str, **facts: Any) -> Callable[[Decorated], Decorated]:
        """Decorator: remember a function under `name` and `aliases`, with the facts this kind declares;
        returns it `checked`.
        """

        def remember(function: Decorated) -> Decorated:
            function = checked(name, function)
            taken = [
                n for n in (name, *aliases) if n.casefold() in self._names and not self._is_again(n, function)
            ]
            if taken:
                where = inspect.getsourcefile(inspect.unwrap(self[taken[0]].function))
                raise ValueError(
                    f"{self.kind} {taken[0]!r} is registered already (in {where}). Choose another name"
                )
            self._entries[name] = Entry(name, function, aliases, self._facts(**facts))
            self._names |= {n.casefold(): name for n in (name, *aliases)}
            return function

        return remember

    def family(
        self, prefix: str, what: str = "NAME"
    ) -> Callable[[Callable[[str], Entry[Facts]]], Callable[[str], Entry[Facts]]]:
        """Decorator: names written prefix:NAME are the entries that the decorated function of NAME returns;
        `what` is shown for NAME.
        """

        def remember(entry_of: Callable[[str], Entry[Facts]]) -> Callable[[str], Entry[Facts]]:
            self._families[prefix.casefold()] = (f"{prefix}:{what}", entry_of)
            return entry_of

        return remember

    def _is_again(self, name: str, function: Function) -> bool:
        """Whether it is the same function of the same file, imported a second time."""
        known = self._entries[self._names[name.casefold()]].function
        places = [(inspect.getsourcefile(inspect.unwrap(f)), f.__qualname__) for f in (known, function)]
        return places[0] == places[1] and known.__module__ != function.__module__

    def __getitem__(self, name: str) -> Entry[Facts]:
        """The entry of a name or alias, of `path/to/file.py:function`, or of a family's prefix:NAME.

        ValueError names the nearest match and the list.
        """
        if name.casefold() in self._names:
            return self._entries[self._names[name.casefold()]]
        prefix, colon, rest = name.partition(":")
        if colon and prefix.casefold() in self._families:
            return self._families[prefix.casefold()][1](rest)
        if ".py:" in name:
            return self._from_file(name)
        if Path(name).suffix == ".py":
            raise ValueError(
                f"{self.kind} {name!r}: expected path/to/file.py:function, got the file alone. Name a "
                "function of it"
            )
        families = [shown for shown, _ in self._families.values()]
        raise ValueError(did_you_mean(self.kind, name, self._entries, listed=[*self._entries, *families]))

    def runs_code(self, name: str) -> bool:
        """Whether looking this name up would run a person's file: never to be done with a name that a store
        or a file gives.
        """
        prefix, colon, _ = name.partition(":")
        known = name in self or (bool(colon) and prefix.casefold() in self._families)
        return not known and ".py:" in name

    def __iter__(self) -> Iterator[Entry[Facts]]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._names

    @property
    def names(self) -> list[str]:
        return sorted(self._entries, key=str.casefold)

    def _from_file(self, spec: str) -> Entry[Facts]:
        path, _, name = spec.rpartition(":")
        module = module_of(path, spec)
        for entry in self._entries.values():
            if entry.name == name and entry.function.__module__ == module.__name__:
                return entry
        function = function_from_file(spec)
        for entry in self._entries.values():
            if entry.function is function:
                return entry
        own = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        if self._takes and len([p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]) != len(
            self._takes
        ):
            raise ValueError(
                f"{spec}: expected a {self.kind}, a function of ({', '.join(self._takes)}, *, flags), got "
                "one of "
                f"{inspect.signature(function)}. Name another function, or put a * before its flags"
            )
        if function not in self._of_files:
            name = function.__name__
            self._of_files[function] = Entry(name, checked(name, function), (), self._facts())
        return self._of_files[function]


def function_from_file(spec: str) -> Function:
    """The function that `path/to/file.py:function` names. The file is run as the user's own code, once: see
    `changed_files`.
    """
    path, _, name = spec.rpartition(":")
    module = module_of(path, spec)
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
        ]
        raise ValueError(did_you_mean(f"function of {path}", name, known, f"functions of {path}"))
    return function


def module_of(path: str, spec: str) -> types.ModuleType:
    """The module that a user's file is, run now if it wasn't before. spec: what names it, for the error."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"expected path/to/file.py:function, got {spec!r}, and there is no file {path}"
        )
    warn_if_others_write(file)
    module_name = f"{USER_MODULE}{file.stem}_{abs(hash(file.resolve()))}"
    module = sys.modules.get(module_name)
    if module is None:
        found = importlib.util.spec_from_file_location(module_name, file)
        if found is None or found.loader is None:
            raise ValueError(f"{path} can't be imported as Python")
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module
        try:
            vars(module)[_CODE] = code = read_foreign(file)
            exec(
                compile(code, str(file), "exec", dont_inherit=True), vars(module)
            )  # these bytes, not those of a second look
        except SystemExit as error:
            del sys.modules[module_name]
            raise ValueError(
                f"{path} ends the program (exit code {error.code}) when it is imported. Put that under if "
                "__name__ == '__main__'"
            ) from error
        except BaseException:
            del sys.modules[module_name]
            raise
    return module


def changed_files() -> list[Path]:
    """The users' files that say by now something else than what was run of them, or are gone: a process of
    its own would run that.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith(USER_MODULE)]
    files = ((Path(str(module.__file__)), vars(module).get(_CODE)) for module in modules)
    return [file for file, code in files if not file.is_file() or file.read_bytes() != code]


def checked(name: str, function: Decorated) -> Decorated:
    """The function, its settings checked at every call as `settings_of` does; itself where it has none."""
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
    """Every hyperparameter with its value: the given one, checked, else the default. `name` is the
    function's, for errors.

    Raises ValueError for a flag that the function does not have, a value of another type or out of its range,
    or a missing one.
    """
    known = hyperparameters_of(function)
    for flag in given:
        if flag not in known:
            raise ValueError(
                did_you_mean(f"flag of {name}", f"--{flag}", [f"--{k}" for k in known], f"flags of {name}")
            )
    missing = [flag for flag, parameter in known.items() if parameter.required and flag not in given]
    if missing:
        raise ValueError(f"{name} needs --{' and --'.join(missing)}. Give a value for each")
    return {flag: parameter.setting(given) for flag, parameter in known.items()}


def hyperparameters_of(function: Function) -> dict[str, Hyperparameter]:
    """The keyword-only parameters of `function`, by name.

    The help of each is its line in the docstring, written `    name: what it is` under `Flags:`, else that of its annotation. One whose
    default is None takes None too. Raises ValueError for one whose type is not among those that a flag can
    have.
    """
    types_alone, annotated = get_type_hints(function), get_type_hints(function, include_extras=True)
    block = re.search(_FLAGS, inspect.getdoc(function) or "", flags=re.MULTILINE)
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
    """What is Annotated anywhere in an annotation, the outer after the inner."""
    if get_origin(annotation) is Annotated:
        yield from _notes(get_args(annotation)[0])
        yield from annotation.__metadata__
    else:
        for part in get_args(annotation):
            yield from _notes(part)


def _last(kind: type[Note], notes: tuple[Any, ...]) -> Note | None:
    """The outermost note of a kind, which goes before those inside."""
    return next((note for note in reversed(notes) if isinstance(note, kind)), None)


def _check_understood(function: Function, name: str, annotation: Any) -> None:
    """ValueError for an annotation that no flag can have."""
    for kind in () if annotation is None else _members(annotation):
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if get_origin(inner) is not Literal and inner not in (int, float, str, bool, type(None)):
            annotation = None
    if annotation is None:
        raise ValueError(
            f"{function.__name__}: expected a type for {name} that a flag can have, got "
            f"{inspect.signature(function).parameters[name]}. "
            "Annotate it with int, float, str, bool, Literal[...], tuple[int, ...] or one of them | None"
        )


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _parse(annotation: Any, text: str) -> Any:
    for kind in sorted(_members(annotation), key=lambda kind: kind is str):  # last what takes every text
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
        return tuple(_parse(get_args(kind)[0], part) for part in text.split(","))
    return kind(text)


def _checked(annotation: Any, value: Any) -> Any:
    for kind in _members(annotation):
        if kind is type(None) and value is None:
            return None
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if get_origin(kind) is tuple and isinstance(value, (tuple, list)):
            return tuple(_checked(get_args(kind)[0], part) for part in value)
        if (
            kind is float
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
            and math.isfinite(value)
        ):
            return float(value)
        if kind in (int, str, bool) and type(value) is kind:
            return value
    raise ValueError(value)


def _described(annotation: Any, numbers: Range | None) -> str:
    words = {
        int: "an integer",
        float: "a finite number",
        str: "text",
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
