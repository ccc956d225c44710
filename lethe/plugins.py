"""Plugins: functions that other installed packages add to the registries, by entry points."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lethe.nearest_name import did_you_mean
from lethe.user_files import is_users

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

LETHE = __name__.partition(".")[0]
GROUPS = ("methods", "add_ons", "metrics", "architectures", "datasets", "readers")


@dataclass(frozen=True)
class Plugin:
    """An entry point of a group such as lethe.methods.

    package: its package with the version, as pip takes it: "lethe-uniform==0.1.0".
    """

    package: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        entry = self.entry_point
        return f"plugin {entry.name} = {entry.value} of {self.package} ({entry.group})"

    @property
    def name(self) -> str:
        return self.entry_point.name

    @property
    def top(self) -> str:
        """The first name of its module, which other functions of the package share."""
        return self.entry_point.value.partition(":")[0].partition(".")[0].strip()

    def load(self) -> Any:
        """Import the module of the plugin, and return what it names: the module or something in it."""
        return self.entry_point.load()


@functools.cache
def installed() -> tuple[Plugin, ...]:
    """Return the plugins of all installed packages, in the order of package and name.

    Reads the metadata of all packages, without importing any. Metadata that can't be read are a warning.
    """
    try:
        found = _found()
    except Exception as error:  # noqa: BLE001  # of the metadata of any package: Lethe works without plugins
        why = f"{type(error).__name__}: {error}"
        warnings.warn(f"plugins can't be looked for: {why}. Reinstall the package", stacklevel=2)
        found = []
    return tuple(sorted(found, key=lambda plugin: (plugin.package, plugin.name)))


def _found() -> list[Plugin]:
    from importlib.metadata import entry_points

    everything = entry_points()
    found = []
    for group in GROUPS:
        for entry in everything.select(group=f"{LETHE}.{group}"):
            of = entry.dist
            package = "an unknown package" if of is None else f"{of.name}=={of.version}"
            found.append(Plugin(package, entry))
    known = [f"{LETHE}.{group}" for group in GROUPS]
    for group in sorted(everything.groups):
        if group.startswith(f"{LETHE}.") and group not in known:
            _warn_of_unread(group, everything.select(group=group), known)
    return found


def _warn_of_unread(group: str, entries: Iterable[EntryPoint], known: list[str]) -> None:
    """Name the packages whose entry points are in a group such as lethe.method, which nobody reads."""
    packages = {entry.dist.name for entry in entries if entry.dist is not None}
    unread = f"entry points of {', '.join(sorted(packages)) or 'an unknown package'} are left out"
    warnings.warn(f"{unread}: {did_you_mean('group', group, known)}", stacklevel=2)


def plugins_of(group: str) -> list[Plugin]:
    """Return the plugins of a group such as "lethe.methods"."""
    return [plugin for plugin in installed() if plugin.entry_point.group == group]


def package_of(module: str) -> str:
    """Return the package, with its version, of a plugin's module; "" for any other module."""
    top = module.partition(".")[0]
    if top == LETHE or is_users(module):
        return ""
    return next((plugin.package for plugin in installed() if plugin.top == top), "")
