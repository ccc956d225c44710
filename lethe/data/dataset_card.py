"""The splits of a dataset card: `configs` in the front matter of README.md, as the hub has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lethe.nearest_name import did_you_mean
from lethe.system.bounded_yaml import NotYaml, read_yaml
from lethe.system.foreign_files import LIST, open_foreign
from lethe.system.system_files import is_system_file

LARGEST = 1 << 20  # bytes of a README's front matter
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def described_splits(name: str, root: Path, asked: str | None = None) -> dict[str, list[str]]:
    """Return the files of each split in root/README.md; {} if it names none.

    asked: the configuration; None takes the default. Raises ValueError for a README that can't be read, for
    several configurations without a default, and for missing files.
    """
    configs = _configs(name, root / "README.md")
    if not configs:
        return {}
    config = _default_of(name, root, configs) if asked is None else _named(name, root, configs, asked)
    return {
        split: _files(name, root, split, patterns)
        for split, patterns in _patterns(name, root, config.get("data_files"))
    }


def with_configuration(place: Path) -> tuple[Path, str | None]:
    """Split PATH/CONFIGURATION, if PATH/README.md has configurations; else return the path and None."""
    is_asked = not place.exists() and bool(_configs(str(place.parent), place.parent / "README.md"))
    return (place.parent, place.name) if is_asked else (place, None)


def _named(name: str, root: Path, configs: list[dict[str, Any]], asked: str) -> dict[str, Any]:
    found = [config for config in configs if str(config.get("config_name")) == asked]
    if len(found) != 1:
        names = [str(config.get("config_name")) for config in configs]
        raise ValueError(
            f"{name}: {did_you_mean('configuration', asked, names)} (of {root / 'README.md'}). Name one of "
            "them"
        )
    return found[0]


def all_end_as(splits: Mapping[str, list[str]], endings: tuple[str, ...]) -> bool:
    """Return whether there are files and all have one of these endings."""
    files = [file for listed in splits.values() for file in listed]
    return bool(files) and all(file.casefold().endswith(endings) for file in files)


def _configs(name: str, readme: Path) -> list[dict[str, Any]]:
    if not readme.is_file():
        return []
    with open_foreign(readme, most=LIST, inside=readme.parent) as file:
        front = FRONT_MATTER.match(file.read(LARGEST).decode(errors="replace"))
    if front is None:
        return []
    try:
        about = read_yaml(front[1])
    except NotYaml as error:
        raise ValueError(
            f"{name}: expected YAML at the top of {readme}, got a mistake: {error}. Correct it, or remove it"
        ) from error
    found = about.get("configs") if isinstance(about, dict) else None
    configs = [config for config in found if isinstance(config, dict)] if isinstance(found, list) else []
    return [config for config in configs if config.get("data_files")]


def _default_of(name: str, root: Path, configs: list[dict[str, Any]]) -> dict[str, Any]:
    if len(configs) == 1:
        return configs[0]
    chosen = [config for config in configs if config.get("default") is True]
    chosen = chosen or [config for config in configs if config.get("config_name") == "default"]
    if len(chosen) != 1:
        names = ", ".join(str(config.get("config_name")) for config in configs)
        first = root / str(configs[0].get("config_name"))
        raise ValueError(
            f"{name}: expected one default configuration in {root / 'README.md'}, got {names}. Name one, "
            f"e.g. hf:{first}"
        )
    return chosen[0]


def _patterns(name: str, root: Path, data_files: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (split, patterns). Patterns without a split belong to train, as in the `datasets` library."""
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    listed = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(one, str) for one in listed):
        listed = [{"split": "train", "path": listed}]
    for one in listed:
        patterns = one.get("path") if isinstance(one, dict) else None
        patterns = patterns if isinstance(patterns, list) else [patterns]
        if not all(isinstance(pattern, str) and pattern for pattern in patterns):
            raise ValueError(
                f"{name}: expected `split` and `path` in the data_files of {root / 'README.md'}, got "
                f"{one!r:.80}. Correct it"
            )
        yield str(one.get("split", "train")), patterns


def _files(name: str, root: Path, split: str, patterns: list[str]) -> list[str]:
    """Return the files in root that match. Raises ValueError for none, and for a pattern that leaves root."""
    found: list[Path] = []
    for pattern in patterns:
        steps = PurePosixPath(pattern)
        if steps.is_absolute() or ".." in steps.parts or "://" in pattern:
            raise ValueError(
                f"{name}: expected files in {root}, got {pattern} for the split {split} in its README.md. "
                "Correct it"
            )
        matching = sorted(root.glob(f"{pattern}/*" if pattern.endswith("**") else pattern))
        found += [
            file
            for file in matching
            if file.is_file() and not any(map(is_system_file, file.relative_to(root).parts))
        ]
    if not found:
        raise ValueError(
            f"{name}: expected {', '.join(patterns)} for the split {split}, as README.md says, and there is "
            f"no such file in {root}. Put it there, or take the split out of README.md"
        )
    return [str(file) for file in dict.fromkeys(found)]
