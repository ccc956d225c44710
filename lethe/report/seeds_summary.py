"""Runs that differ in the seed alone as one group, and the groups of a task ranked by avg_gap."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lethe.evaluation import METRICS, MetricFacts
from lethe.evaluation.over_seeds import OverSeeds, over_seeds
from lethe.models import ARCHITECTURES
from lethe.training.recipe import FLAGS
from lethe.unlearn import METHODS
from lethe.unlearn.add_ons import ADD_ONS, FIRST_FLAGS
from lethe.unlearn.dual_optimizer import LATER_FLAGS

RANKED_BY = "avg_gap"
REFERENCE = "retrain"  # the ideal model itself, which the gap is measured to
DONE = "FINISHED"

# The params of the forget request: its slug, and its words with the names of the classes.
REQUEST, FORGOTTEN = "request", "forget_request"
LONGEST_REQUEST = 200  # characters of the words in a heading

# Params about the making of a run, or that follow from others: runs that differ in these alone are one group.
# Every other param is a setting: two settings taken for one would be averaged in silence.
NO_SETTINGS = {"unlearn", "seed", "mask", "save_dir", "data", "device", "ideal", "experiment"}
NO_SETTINGS |= {"checkpoint_epochs", "metrics", "report", "processes", "threads"}
BASE_MODELS = ("initial_", "ideal_")
OF_A_BASE_MODEL = (
    "model",
    "checkpoint",
    "digest",
    "header_digest",
    "seed",
    "epochs",
    "computed",
    "train_seconds",
)
COUNTS = {f"{name}_count" for name in ("forget", "retain", "topk", "kappa")}  # amounts of images or weights
RECIPE = set(FLAGS.hyperparameters)  # the param `training` has its unusual values
NOT_A_SETTING = {"unlearned_digest", FORGOTTEN} | NO_SETTINGS | COUNTS | RECIPE
NOT_A_SETTING |= {base + name for base in BASE_MODELS for name in OF_A_BASE_MODEL}
UNSAID = {  # the values of params that earlier versions do not log
    "training": "default",
    "unlearn_augment": "none",
    "normalize": "data",
    **dict.fromkeys(("dataset_file", "arch_file", "unlearn_file", *FIRST_FLAGS, *LATER_FLAGS), "None"),
}

REQUEST_DIGEST = "request_digest"  # where the slug has but eight letters of it
CODE = ("unlearn_code", "arch_code", "dataset_code")  # digests of users' files

# The settings of a task, with the architecture's own options; every other setting is the method's.
OF_REQUEST = {"class_to_replace", "num_indexes_to_replace", "forget_indexes", REQUEST_DIGEST}  # as REQUEST
OF_REQUEST |= {"forget_subclass", "forget_where", "forget_scores"}
OF_REQUEST |= {"forget_hardest", "forget_easiest", "forget_typical", "forget_worst"}
ORIGINS = ("_file", "_code", "_package")
OF_TASK = {f"{of}{what}" for of in ("dataset", "arch") for what in ("", *ORIGINS)} | OF_REQUEST
OF_TASK |= {"num_classes", "epochs", "split_seed", "training", REQUEST, "normalize", "image_channels"}
OF_TASK |= {"duplicates", "train_split", "test_split"}

# The setting that tells groups apart where one seed has several initial models.
INITIAL, ONE_EACH, SHORT_DIGEST = "initial_digest", "one a seed", 8

COLUMNS = {  # the literature's UA, RA, TA and MIA, and the metrics that each shows
    column: [entry for entry in METRICS if entry.facts.column == column]
    for column in dict.fromkeys(entry.facts.column for entry in METRICS if entry.facts.column)
}
Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SeedRun:
    """The part of a run of mlflow_forget.py that a summary needs.

    start: ms since 1970. initial: digest of the initial model. forgotten: the forget request in words, with
    the names of the classes. Both are empty if not logged.
    """

    experiment: str
    method: str
    seed: str
    settings: Settings
    status: str
    start: int
    metrics: Mapping[str, float]
    warned: bool = False
    initial: str = ""
    forgotten: str = ""


def without_base(name: str) -> str:
    return name.removeprefix("initial_").removeprefix("ideal_")


def unit_of(name: str) -> str:
    """Return the unit of a column or a metric, also of a base model's metric; empty for one without."""
    own = name if name in METRICS else without_base(name)
    facts = facts_of(own) if own in COLUMNS or own in METRICS else MetricFacts()
    return facts.unit


def facts_of(name: str) -> MetricFacts:
    """Return the facts of a column's first metric, or of the metric of this name."""
    return (COLUMNS[name][0] if name in COLUMNS else METRICS[name]).facts


def column_scores(metrics: Mapping[str, float], base: str = "") -> dict[str, float]:
    """Return UA, RA, TA and MIA of a run, percent. base: "ideal_" for the ideal model beside it."""
    found = {}
    for column, entries in COLUMNS.items():
        # A run that forgot whole classes has both test scores: the last is the one to compare.
        shown = next((entry for entry in reversed(entries) if entry.name in metrics), entries[0])
        if base + shown.name in metrics:
            value = metrics[base + shown.name]
            found[column] = 100 - value if shown.facts.complement else value
    return found


def settings_of(params: Mapping[str, str]) -> Settings:
    """Return the params that decide a run's result, without the method and the seed.

    Every hyperparameter of the method is a setting, whatever its name.
    """
    own = own_names(params.get("unlearn", ""))
    settings = []
    for name, value in {**params, **add_on_defaults(params)}.items():
        if name in FIRST_FLAGS | LATER_FLAGS and value == "None":
            continue
        if name in own or (name not in NOT_A_SETTING and UNSAID.get(name) != value):
            settings.append((name, value))
    return tuple(sorted(settings))


def said(settings: Mapping[str, str], name: str) -> str:
    """Return a setting's value, the first letters of a digest of code, or the meaning of one not logged."""
    value = settings.get(name, UNSAID.get(name, "not logged"))
    return value[:SHORT_DIGEST] if name in CODE and name in settings else value


def add_on_defaults(params: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults of the chosen add-on that an earlier version logged as None, or not at all."""
    method = params.get("unlearn", "")
    add_on = METHODS[method].facts.add_on if method in METHODS.names else None
    add_on = add_on or params.get("addon", "")
    defaults = ADD_ONS[add_on].defaults if add_on in ADD_ONS.names else {}
    unsaid = [name for name in FIRST_FLAGS & defaults.keys() if params.get(name, "None") == "None"]
    return {name: str(defaults[name]) for name in unsaid}


@functools.cache
def own_names(method: str) -> frozenset[str]:
    """Return the hyperparameters of a registered method; none for another."""
    return METHODS[method].possible_flags if method in METHODS.names else frozenset()


def names_of_task(arch: str) -> set[str]:
    """Return the names of a task's settings, with the options of a registered architecture."""
    return OF_TASK | (set(ARCHITECTURES[arch].hyperparameters) if arch in ARCHITECTURES else set())


class Group:
    """The runs of one method with one choice of its settings, on one task. `own`: these settings.

    several_initials: seeds that have runs from other initial models too, which are other groups.
    """

    def __init__(self, method: str, own: Settings, several_initials: Sequence[str] = ()) -> None:
        self.method, self.own, self.several_initials = method, own, several_initials
        self.runs: list[SeedRun] = []

    @cached_property
    def done(self) -> dict[str, SeedRun]:
        """The latest finished run of each seed: the same seed twice is no second sample."""
        return {run.seed: run for run in sorted(self.runs, key=lambda run: run.start) if run.status == DONE}

    @property
    def not_done(self) -> list[str]:
        """Every run that did not finish, as `3 FAILED`, even if the seed was run again."""
        return [
            f"{run.seed} {run.status}"
            for run in sorted(self.runs, key=lambda run: (seed_order(run.seed), run.start))
            if run.status != DONE
        ]

    @property
    def repeated(self) -> list[str]:
        finished = [run.seed for run in self.runs if run.status == DONE]
        return sorted({seed for seed in finished if finished.count(seed) > 1}, key=seed_order)

    @property
    def warned(self) -> list[str]:
        return sorted((seed for seed, run in self.done.items() if run.warned), key=seed_order)

    def missing(self, seeds: Iterable[str]) -> list[str]:
        """Return the seeds without any run."""
        return sorted(set(seeds) - {run.seed for run in self.runs}, key=seed_order)

    def over(self, metric: str) -> OverSeeds | None:
        """Return a metric over the seeds that have it; None if none has."""
        runs = [self.done[seed].metrics for seed in sorted(self.done, key=seed_order)]
        found = [metrics[metric] for metrics in runs if metric in metrics]
        return over_seeds(found, unit_of(metric)) if found else None

    @cached_property
    def gap(self) -> OverSeeds | None:
        return self.over(RANKED_BY)


@dataclass(frozen=True)
class Ranked:
    """A group with its rank (None for the ideal model and without an avg_gap) and its mark.

    mark: "best", "within", "reference" or "".
    """

    group: Group
    rank: int | None
    mark: str


@dataclass(frozen=True)
class Task:
    """One forget request on one model and data set, and its methods, best first.

    seeds: of all of its runs. forgotten: the forget request in words, "class 3 (cat)".
    """

    experiment: str
    settings: Settings
    seeds: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    forgotten: str


def tasks_of(runs: Iterable[SeedRun]) -> list[Task]:
    """Return the runs by task, and there by method and its settings."""
    groups: dict[tuple[str, Settings], dict[tuple[str, Settings], Group]] = {}
    for run in runs:
        task, own = divided(run.settings)
        found = groups.setdefault((run.experiment, task), {})
        found.setdefault((run.method, own), Group(run.method, own)).runs.append(run)
    tasks = []
    for (experiment, task), found in sorted(groups.items(), key=lambda it: it[0]):
        parts = [part for group in found.values() for part in by_initial_model(group)]
        tasks.append(task_of(experiment, task, parts))
    return told_apart(tasks)


def told_apart(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks; where two requests have the same words, "100 images", each gets its slug too."""
    slugs: dict[str, set[str | None]] = {}
    for task in tasks:
        slugs.setdefault(task.forgotten, set()).add(dict(task.settings).get(REQUEST))
    apart = []
    for task in tasks:
        slug = dict(task.settings).get(REQUEST)
        if slug is not None and len(slugs[task.forgotten]) > 1:
            task = replace(task, forgotten=f"{task.forgotten} ({slug})")
        apart.append(task)
    return apart


def by_initial_model(group: Group) -> list[Group]:
    """Divide a group in which a seed has several initial models: a group for each, one for other seeds.

    Another initial model, given as --checkpoint, is another experiment. Nothing says which initial models of
    two seeds belong together.
    """
    initials: dict[str, set[str]] = {}
    for run in group.runs:
        if run.status == DONE and run.initial:
            initials.setdefault(run.seed, set()).add(run.initial)
    several = {seed: own for seed, own in initials.items() if len(own) > 1}
    if not several:
        return [group]
    apart = set().union(*several.values())
    found: dict[str, Group] = {}
    for run in group.runs:
        key = run.initial if run.initial in apart else ""
        if key not in found:
            own = tuple(sorted((*group.own, (INITIAL, key[:SHORT_DIGEST] or ONE_EACH))))
            seeds = sorted((seed for seed, initial in several.items() if key in initial), key=seed_order)
            found[key] = Group(group.method, own, seeds)
        found[key].runs.append(run)
    return list(found.values())


@functools.cache
def divided(settings: Settings) -> tuple[Settings, Settings]:
    """Return the task's settings, and the method's."""
    names = names_of_task(dict(settings).get("arch", ""))
    task = tuple(setting for setting in settings if setting[0] in names)
    return task, tuple(setting for setting in settings if setting[0] not in names)


def task_of(experiment: str, settings: Settings, groups: Sequence[Group]) -> Task:
    runs = [run for group in groups for run in group.runs]
    seeds = sorted({run.seed for run in runs}, key=seed_order)
    return Task(
        experiment, settings, tuple(seeds), tuple(ranking_of(groups)), forgotten_in_words(settings, runs)
    )


def forgotten_in_words(settings: Settings, runs: Sequence[SeedRun]) -> str:
    """Return the forget request as the latest run says it, "class 3 (cat)"; else as its slug does, "class 3".

    A list too long for a heading is left to the slug.
    """
    latest = max(runs, key=lambda run: (bool(run.forgotten), run.start))
    if latest.forgotten and len(latest.forgotten) <= LONGEST_REQUEST:
        return latest.forgotten
    return re.sub(r"^class(?=\d+$)", "class ", dict(settings).get("request", "request"))


def ranking_of(groups: Sequence[Group]) -> list[Ranked]:
    """Rank by the mean of avg_gap over the seeds, smallest first; equal means share a rank.

    best: rank 1. within: a mean inside the best's 95 % interval; this is no test. The ideal model comes
    first, without a rank. Groups without a finite mean over all of their seeds come last.
    """
    by_name = sorted(groups, key=lambda group: (group.method.casefold(), group.own))
    rivals = [(mean_gap(group), group) for group in by_name if group.method != REFERENCE]
    gaps = sorted(((mean, group) for mean, group in rivals if mean is not None), key=lambda it: it[0])
    means = [mean for mean, _ in gaps]
    best = gaps[0][1].gap if gaps else None
    highest = best.interval[1] if best and best.interval else -math.inf
    ranking = [Ranked(group, None, "reference") for group in groups if group.method == REFERENCE]
    for mean, group in gaps:
        rank = means.index(mean) + 1
        mark = "within" if mean <= highest else ""
        ranking.append(Ranked(group, rank, "best" if rank == 1 else mark))
    return ranking + [Ranked(group, None, "") for mean, group in rivals if mean is None]


def mean_gap(group: Group) -> float | None:
    """Return the mean of avg_gap; None if a seed has none: a mean over fewer seeds can't be ranked."""
    return None if group.gap is None or group.gap.n < len(group.done) else group.gap.mean


def seed_order(seed: str) -> tuple[int, int, str]:
    return (0, int(seed), seed) if seed.isdecimal() and seed.isascii() else (1, 0, seed)


def labels_of(task: Task) -> dict[int, str]:
    """Return by a group's id its settings that differ from the method's other groups; see `label_among`."""
    groups = [ranked.group for ranked in task.ranking]
    found = {}
    for group in groups:
        siblings = [other.own for other in groups if other.method == group.method]
        found[id(group)] = label_among(group.own, siblings)
    return found


def label_among(own: Settings, siblings: Sequence[Settings]) -> str:
    """Return the settings that the siblings differ in, as "kappa=0.1 topk=50"; empty for the only one."""
    return " ".join(f"{name}={said(dict(own), name)}" for name in differing(siblings))


def differing(several: Iterable[Settings]) -> list[str]:
    """Return the sorted names of the settings that differ."""
    settings = [dict(one) for one in several]
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def heading_of(task: Task, tasks: Sequence[Task]) -> str:
    """Return the experiment with data, model and request, and the other settings that the tasks differ in."""
    settings = [dict(other.settings) for other in tasks]
    always = ("dataset", "arch", REQUEST)
    own = dict(task.settings)
    others = [
        name for name in differing(other.settings for other in tasks) if name not in OF_REQUEST.union(always)
    ]
    digests = {one.get(REQUEST_DIGEST) for one in settings if one.get(REQUEST) == own.get(REQUEST)}
    if len(digests) > 1:
        others.append(REQUEST_DIGEST)
    words = [f"{name} {said(own | {REQUEST: task.forgotten}, name)}" for name in (*always, *others)]
    return f"{task.experiment}: {', '.join(words)}; seeds {' '.join(task.seeds)}"
