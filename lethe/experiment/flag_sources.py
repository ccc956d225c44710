"""The registries and configs that flags are made of: imported, or as they are described in the user's cache.

Their modules import torch, which takes longer than all else that --help or a mistake in a flag needs. So the
names, docstrings and flags of all functions are kept in a file, for the sources that they were read from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from lethe.checkout import ROOT
from lethe.experiment.described_function import described_function, description_of
from lethe.plugins import installed
from lethe.registry import Entry, Registry
from lethe.system.kept_files import keep, read_kept
from lethe.system.user_cache import cache_folder

Parsed = TypeVar("Parsed")

REGISTRIES = ("methods", "add_ons", "architectures", "datasets", "metrics")
CONFIGS = ("run", "base", "reading", "recipe")
FACTS = ("source", "arch")  # those that flags and --help use


class NotDescribedError(Exception):
    """Raised for a name that only its own code can describe: a user's file, or one of a family."""


@dataclass(frozen=True)
class FlagSources:
    """Everything that has flags. listing: what --list says of the methods, and of the metrics."""

    methods: Registry[Any]
    add_ons: Registry[Any]
    architectures: Registry[Any]
    datasets: Registry[Any]
    metrics: Registry[Any]
    run: Entry[Any]
    base: Entry[Any]
    reading: Entry[Any]
    recipe: Entry[Any]
    listing: Callable[[], Sequence[str]]


_described: FlagSources | None = None  # while flags are parsed by their description


def flag_sources() -> FlagSources:
    """Return the sources of flags: those imported, or their description within `described_first`."""
    return imported() if _described is None else _described


def imported() -> FlagSources:
    """Import all registries and configs."""
    from lethe.data import DATASETS, reading
    from lethe.evaluation import METRICS
    from lethe.experiment import base_config, run_config
    from lethe.models import ARCHITECTURES
    from lethe.training import recipe
    from lethe.unlearn import METHODS
    from lethe.unlearn.add_ons import ADD_ONS

    registries = (METHODS, ADD_ONS, ARCHITECTURES, DATASETS, METRICS)
    return FlagSources(
        *registries, run_config.FLAGS, base_config.FLAGS, reading.FLAGS, recipe.FLAGS, _listing
    )


def _listing() -> Sequence[str]:
    from lethe.evaluation import METRICS
    from lethe.report import methods_page, metrics_page
    from lethe.unlearn import METHODS
    from lethe.unlearn.add_ons import ADD_ONS

    return methods_page.listing(METHODS, ADD_ONS), metrics_page.listing(METRICS)


def described_first(parse: Callable[[], Parsed]) -> Parsed:
    """Parse by the description, if there is one, and then by what is imported; return the latter's result.

    --help and mistakes end the first. Without a description, makes it for the next time. Where torch is
    imported already, parses once.
    """
    global _described
    if is_torch_there():
        return parse()
    found = description()
    if found is not None:
        _described = found
        try:
            with contextlib.suppress(NotDescribedError):
                parse()
        finally:
            _described = None
    return parse()


def is_torch_there() -> bool:
    return "torch" in sys.modules


def description() -> FlagSources | None:
    """Return the description of these sources; None where plugins add to them, and after it was made."""
    folder = cache_folder()
    if folder is None or installed():
        return None
    place = hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
    file, digest = folder / f"flags-{place}.json", _digest_of_sources()
    content = read_kept(file)
    if content is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            return _sources_in(json.loads(content), digest)
    with contextlib.suppress(OSError):
        keep(file, json.dumps({"digest": digest} | _as_json(imported())).encode())
    return None


def _digest_of_sources() -> str:
    """Return a digest of all code of Lethe's: what is described depends on nothing else."""
    folders = [ROOT / "lethe"]
    if not (ROOT / "lethe" / "unlearn").is_dir():  # a checkout without links
        folders += [ROOT / "unlearn", ROOT / "models", ROOT / "evaluation"]
    digest = hashlib.sha256(sys.version.encode())
    for folder in folders:
        for file in sorted(_python_files(folder)):
            digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _python_files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place, name) for name in names if name.endswith(".py"))


def _as_json(sources: FlagSources) -> Any:
    return {
        "registries": {name: _described_registry(getattr(sources, name)) for name in REGISTRIES},
        "configs": {name: _described_entry(getattr(sources, name)) for name in CONFIGS},
        "listing": sources.listing(),
    }


def _described_registry(registry: Registry[Any]) -> Any:
    return {
        "kind": registry.kind,
        "families": registry.families,
        "entries": [_described_entry(entry) for entry in registry],
    }


def _described_entry(entry: Entry[Any]) -> Any:
    facts = {name: getattr(entry.facts, name) for name in FACTS if hasattr(entry.facts, name)}
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "facts": facts,
        "function": description_of(entry.function),
    }


class DescribedRegistry(Registry[Any]):
    """The entries of a description."""

    def __getitem__(self, name: str) -> Entry[Any]:
        if name not in self and ":" in name:
            raise NotDescribedError(name)
        return super().__getitem__(name)


def _sources_in(described: Any, digest: str) -> FlagSources:
    """Return what a description says. Raises ValueError for one of other sources."""
    if described["digest"] != digest:
        raise ValueError("expected a description of these sources")
    by_kind: dict[str, Registry[Any]] = {}
    sources: dict[str, Any] = {}
    # An entry's flags may name entries of another registry: those of methods name add-ons.
    for name in sorted(REGISTRIES, key=lambda name: name == "methods"):
        registry = _registry_in(described["registries"][name], by_kind)
        sources[name] = by_kind[registry.kind] = registry
    for name in CONFIGS:
        sources[name] = _entry_in(described["configs"][name], by_kind)
    listing = described["listing"]
    return FlagSources(**sources, listing=lambda: listing)


def _registry_in(described: Any, by_kind: Mapping[str, Registry[Any]]) -> DescribedRegistry:
    registry = DescribedRegistry(described["kind"], SimpleNamespace)
    for shown in described["families"]:
        registry.family(shown.partition(":")[0], shown.partition(":")[2])(registry.__getitem__)
    for entry in described["entries"]:
        function = described_function(entry["function"], by_kind)
        registry.register(entry["name"], *entry["aliases"], **entry["facts"])(function)
    return registry


def _entry_in(described: Any, by_kind: Mapping[str, Registry[Any]]) -> Entry[Any]:
    function = described_function(described["function"], by_kind)
    return Entry(described["name"], function, (), None)
