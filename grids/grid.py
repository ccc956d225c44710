"""A grid of settings -> the command of every run, each checked before it is given.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounded_yaml import DEEPEST
from flag_error import FlagError, errors_of
from flag_words import Flags, text_of, words_of
from grids.base_model_jobs import Run, one_config, oracle_seeds
from grids.source_lines import Located, Place, control_character, flag_of_error, read_python, read_yaml
from run_flags import plain_flags

if TYPE_CHECKING:
    from base_config import BaseConfig
    from base_models import BaseModels
    from run_config import PipelineConfig
    from vision_data import RawDataset, Splits

METHODS, EXCLUDE, INCLUDE, METHOD = "methods", "exclude", "include", "unlearn"
MASK = ("mask", "checkpoint")  # one flag
SEVERAL = ("class_to_replace", "seed")
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

    def without(self, names: Sequence[str]) -> Combination:
        return Combination(
            *({name: own[name] for name in own if name not in names} for own in (self.values, self.places))
        )

    def __or__(self, other: Combination) -> Combination:
        return Combination(self.values | other.values, self.places | other.places)

    @property
    def run(self) -> Run:
        several = several_words(self.values)
        given: Flags = {}
        for name, value in self.values.items():
            underscored = name.replace("-", "_")
            if value is not None or underscored not in plain_flags():
                given[name] = value_words(underscored, value, several)
        return Run(tuple(words_of(given)), {name.replace("-", "_"): words for name, words in given.items()})


def jobs_in(grid: str | None) -> list[Run]:
    """Every run of a grid's file; None: of the small grid inside."""
    if grid is None:
        return jobs_of(Located(DEFAULT_GRID, None, {}))
    path = Path(grid)
    return jobs_of(read_python(path) if path.suffix == ".py" else read_yaml(path, "grid"))


def jobs_of(grid: Located) -> list[Run]:
    """Every run, each once, in the order of the grid.

    Raises ValueError, with the grid's line, for what is no grid, for a rule that matches nothing, and for all
    that mlflow_forget.py would
    refuse: unknown names, flags and values, and what can't go together. What depends on images is checked
    where they are
    at hand: without a download, and without decoding them first.
    """
    check_printable(grid, grid.content, ())
    found: dict[tuple[str, ...], Combination] = {}
    for combination in combinations_of(grid):
        found.setdefault(combination.run.words, combination)
    if not found:
        raise grid.error((), "no run is left. Leave out some of `exclude`")
    check(grid, list(found.values()))
    return [combination.run for combination in found.values()]


def combinations_of(grid: Located) -> list[Combination]:
    """All runs: every method on every combination of what is shared, less what is excluded, and what is
    included.
    """
    content = grid.content
    if (
        not isinstance(content, Mapping)
        or not isinstance(content.get(METHODS), Mapping)
        or not content[METHODS]
    ):
        raise grid.error((), "expected a mapping with 'methods: {NAME: {flag: values}}'. See --help")
    shared = {name: value for name, value in content.items() if name not in (METHODS, EXCLUDE, INCLUDE)}
    runs = []
    own_of = {
        method: list(combinations(grid, own or {}, (METHODS, method)))
        for method, own in content[METHODS].items()
    }
    commons = list(combinations(grid, shared, ()))
    check_number(grid, (), len(commons) * sum(map(len, own_of.values())))
    for common in commons:
        for method, own in own_of.items():
            named = Combination({METHOD: method}, {METHOD: (METHODS, method)})
            runs += [named | common.without(list(chosen.values)) | chosen for chosen in own]
    return excluded(grid, runs) + included(grid, shared)


def combinations(grid: Located, values: Any, place: Place) -> Iterator[Combination]:
    """Every combination of the listed values, in their order."""
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
    """ValueError for more runs than anybody waits for, before they are made."""
    if runs > MOST_RUNS:
        raise grid.error(
            place, f"expected at most {MOST_RUNS} runs, got {runs}. Leave out values, or write several grids"
        )


def alternatives(grid: Located, value: Any, place: Place) -> list[Combination]:
    """What one entry of a grid can be: one flag with each of its values, or each of several mappings of
    flags.
    """
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
    """The runs that no rule of `exclude` takes out. ValueError for a rule that takes out none."""
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
    runs = []
    for rule, place in _rules(grid, INCLUDE):
        if METHOD not in rule:
            raise grid.error(place, f"expected 'unlearn: METHOD' and flags, got {rule}. Name a method")
        named = Combination({METHOD: rule[METHOD]}, {METHOD: (*place, METHOD)})
        for chosen in combinations(
            grid, {name: value for name, value in rule.items() if name != METHOD}, place
        ):
            runs += [
                named | common.without(list(chosen.values)) | chosen
                for common in combinations(grid, shared, ())
            ]
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
    """The words after a flag. A list for a flag that takes one word is that word's parts, between commas:
    hidden: [64, 32].
    """
    return [text_of(one) for one in (_listed(value) if name in several else [value])]


def several_words(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the flags that take several words: SEVERAL, and those of the method and add-ons of the values."""
    from unlearn import METHODS as ALL

    try:
        own = ALL[text_of(values.get(METHOD))].choosing(values).hyperparameters
    except (ValueError, FileNotFoundError):  # the run's own checks name the wrong flag
        return frozenset(SEVERAL)
    return frozenset((*SEVERAL, *own))


def check_printable(grid: Located, value: Any, place: Place) -> None:
    """ValueError for a value that has a line's end or another control character in it: a line of a file is a
    command.
    """
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


def check(grid: Located, runs: Sequence[Combination]) -> None:
    """ValueError for the first run that mlflow_forget.py would refuse. Those that differ in the seed alone
    are checked once.
    """
    seen: set[object] = set()
    at_hand = AtHand()
    seed_of: dict[str, str] = {}
    for run in news_first(runs):
        alike = run.without(["seed"]).run.words
        seed = f"seed {run.values.get('seed')}"
        check_run(
            grid, run, at_hand if alike not in seen else None, parse=alike not in seen or seed not in seen
        )
        seen |= {alike, seed}
        mask = next((text_of(run.values[name]) for name in MASK if run.values.get(name) is not None), None)
        if mask is not None and seed_of.setdefault(mask, seed) != seed:
            place = next(run.places[name] for name in ("seed", *MASK) if name in run.places)
            raise grid.error(
                place,
                f"--mask {mask} is one model, and several seeds mean several. Leave out the mask, or give "
                "one seed",
            )


def news_first(runs: Sequence[Combination]) -> list[Combination]:
    """The runs, those first that have a value which no run before them has: a wrong value is found at once."""
    seen: set[tuple[str, str]] = set()
    news: list[Combination] = []
    rest: list[Combination] = []
    for run in runs:
        values = {(name, text_of(value)) for name, value in run.values.items()}
        (rest if values <= seen else news).append(run)
        seen |= values
    return news + rest


def check_run(grid: Located, run: Combination, at_hand: AtHand | None, *, parse: bool = True) -> None:
    """ValueError, with the grid's line, for what mlflow_forget.py would refuse; at_hand None: all but what
    depends on images.

    parse: whether the flags were not looked at before, each with its value.
    """
    try:
        if parse:
            config = config_of(run)
            if at_hand is not None:
                _check_on_images(config, at_hand)
        oracle_seeds(run.run)  # which depend on the seed too
    except (ValueError, FileNotFoundError) as error:
        place = run.places[flag_of_error(error, run.places) or METHOD]
        raise grid.error(place, f"{error} (in {shlex.join(run.run.words)})") from error


def config_of(run: Combination) -> PipelineConfig:
    """The run's config. Raises for what is no flag or value of one run."""
    return one_config(run.run.words, "grid")


class AtHand:
    """The base models of a grid's runs, untrained, on the images that can be read at once; each dataset is
    read once.
    """

    def __init__(self) -> None:
        self.read: dict[tuple[str, str, tuple[tuple[str, Any], ...]], RawDataset | None] = {}
        self.made: list[BaseModels] = []

    def base(self, config: BaseConfig) -> BaseModels | None:
        """None where the images are not here, or a person's own code makes them. Raises ValueError as
        BaseModels.
        """
        from base_models import BaseModels

        found = next((base for base in self.made if base.asked == config), None)
        if found is None:
            with errors_of("dataset"):
                splits = self._splits(config)
            if splits is not None:
                found = BaseModels(config, splits=splits)
                self.made.append(found)
        return found

    def _splits(self, config: BaseConfig) -> Splits | None:
        from sweep import same_splits
        from vision_data import DATASETS, split
        from vision_data.at_hand import only_at_hand
        from vision_data.impl import read

        dataset = DATASETS[config.dataset]
        key = (config.dataset, str(config.data), tuple(sorted(config.reading.items())))
        known = same_splits(self.made, config)
        if known is not None or dataset.file is not None:
            return known
        if key not in self.read:
            try:
                with only_at_hand():
                    self.read[key] = read(config.dataset, config.data, config.reading)
            except FileNotFoundError:
                self.read[key] = None
        raw = self.read[key]
        return None if raw is None else split(raw, dataset.name, config.split_seed)


def _check_on_images(config: PipelineConfig, at_hand: AtHand) -> None:
    """As the run itself will, before it begins, where the images are at hand; on any device, as another
    machine may run it.
    """
    from pipeline import Pipeline
    from unlearn import METHODS as ALL

    method = ALL[config.unlearn]
    if config.ideal == "skip" and "ideal" in method.facts.needs:
        raise FlagError("ideal", f"{method.name} needs the ideal model, got skip. Leave the flag out")
    if config.base.device.startswith("cuda"):
        config = replace(config, base=replace(config.base, device="cpu"))
    base = at_hand.base(config.base)
    if base is not None:
        try:
            Pipeline(config, base=base)
        except FileNotFoundError:
            if "oracles" not in method.facts.needs:  # which are made before it is run
                raise
