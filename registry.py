"""What all registries share: registration, names and aliases, the nearest match, and the signature as schema.

A registered function stays the function it was; the registry only remembers it. Its keyword-only parameters are its
hyperparameters: their names become flags, their annotations are checked, its docstring is the help.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from foreign_files import read_foreign, warn_if_others_write

__version__ = "0.1.0"

USER_MODULE = "lethe_user_"
_CODE = "__lethe_code__"  # of the module of a user's file: what was run of it
Facts = TypeVar("Facts")
Function = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Function)
_FLAGS = r"^Flags:\n(?: {4}.*(?:\n|\Z))*\n?"  # the block of a docstring that holds the flags' help


def did_you_mean(kind: str, name: str, known: Iterable[str], plural: str = "", listed: Iterable[str] | None = None) -> str:
    """One line for an unknown name: the nearest match among all that are known, then those that are `listed` (all, by default)."""
    known = sorted(known, key=str.casefold)
    listed = known if listed is None else sorted(listed, key=str.casefold)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    plural = plural or f"{kind}s"
    return f"unknown {kind} {name!r}.{hint} {plural[:1].upper()}{plural[1:]}: {', '.join(listed) or 'none'}"


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only parameter of a registered function: a flag on the command line."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def expects(self) -> str:
        """What a value has to be, in words."""
        return _described(self.annotation)

    def parse(self, text: str) -> Any:
        """The value that `text` spells. Raises ValueError that names the flag, what was expected and what came."""
        try:
            return self.check(_parse(self.annotation, text))
        except ValueError:
            raise ValueError(f"--{self.name}: expected {_described(self.annotation)}, got {text!r}") from None

    def check(self, value: Any) -> Any:
        """`value` as the annotation has it (an int where a float is meant becomes one), or ValueError."""
        try:
            return _checked(self.annotation, value)
        except ValueError:
            raise ValueError(f"{self.name}: expected {_described(self.annotation)}, got {value!r}") from None


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
        return {name: parameter.default for name, parameter in self.hyperparameters.items() if not parameter.required}

    @property
    def file(self) -> Path | None:
        """The user's file that the function came from, None for Lethe's own."""
        module = sys.modules.get(self.function.__module__)
        return Path(str(module.__file__)) if module is not None and module.__name__.startswith(USER_MODULE) else None

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
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def about(self) -> str:
        """Names, source and docstring, without the lines that become the flags' help."""
        also = f" (also {', '.join(self.aliases)})" if self.aliases else ""
        text = re.sub(_FLAGS, "", inspect.getdoc(self.function) or "", flags=re.MULTILINE)
        source = getattr(self.facts, "source", "")
        return f"{self.name}{also}: {text}" + (f"\n\nSource: {source}" if source else "")

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every hyperparameter with its value: the given one, checked, else the default.

        Raises ValueError for a name that the function does not have, a value of another type, or a missing one.
        """
        known = self.hyperparameters
        for name in given:
            if name not in known:
                raise ValueError(did_you_mean(f"flag of {self.name}", f"--{name}", [f"--{k}" for k in known], f"flags of {self.name}"))
        missing = [name for name, parameter in known.items() if parameter.required and name not in given]
        if missing:
            raise ValueError(f"{self.name} needs --{' and --'.join(missing)}. Give a value for each")
        return {name: p.check(given[name]) if name in given else p.default for name, p in known.items()}


class Registry(Generic[Facts]):
    """Names to functions, for one kind of thing ("method", "dataset", ...).

    Names and aliases are case-insensitive. Registering a name a second time raises ValueError. `takes` names the positional
    parameters that every function of the kind has: one from a person's file is held to them.
    """

    def __init__(self, kind: str, facts: type[Facts], takes: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._takes = takes
        self._facts = facts
        self._entries: dict[str, Entry[Facts]] = {}
        self._names: dict[str, str] = {}
        self._families: dict[str, tuple[str, Callable[[str], Entry[Facts]]]] = {}

    def register(self, name: str, *aliases: str, **facts: Any) -> Callable[[Decorated], Decorated]:
        """Decorator: remember a function under `name` and `aliases`, with the facts this kind declares; returns it unchanged."""

        def remember(function: Decorated) -> Decorated:
            taken = [n for n in (name, *aliases) if n.casefold() in self._names and not self._is_again(n, function)]
            if taken:
                where = inspect.getsourcefile(self[taken[0]].function)
                raise ValueError(f"{self.kind} {taken[0]!r} is registered already (in {where}). Choose another name")
            self._entries[name] = Entry(name, function, aliases, self._facts(**facts))
            self._names |= {n.casefold(): name for n in (name, *aliases)}
            return function

        return remember

    def family(self, prefix: str, what: str = "NAME") -> Callable[[Callable[[str], Entry[Facts]]], Callable[[str], Entry[Facts]]]:
        """Decorator: names written prefix:NAME are the entries that the decorated function of NAME returns; `what` is shown for NAME."""

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
            raise ValueError(f"{self.kind} {name!r}: expected path/to/file.py:function, got the file alone. Name a function of it")
        families = [shown for shown, _ in self._families.values()]
        raise ValueError(did_you_mean(self.kind, name, self._entries, listed=[*self._entries, *families]))

    def runs_code(self, name: str) -> bool:
        """Whether looking this name up would run a person's file: never to be done with a name that a store or a file gives."""
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
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        if self._takes and len([p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]) != len(self._takes):
            raise ValueError(
                f"{spec}: expected a {self.kind}, a function of ({', '.join(self._takes)}, *, flags), got one of "
                f"{inspect.signature(function)}. Name another function, or put a * before its flags"
            )
        return Entry(function.__name__, function, (), self._facts())


def function_from_file(spec: str) -> Function:
    """The function that `path/to/file.py:function` names. The file is run as the user's own code, once: see `changed_files`."""
    path, _, name = spec.rpartition(":")
    module = module_of(path, spec)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise ValueError(did_you_mean(f"function of {path}", name, known, f"functions of {path}"))
    return function


def module_of(path: str, spec: str) -> types.ModuleType:
    """The module that a user's file is, run now if it wasn't before. spec: what names it, for the error."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected path/to/file.py:function, got {spec!r}, and there is no file {path}")
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
            exec(compile(code, str(file), "exec", dont_inherit=True), vars(module))  # these bytes, not those of a second look
        except SystemExit as error:
            del sys.modules[module_name]
            raise ValueError(
                f"{path} ends the program (exit code {error.code}) when it is imported. Put that under if __name__ == '__main__'"
            ) from error
        except BaseException:
            del sys.modules[module_name]
            raise
    return module


def changed_files() -> list[Path]:
    """The users' files that say by now something else than what was run of them, or are gone: a process of its own would run that."""
    modules = [module for name, module in sys.modules.items() if name.startswith(USER_MODULE)]
    files = ((Path(str(module.__file__)), vars(module).get(_CODE)) for module in modules)
    return [file for file, code in files if not file.is_file() or file.read_bytes() != code]


def hyperparameters_of(function: Function) -> dict[str, Hyperparameter]:
    """The keyword-only parameters of `function`, by name.

    The help of each is its line in the docstring, written `    name: what it is` under `Flags:`. Raises ValueError for one whose
    type is not among those that a flag can have.
    """
    hints = get_type_hints(function, include_extras=True)
    block = re.search(_FLAGS, inspect.getdoc(function) or "", flags=re.MULTILINE)
    helps = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", block[0] if block else "", flags=re.MULTILINE))
    flags = [name for name, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in flags:
        _check_understood(function, name, hints.get(name))
    defaults = {name: inspect.signature(function).parameters[name].default for name in flags}
    return {name: Hyperparameter(name, hints[name], defaults[name], re.sub(r"\s+", " ", helps.get(name, ""))) for name in flags}


def _check_understood(function: Function, name: str, annotation: Any) -> None:
    """ValueError for an annotation that no flag can have."""
    for kind in () if annotation is None else _members(annotation):
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if get_origin(inner) is not Literal and inner not in (int, float, str, bool, type(None)):
            annotation = None
    if annotation is None:
        raise ValueError(
            f"{function.__name__}: expected a type for {name} that a flag can have, got {inspect.signature(function).parameters[name]}. "
            "Annotate it with int, float, str, bool, Literal[...], tuple[int, ...] or one of them | None"
        )


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
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
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if kind in (int, str, bool) and type(value) is kind:
            return value
    raise ValueError(value)


def _described(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return str(get_args(annotation)[1])
    words = {int: "an integer", float: "a finite number", str: "text", bool: "true or false", type(None): "none"}

    def one(kind: Any) -> str:
        if get_origin(kind) is Literal:
            return "one of " + ", ".join(map(str, get_args(kind)))
        if get_origin(kind) is tuple:
            return f"{one(get_args(kind)[0])}, or several separated by commas"
        return words.get(kind, getattr(kind, "__name__", str(kind)))

    return " or ".join(one(kind) for kind in _members(annotation))
