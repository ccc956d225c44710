"""A function's name, docstring and flags as JSON, and a function with the same ones that computes nothing."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from lethe.registry import Registry
from lethe.signature import Function, Help, Hyperparameter, OneOf, Range, Search, Shown, hyperparameters_of

Json = Any
Registries = Mapping[str, Registry[Any]]  # those that a flag may name an entry of, by kind

PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "Path": Path,
    "None": type(None),
}
NOTES: dict[str, Callable[..., Any]] = {
    "Range": Range,
    "Search": Search,
    "Help": Help,
    "Shown": Shown,
}


def description_of(function: Function) -> Json:
    """Return the function's name, docstring and flags. Raises TypeError for what JSON can't say."""
    flags = hyperparameters_of(function).values()
    return {
        "name": function.__name__,
        "doc": inspect.getdoc(function) or "",
        "flags": [_flag(flag) for flag in flags],
    }


def described_function(description: Json, registries: Registries) -> Function:
    """Return a function with this docstring and these flags, which can't be called."""

    def function(*_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{description['name']} is described alone. Import it")

    flags = {flag["name"]: flag for flag in description["flags"]}
    types_of = {name: _annotated(flag, registries) for name, flag in flags.items()}
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_default(flag), annotation=types_of[name]
        )
        for name, flag in flags.items()
    ]
    function.__name__ = function.__qualname__ = description["name"]
    function.__doc__ = description["doc"]
    function.__annotations__ = types_of
    vars(function)["__signature__"] = inspect.Signature(parameters)
    return function


def _flag(flag: Hyperparameter) -> Json:
    default = {} if flag.required else {"default": _value(flag.default)}
    return {
        "name": flag.name,
        "type": _type(flag.annotation),
        "notes": [_note(note) for note in flag.notes],
        **default,
    }


def _type(annotation: Any) -> Json:
    for name, kind in PLAIN.items():
        if annotation is kind:
            return name
    if get_origin(annotation) is Literal:
        return {"literal": list(get_args(annotation))}
    if get_origin(annotation) is tuple:
        return {"tuple": _type(get_args(annotation)[0])}
    if get_origin(annotation) in (Union, types.UnionType):
        return {"union": [_type(member) for member in get_args(annotation)]}
    raise TypeError(f"expected a type that a flag can have, got {annotation!r}")


def _annotated(flag: Json, registries: Registries) -> Any:
    kind = _type_in(flag["type"])
    for note in flag["notes"]:
        kind = Annotated[kind, _note_in(note, registries)]
    return kind


def _type_in(described: Json) -> Any:
    if isinstance(described, str):
        return PLAIN[described]
    ((form, of),) = described.items()
    if form == "literal":
        return Literal[tuple(of)]
    if form == "tuple":
        return tuple[_type_in(of), ...]  # type: ignore[misc]
    return reduce(or_, [_type_in(member) for member in of])


def _note(note: Any) -> Json:
    if isinstance(note, str):
        return note
    if isinstance(note, OneOf) and isinstance(note.choices, Registry):
        return {"OneOf": note.choices.kind}
    name = type(note).__name__
    if NOTES.get(name) is not type(note) or not is_dataclass(note):
        raise TypeError(f"expected a note of a flag, got {note!r}")
    return {name: [getattr(note, each.name) for each in fields(note)]}


def _note_in(described: Json, registries: Registries) -> Any:
    if isinstance(described, str):
        return described
    ((name, values),) = described.items()
    return OneOf(registries[values]) if name == "OneOf" else NOTES[name](*values)


def _value(value: Any) -> Json:
    """Return a default: JSON has no tuples."""
    return {"tuple": list(value)} if isinstance(value, tuple) else value


def _default(flag: Json) -> Any:
    value = flag.get("default", inspect.Parameter.empty)
    return tuple(value["tuple"]) if isinstance(value, dict) else value
