"""A grid of flags and values: the runs that it means, each checked before any is returned.

dataset: digits                       a value, or a list of values, for each shared flag
class_to_replace: [0, 1, [3, 5]]      a list in the list is one value of several words
seed: [1, 2, 3]
models:                               a list of mappings, under any name: flags that go together
  - {arch: mlp, hidden: ["128,64", "64,32"]}
  - {arch: mlp, epochs: 50}
methods:
  MIMU: {topk: 50, kappa: [0.05, 0.1]}
  SFT: {sft_mode: finetune_retain, seed: 1}      a shared flag here counts instead of the grid's own
  default:
exclude:                              no run that has all of these values (of a list: one of them)
  - {unlearn: MIMU, class_to_replace: 1, kappa: [0.1]}
include:                              more runs; the grid's shared flags hold where nothing else is said
  - {unlearn: SSD, seed: 9}

A value of null leaves a flag out; of a hyperparameter it is `none`.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.experiment.run_flags import plain_flags
from lethe.flag_error import FlagError, errors_of
from lethe.flag_words import Flags, text_of, words_of
from lethe.sweeps.base_model_jobs import Run, one_config, oracle_seeds
from lethe.sweeps.source_lines import Located, Place, control_character, flag_of_error, read_python, read_yaml
from lethe.system.bounded_yaml import DEEPEST
from lethe.system.device import check_device_name

if TYPE_CHECKING:
    from lethe.data import RawDataset, Splits
    from lethe.experiment.base_config import BaseConfig
    from lethe.experiment.base_models import BaseModels
    from lethe.experiment.run_config import PipelineConfig

METHODS, EXCLUDE, INCLUDE, METHOD = "methods", "exclude", "include", "unlearn"
SEVERAL = ("class_to_replace", "forget_subclass", "seed")
MOST_RUNS = 100_000

DEFAULT_GRID: dict[str, Any] = {
    "dataset": "digits",
    "class_to_replace": [0, 1, 2],
    "seed": [1, 2],
    "methods": {
        "MIMU": {"topk": 50, "kappa": [0.05, 0.1]},
        "SFT": {"sft_mode": ["randomize_forget", "randomize_forget_and_finetune_retain"]},
        "logit_attribution": {"kappa": [0.05, 0.1]},
        "random_mask": {"kappa": 0.1},
        "default": {},
    },
}

Setting = dict[str, Any]


@dataclass(frozen=True)
class Combination:
    """The flags of one run with their values, and the place in the grid of each."""

    values: Setting
    places: dict[str, Place]

    def without(self, names: Collection[str]) -> Combination:
        values = {name: value for name, value in self.values.items() if name not in names}
        return Combination(values, {name: self.places[name] for name in values})

    def __or__(self, other: Combination) -> Combination:
        return Combination(self.values | other.values, self.places | other.places)

    @cached_property
    def flags(self) -> Flags:
        several = several_words(self.values)
        given: Flags = {}
        for name, value in self.values.items():
            underscored = name.replace("-", "_")
            if value is not None or underscored not in plain_flags():
                given[name] = value_words(underscored, value, several)
        return given

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(words_of(self.flags))


def runs_in(grid: str | None) -> list[Run]:
    """Return every run of a grid's file; None: of the small grid inside."""
    if grid is None:
        return runs_of(Located(DEFAULT_GRID, None, {}))
    path = Path(grid)
    return runs_of(read_python(path) if path.suffix == ".py" else read_yaml(path, "grid"))


def runs_of(grid: Located) -> list[Run]:
    """Return every run, each once, in the order of the grid.

    Raises ValueError, with the grid's line, for what is no grid, for a rule that matches nothing, and for
    every flag or value that mlflow_forget.py refuses. Checks that need images are made where the images can
    be read without a download, and without decoding them first.
    """
    check_printable(grid, grid.content, ())
    found: dict[tuple[str, ...], Combination] = {}
    for combination in combinations_of(grid):
        found.setdefault(combination.words, combination)
    if not found:
        raise grid.error((), "no run is left. Leave out some of `exclude`")
    checks = Checks(grid)
    runs = {one.words: checks.run_of(one) for one in new_values_first(list(found.values()))}
    return [runs[words] for words in found]


def combinations_of(grid: Located) -> list[Combination]:
    """Return every method with every combination of shared flags, less `exclude`, plus `include`."""
    content = grid.content
    methods = content.get(METHODS) if isinstance(content, Mapping) else None
    if not isinstance(methods, Mapping) or not methods:
        raise grid.error((), "expected a mapping with 'methods: {NAME: {flag: values}}'. See --help")
    shared = {name: value for name, value in content.items() if name not in (METHODS, EXCLUDE, INCLUDE)}
    own_of = {name: list(combinations(grid, own or {}, (METHODS, name))) for name, own in methods.items()}
    commons = list(combinations(grid, shared, ()))
    check_number(grid, (), len(commons) * sum(map(len, own_of.values())))
    runs = []
    for common in commons:
        for method, own in own_of.items():
            named = Combination({METHOD: method}, {METHOD: (METHODS, method)})
            runs += [named | common.without(chosen.values) | chosen for chosen in own]
    return excluded(grid, runs) + included(grid, shared)


def combinations(grid: Located, values: Any, place: Place) -> Iterator[Combination]:
    """Yield every combination of the listed values, in their order."""
    if not isinstance(values, Mapping):
        raise grid.error(
            place, f"expected flags and their values, got {values!r:.80}. Write e.g. {{kappa: [0.05, 0.1]}}"
        )
    axes = [alternatives(grid, value, (*place, str(name))) for name, value in values.items()]
    check_number(grid, place, math.prod(map(len, axes)))
    for chosen in itertools.product(*axes):
        whole = Combination({}, {})
        for part in chosen:
            whole |= part
        yield whole


def check_number(grid: Located, place: Place, runs: int) -> None:
    """Raise ValueError for too many runs, before they are made."""
    if runs > MOST_RUNS:
        raise grid.error(
            place, f"expected at most {MOST_RUNS} runs, got {runs}. Leave out values, or write several grids"
        )


def alternatives(grid: Located, value: Any, place: Place) -> list[Combination]:
    """Return the choices of one entry of a grid: a flag with each of its values, or each mapping of flags."""
    items = _listed(value)
    if not items:
        raise grid.error(
            place, f"expected a value or a list of values for {place[-1]}, got an empty list. Leave it out"
        )
    places = [(*place, number) if items is value else place for number in range(len(items))]
    if any(isinstance(item, Mapping) for item in items):
        return [
            one for item, where in zip(items, places, strict=True) for one in combinations(grid, item, where)
        ]
    return [
        Combination({str(place[-1]): item}, {str(place[-1]): where})
        for item, where in zip(items, places, strict=True)
    ]


def excluded(grid: Located, runs: list[Combination]) -> list[Combination]:
    """Return the runs that no rule of `exclude` matches. Raises ValueError for a rule that matches none."""
    for rule, place in _rules(grid, EXCLUDE):
        kept = [run for run in runs if not _meets(run.values, rule)]
        if len(kept) == len(runs):
            raise grid.error(
                place, f"this excludes no run: {rule!s:.80}. Correct its flags and values, or leave it out"
            )
        runs = kept
    return runs


def _meets(values: Setting, rule: Setting) -> bool:
    return all(name in values and _is_one_of(values[name], wanted) for name, wanted in rule.items())


def _is_one_of(value: Any, wanted: Any) -> bool:
    spelled = [text_of(one).casefold() for one in _listed(wanted)]
    return text_of(value).casefold() in spelled or value == wanted


def included(grid: Located, shared: Setting) -> list[Combination]:
    """Return the runs of `include`, with the shared flags that they do not have themselves."""
    runs = []
    for rule, place in _rules(grid, INCLUDE):
        if METHOD not in rule:
            raise grid.error(place, f"expected 'unlearn: METHOD' and flags, got {rule}. Name a method")
        named = Combination({METHOD: rule.pop(METHOD)}, {METHOD: (*place, METHOD)})
        for chosen in combinations(grid, rule, place):
            commons = combinations(grid, shared, ())
            runs += [named | common.without(chosen.values) | chosen for common in commons]
    return runs


def _rules(grid: Located, key: str) -> Iterator[tuple[Setting, Place]]:
    rules = grid.content.get(key) or []
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) and rule for rule in rules):
        raise grid.error(
            (key,),
            f"expected a list of mappings of flags to values, got {rules!r:.80}. Write e.g. '- "
            f"{{unlearn: MIMU, seed: 1}}'",
        )
    for number, rule in enumerate(rules):
        yield dict(rule), (key, number)


def value_words(name: str, value: Any, several: Collection[str]) -> list[str]:
    """Return the words after a flag. For a flag of one word, a list is joined by commas: hidden: [64, 32]."""
    return [text_of(one) for one in (_listed(value) if name in several else [value])]


def several_words(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the flags that take several words: SEVERAL, and those of the method and its add-ons."""
    from lethe.unlearn import METHODS as ALL

    try:
        own = ALL[text_of(values.get(METHOD))].choosing(values).hyperparameters
    except (ValueError, FileNotFoundError):  # the run's own checks name the wrong flag
        return frozenset(SEVERAL)
    return frozenset((*SEVERAL, *own))


def check_printable(grid: Located, value: Any, place: Place) -> None:
    """Raise ValueError for a value with a line break or another control character: a line is a command."""
    if len(place) > DEEPEST:
        raise grid.error(
            place[:1], f"expected at most {DEEPEST} nested lists and mappings, got more. Write fewer"
        )
    if isinstance(value, Mapping):
        for key, one in value.items():
            check_printable(grid, str(key), (*place, str(key)))
            check_printable(grid, one, (*place, str(key)))
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            check_printable(grid, one, (*place, number))
    elif isinstance(value, str):
        bad = control_character(value)
        if bad is not None:
            raise grid.error(
                place,
                f"expected a value of one line, got {value!r:.80} with the control character {bad!r}. Leave "
                "it out",
            )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple | range) else [value]


def new_values_first(runs: Sequence[Combination]) -> list[Combination]:
    """Put runs with a value that no run before has first, so that a wrong value is found at once."""
    seen: set[tuple[str, str]] = set()
    first: list[Combination] = []
    rest: list[Combination] = []
    for run in runs:
        values = {(name, text_of(value)) for name, value in run.values.items()}
        (rest if values <= seen else first).append(run)
        seen |= values
    return first + rest


class Checks:
    """The checks of a grid's runs. Runs that differ in the seed alone are parsed and checked once."""

    def __init__(self, grid: Located) -> None:
        self.grid = grid
        self.at_hand = AtHand()
        self.configs: dict[tuple[str, ...], PipelineConfig] = {}  # by the words without the seed
        self.seeds: dict[str, int] = {}  # by the word of the seed
        self.seed_of_mask: dict[str, int] = {}

    def run_of(self, combination: Combination) -> Run:
        """Return the run. Raises ValueError, with the grid's line, for what mlflow_forget.py refuses."""
        try:
            config = self._config_of(combination)
            oracle_seeds(config)  # which depend on the seed too
            self._check_mask(config)
        except (ValueError, FileNotFoundError) as error:
            place = combination.places[flag_of_error(error, combination.places) or METHOD]
            raise self.grid.error(place, f"{error} (in {shlex.join(combination.words)})") from error
        flags = {name.replace("-", "_"): words for name, words in combination.flags.items()}
        return Run(combination.words, flags, config)

    def _config_of(self, combination: Combination) -> PipelineConfig:
        alike = combination.without(["seed"]).words
        seed = text_of(combination.values.get("seed"))
        known = self.configs.get(alike)
        if known is not None and seed in self.seeds:
            return replace(known, base=replace(known.base, seed=self.seeds[seed]))
        config = one_config(combination.words, "grid")
        if known is None:
            self.at_hand.check(config)
        self.configs[alike], self.seeds[seed] = config, config.base.seed
        return config

    def _check_mask(self, config: PipelineConfig) -> None:
        mask, seed = str(config.base.mask), config.base.seed
        if config.base.mask is not None and self.seed_of_mask.setdefault(mask, seed) != seed:
            message = f"--mask {mask} is one model, and several seeds mean several"
            raise FlagError("seed", f"{message}. Leave out the mask, or give one seed", named=False)


class AtHand:
    """Checks configs on the images that can be read at once. Each dataset is read once."""

    def __init__(self) -> None:
        self.read: dict[tuple[str, str, tuple[tuple[str, Any], ...]], RawDataset | None] = {}
        self.made: list[BaseModels] = []

    def check(self, config: PipelineConfig) -> None:
        """Raise ValueError for what the run would refuse before it begins, on any device."""
        from lethe.experiment.pipeline import Pipeline
        from lethe.unlearn import METHODS as ALL

        method = ALL[config.unlearn]
        if config.ideal == "skip" and "ideal" in method.facts.needs:
            raise FlagError("ideal", f"{method.name} needs the ideal model, got skip. Leave the flag out")
        check_device_name(config.base.device)  # of the machine that will run it
        config = replace(config, base=replace(config.base, device="cpu"))
        base = self._base(config.base)
        if base is None:
            return
        try:
            Pipeline(config, base=base)
        except FileNotFoundError:
            if "oracles" not in method.facts.needs:  # oracles are trained before the run
                raise

    def _base(self, config: BaseConfig) -> BaseModels | None:
        """Return the base models, untrained; None if the images are not here or a user's code makes them."""
        from lethe.experiment.base_models import BaseModels

        found = next((base for base in self.made if base.asked == config), None)
        if found is None:
            with errors_of("dataset"):
                splits = self._splits(config)
            if splits is not None:
                found = BaseModels(config, splits=splits)
                self.made.append(found)
        return found

    def _splits(self, config: BaseConfig) -> Splits | None:
        from lethe.data import DATASETS, split
        from lethe.data.at_hand import only_at_hand
        from lethe.data.impl import read
        from lethe.sweeps.sweep import same_splits

        dataset = DATASETS[config.dataset]
        key = (config.dataset, str(config.data), tuple(sorted(config.reading.items())))
        known = same_splits(self.made, config)
        if known is not None or not dataset.own:
            return known
        if key not in self.read:
            try:
                with only_at_hand():
                    self.read[key] = read(config.dataset, config.data, config.reading)
            except FileNotFoundError:
                self.read[key] = None
        raw = self.read[key]
        return None if raw is None else split(raw, dataset.name, config.split_seed)
