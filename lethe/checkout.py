"""In a checkout, `unlearn`, `models` and `evaluation` are folders at the root: the same modules as in lethe.

`from unlearn.impl import METHODS` there gives the registry of `lethe.unlearn.impl`, and not a second one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent  # of a checkout; site-packages of an installed Lethe

# The modules that scripts and users' files imported before version 0.2, and where they are now.
MOVED = {
    "audits": "lethe.audits",
    "base_config": "lethe.experiment.base_config",
    "base_models": "lethe.experiment.base_models",
    "base_recipe": "lethe.experiment.base_recipe",
    "command_line": "lethe.command_line",
    "flag_error": "lethe.flag_error",
    "grids": "lethe.sweeps",
    "measurement": "lethe",
    "model_sets": "lethe.experiment.model_sets",
    "pipeline": "lethe",
    "registry": "lethe.registry",
    "reporter": "lethe.report",
    "run_config": "lethe",
    "signature": "lethe.signature",
    "stored_runs": "lethe.cli.stored_runs",
    "sweep": "lethe.sweeps.sweep",
    "tracking": "lethe.tracking",
    "training": "lethe.training",
    "user_files": "lethe.user_files",
    "vision_data": "lethe.data",
    # At the root of a checkout these are still found; an installed Lethe has them inside.
    "evaluation": "lethe.evaluation",
    "models": "lethe.models",
    "unlearn": "lethe.unlearn",
}


def is_checkout() -> bool:
    """Return whether Lethe runs from a checkout, with the scripts beside it, and not from a package."""
    return (ROOT / "mlflow_forget.py").is_file()


class Moved(ModuleNotFoundError):
    """An import of a module by the name that it had before version 0.2."""

    def __init__(self, name: str) -> None:
        # Perhaps it is a folder of the user's own that isn't on the path.
        missing = f"No module named {name!r}"
        moved = f"Lethe's `{name}` moved in version 0.2: write `from {MOVED[name]} import ...`"
        super().__init__(f"{missing}. {moved}", name=name)


class MovedModules(MetaPathFinder):
    """Raises Moved for an import of these names; whoever asks if there is such a module is told no.

    Last in sys.meta_path: whoever has a module of that name gets it.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in MOVED and _is_imported():
            raise Moved(name)
        return None


def _is_imported() -> bool:
    """Return whether a finder was called by an import, and not by importlib.util.find_spec and its like.

    An import asks the finders in a function of importlib that all imports go through. Where it has another
    name, an old import has Python's own error.
    """
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "_find_spec":
        frame = frame.f_back
    asked_by = frame.f_back
    return asked_by is not None and asked_by.f_code.co_name == "_find_and_load_unlocked"


def alias(name: str) -> None:
    """Make the package that is imported by this name the one in lethe; nothing for that one itself."""
    if name.startswith("lethe."):
        return
    sys.modules[name] = importlib.import_module(f"lethe.{name}")
    # What the package has imported already is not found anew: Python would then write the module into the
    # package, in the place of a function of the same name (lethe.evaluation.evaluate).
    for full, module in list(sys.modules.items()):
        if full.startswith(f"lethe.{name}."):
            sys.modules[full.removeprefix("lethe.")] = module
    if not any(isinstance(finder, _Aliases) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Aliases())


class _Aliases(MetaPathFinder):
    """Finds `unlearn.impl` as `lethe.unlearn.impl`, where `unlearn` is `lethe.unlearn`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        ours = sys.modules.get(f"lethe.{top}")
        if not rest or ours is None or sys.modules.get(top) is not ours:
            return None
        return ModuleSpec(name, _Alias())


class _Alias(Loader):
    """Loads a module by importing it under its name in lethe."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"lethe.{spec.name}")
        self._own_spec: Any = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module was executed before: give back the spec that the import system has just replaced."""
        module.__spec__ = self._own_spec
