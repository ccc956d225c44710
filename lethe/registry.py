"""Registries: functions by name and alias, with the facts that their registration declares."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from lethe.nearest_name import did_you_mean
from lethe.plugins import Plugin, package_of, plugins_of
from lethe.signature import (
    FLAGS_BLOCK,
    Decorated,
    Function,
    Hyperparameter,
    checked,
    chosen_by,
    flags_with,
    hyperparameters_of,
    not_chosen,
    settings_of,
)
from lethe.user_files import code_of, file_of, function_from_file, module_of

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Entry(Generic[Facts]):
    """A registered function with its names and the facts that its registration declares.

    chosen: entries, such as an add-on, whose hyperparameters are flags beside the function's own.
    package: of a plugin, with its version: "lethe-uniform==0.1.0".
    """

    name: str
    function: Function
    aliases: tuple[str, ...]
    facts: Facts
    chosen: tuple[Entry[Any], ...] = ()
    package: str = ""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self.function(*args, **settings)

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return flags_with(self.name, self.function, self.chosen)

    @property
    def choosers(self) -> list[str]:
        """The flags that choose an entry, such as an add-on."""
        return [name for name, flag in self.hyperparameters.items() if flag.choices is not None]

    @property
    def possible_flags(self) -> frozenset[str]:
        """The names of its flags, and of those of every registered entry that it could choose."""
        flags = self.hyperparameters
        entries = [entry for name in self.choosers for entry in flags[name].choices or ()]
        return frozenset(flags).union(*(entry.hyperparameters for entry in entries))

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the hyperparameters that have one."""
        return {name: each.default for name, each in self.hyperparameters.items() if not each.required}

    @property
    def own(self) -> bool:
        """Whether it is Lethe's own: neither of a user's file nor of a plugin."""
        return self.file is None and not self.package

    @property
    def file(self) -> Path | None:
        """The user's file that the function came from; None for Lethe's own."""
        return file_of(self.function)

    @property
    def code(self) -> bytes | None:
        """The text of the user's file as it was run; None for Lethe's own."""
        return code_of(self.function)

    @property
    def code_digest(self) -> str | None:
        """SHA-256 of the user's file as it was run; None for Lethe's own."""
        return None if self.code is None else hashlib.sha256(self.code).hexdigest()

    @property
    def identity(self) -> str:
        """The name, with the digest of a user's file, or the package of a plugin: what else has this name
        differs.
        """
        if self.package:
            return f"{self.name}@{self.package}"
        return self.name if self.code_digest is None else f"{self.name}-{self.code_digest}"

    @property
    def slug(self) -> str:
        """`identity` with eight letters of the digest, for file names."""
        return self.identity if self.code_digest is None else f"{self.name}-{self.code_digest[:8]}"

    @property
    def summary(self) -> str:
        """The docstring's first paragraph, in one line."""
        return first_paragraph(self.function)

    @property
    def in_short(self) -> str:
        """`summary`, with the package of a plugin."""
        return f"{self.summary} ({self.package})" if self.package else self.summary

    @property
    def about(self) -> str:
        """Names, docstring, source and package, without the flags' help."""
        also = f" (also {', '.join(self.aliases)})" if self.aliases else ""
        text = re.sub(FLAGS_BLOCK, "", inspect.getdoc(self.function) or "", flags=re.MULTILINE)
        origins = {"Source": getattr(self.facts, "source", ""), "Package": self.package}
        lines = [f"{what}: {origin}" for what, origin in origins.items() if origin]
        return "\n\n".join([f"{self.name}{also}: {text}", *lines])

    def choosing(self, given: Mapping[str, Any]) -> Entry[Facts]:
        """Return the entry with the flags of those that the given values name; a value may be a list."""
        return replace(self, chosen=tuple(chosen_by(self.function, given)))

    def not_chosen(self, flag: str) -> str:
        """Return the message for a flag of an entry that is not chosen; "" for any other flag."""
        return not_chosen(self.function, flag, self.chosen)

    def parse(self, flag: str, text: str) -> Any:
        """Return the value of a flag's text. `none` is a value of every flag of a chosen entry."""
        try:
            return self.hyperparameters[flag].parse(text)
        except ValueError:
            if text.casefold() == "none" and flag not in hyperparameters_of(self.function):
                return None
            raise

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every hyperparameter with its given value or its default. Raises as `settings_of`."""
        return settings_of(self.name, self.function, given)


def parted(identity: str) -> tuple[str, str]:
    """Return the name in an entry's identity, and the package of a plugin; "" for what is of no plugin."""
    name, at, package = identity.rpartition("@")
    return (name, package) if at else (identity, "")


def first_paragraph(documented: Any) -> str:
    """The docstring's first paragraph, in one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that each registers its functions."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


class Registry(Generic[Facts]):
    """Functions of one kind ("method", "dataset", ...) by name; names are case-insensitive.

    takes: the positional parameters of every function of the kind; a function from a user's file must have
    as many. None if they differ. returns: what such a function returns, for the error about another one.
    plugins: the group of entry points by which other packages add functions, such as "lethe.methods". They
    are imported when the registry is listed, or asked for a name that it does not have.
    """

    def __init__(
        self,
        kind: str,
        facts: type[Facts],
        takes: tuple[str, ...] | None = None,
        returns: str = "",
        plugins: str = "",
    ) -> None:
        self.kind = kind
        self._group = plugins
        self._plugins: list[Plugin] | None = None  # not imported yet; None: not looked for yet
        self._loading: Plugin | None = None
        self._takes = takes
        self._returns = f" that returns {returns}" if returns else ""
        self._facts = facts
        self._entries: dict[str, Entry[Facts]] = {}
        self._names: dict[str, str] = {}
        self._families: dict[str, tuple[str, Callable[[str], Entry[Facts]]]] = {}
        self._of_files: dict[Function, Entry[Facts]] = {}  # users' functions that are not registered

    def register(self, name: str, *aliases: str, **facts: Any) -> Callable[[Decorated], Decorated]:
        """Decorator: register a function, whose settings are checked at every call from then on.

        Raises ValueError for a name that is registered already.
        """

        def remember(function: Decorated) -> Decorated:
            function = checked(name, function)
            for each in (name, *aliases):
                self._check_free(each, function)
            package = self._loading.package if self._loading else package_of(function.__module__ or "")
            self._entries[name] = Entry(name, function, aliases, self._facts(**facts), package=package)
            self._names |= {each.casefold(): name for each in (name, *aliases)}
            return function

        return remember

    def _check_free(self, name: str, function: Function) -> None:
        if name.casefold() not in self._names:
            return
        known = self[name].function
        where = inspect.getsourcefile(inspect.unwrap(known))
        here = inspect.getsourcefile(inspect.unwrap(function))
        same = (where, known.__qualname__) == (here, function.__qualname__)
        # A file that is imported twice, under two names of modules, registers the same function twice.
        if same and known.__module__ != function.__module__:
            return
        taken = self[name].package or where
        raise ValueError(f"{self.kind} {name!r} is registered already (in {taken}). Choose another name")

    def family(
        self, prefix: str, shown: str = "NAME"
    ) -> Callable[[Callable[[str], Entry[Facts]]], Callable[[str], Entry[Facts]]]:
        """Decorator: the function returns the entry for each name prefix:NAME. shown: NAME in messages."""

        def remember(entry_of: Callable[[str], Entry[Facts]]) -> Callable[[str], Entry[Facts]]:
            self._families[prefix.casefold()] = (f"{prefix}:{shown}", entry_of)
            return entry_of

        return remember

    def __getitem__(self, name: str) -> Entry[Facts]:
        """Return the entry of a name, an alias, `path/to/file.py:function`, or a family's prefix:NAME.

        Raises ValueError with the nearest match and the known names.
        """
        if name in self:
            return self._entries[self._names[name.casefold()]]
        prefix, _, rest = name.partition(":")
        if self._in_family(name):
            return self._families[prefix.casefold()][1](rest)
        if ".py:" in name:
            entry = self._from_file(name)
            self._check_parameters(name, entry.function)
            return entry
        if Path(name).suffix == ".py":
            raise ValueError(
                f"{self.kind} {name!r}: expected path/to/file.py:function, got the file alone. Name a "
                "function of it"
            )
        known = self.names
        raise ValueError(did_you_mean(self.kind, name, known, listed=[*known, *self.families]))

    def _in_family(self, name: str) -> bool:
        prefix, colon, _ = name.partition(":")
        return bool(colon) and prefix.casefold() in self._families

    def runs_code(self, name: str) -> bool:
        """Return whether a look-up runs a user's file: never look up such a name from a store or a file."""
        return ".py:" in name and name not in self and not self._in_family(name)

    def __iter__(self) -> Iterator[Entry[Facts]]:
        self._load_plugins()
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        # A name with a colon is of a family or a user's file, and Lethe's own names need no plugin.
        if name.casefold() not in self._names and ":" not in name:
            self._load_plugins()
        return name.casefold() in self._names

    @property
    def families(self) -> list[str]:
        """The families as messages show them: prefix:NAME."""
        return [shown for shown, _ in self._families.values()]

    @property
    def names(self) -> list[str]:
        return sorted((entry.name for entry in self), key=str.casefold)

    def of(self, function: Function) -> Entry[Facts]:
        """Return the entry of a registered function."""
        return next(entry for entry in self._entries.values() if entry.function is function)

    def _load_plugins(self) -> None:
        """Import the plugins, once. One that can't be used is a warning."""
        if self._plugins is None:
            self._plugins = plugins_of(self._group) if self._group else []
        while self._plugins:  # taken out first: a plugin may ask for names while it is imported
            self._load(self._plugins.pop(0))

    def _load(self, plugin: Plugin) -> None:
        entries, names = dict(self._entries), dict(self._names)
        self._loading = plugin
        try:
            self._register_from(plugin)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # of anybody's code: the others still work
            self._entries, self._names = entries, names
            why = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{plugin} is left out: {why}. Update or uninstall the package", stacklevel=2)
        finally:
            self._loading = None

    def _register_from(self, plugin: Plugin) -> None:
        """Import a plugin. Its module registers its functions itself, or the plugin names a function."""
        loaded = plugin.load()
        is_function = inspect.isfunction(loaded)
        if is_function and all(loaded is not entry.function for entry in self._entries.values()):
            self.register(plugin.name)(loaded)
        added = [entry for entry in self._entries.values() if entry.package == plugin.package]
        if not added or not (is_function or inspect.ismodule(loaded)):
            raise ValueError(
                f"expected a function, or a module that registers one, got no {self.kind} from {loaded!r}"
            )
        for entry in added:
            self._check_parameters(entry.name, entry.function)
            hyperparameters_of(entry.function)

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
        if function not in self._of_files:
            name = function.__name__
            self._of_files[function] = Entry(name, checked(name, function), (), self._facts())
        return self._of_files[function]

    def _check_parameters(self, spec: str, function: Function) -> None:
        """Raise ValueError for another number of positional parameters than functions of the kind have."""
        signature = inspect.signature(function)
        of_flags = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        positional = [each for each in signature.parameters.values() if each.kind not in of_flags]
        if self._takes is not None and len(positional) != len(self._takes):
            article, takes = "an" if self.kind[0] in "aeiou" else "a", ", ".join((*self._takes, "*", "flags"))
            raise ValueError(
                f"{spec}: expected {article} {self.kind}, a function of ({takes}){self._returns}, got one of "
                f"{signature}. Name another function, or put a * before its flags"
            )
