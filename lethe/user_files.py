"""Users' own Python files, named as path/to/file.py:function: each is run once, and its text is kept."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from lethe.nearest_name import did_you_mean
from lethe.signature import Function
from lethe.system.foreign_files import read_foreign, warn_if_others_write

_PREFIX = "lethe_user_"  # of the modules' names
_CODE = "__lethe_code__"  # a module's variable: the bytes of its file as they were run


def function_from_file(spec: str) -> Function:
    """Return the function that `path/to/file.py:function` names. Raises as `module_of`."""
    path, _, name = spec.rpartition(":")
    module = module_of(path, spec)
    function = getattr(module, name, None)
    if not callable(function):
        functions = inspect.getmembers(module, inspect.isfunction)
        known = [name for name, each in functions if each.__module__ == module.__name__]
        raise ValueError(did_you_mean(f"function of {path}", name, known, f"functions of {path}"))
    return function


def module_of(path: str, spec: str) -> ModuleType:
    """Return the module of a user's file; run the file unless it was run before.

    spec: the name that the user gave, for the error. Raises FileNotFoundError for a missing file, ValueError
    for one that exits, and whatever else the file raises.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"expected path/to/file.py:function, got {spec!r}, and there is no file {path}"
        )
    warn_if_others_write(file)
    name = f"{_PREFIX}{file.stem}_{abs(hash(file.resolve()))}"
    if name not in sys.modules:
        _run(file, path, name)
    return sys.modules[name]


def _run(file: Path, path: str, name: str) -> None:
    """Run a file as the module of that name, which stays in sys.modules unless the file raises."""
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise ValueError(f"{path} can't be imported as Python")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        # The bytes that are kept are those that run: the loader would read the file a second time.
        vars(module)[_CODE] = code = read_foreign(file)
        exec(compile(code, str(file), "exec", dont_inherit=True), vars(module))
    except SystemExit as error:
        del sys.modules[name]
        raise ValueError(
            f"{path} ends the program (exit code {error.code}) when it is imported. Put that under if "
            "__name__ == '__main__'"
        ) from error
    except BaseException:
        del sys.modules[name]
        raise


def is_users(module: str) -> bool:
    """Return whether a module of that name is a user's file."""
    return module.startswith(_PREFIX)


def file_of(function: Function) -> Path | None:
    """Return the user's file that a function came from; None for Lethe's own."""
    module = sys.modules.get(function.__module__)
    return None if module is None or _CODE not in vars(module) else Path(str(module.__file__))


def code_of(function: Function) -> bytes | None:
    """Return the text of a function's user file as it was run; None for Lethe's own."""
    module = sys.modules.get(function.__module__)
    return None if module is None else vars(module).get(_CODE)


def changed_files() -> list[Path]:
    """Return the users' files that were changed or deleted since they were run."""
    modules = [module for name, module in sys.modules.items() if is_users(name)]
    files = [(Path(str(module.__file__)), vars(module).get(_CODE)) for module in modules]
    return [file for file, code in files if not file.is_file() or file.read_bytes() != code]
