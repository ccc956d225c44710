"""Runs that differ in the seed alone as one line: what they come to, which seeds are not in it, and who is
nearest to the ideal.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evaluation import METRICS, MetricFacts
from evaluation.over_seeds import OverSeeds, over_seeds
from models import ARCHITECTURES
from training.recipe import FLAGS
from unlearn import METHODS

RANKED_BY = "avg_gap"
REFERENCE = "retrain"  # the ideal model itself, which the gap is measured to
DONE = "FINISHED"

# The params of the forget request: its slug, and its words with the names of the classes.
REQUEST, FORGOTTEN = "request", "forget_request"
LONGEST_REQUEST = 200  # characters of the words in a heading

# Params that say where and how a run was made, or follow from others: runs that differ in these alone are of
# one group. Every one is
# named: what is in no list is a setting, for two settings that pass for one are averaged in silence, and one
# that passes for two is seen.
NO_SETTINGS = {
    "unlearn",
    "seed",
    "mask",
    "save_dir",
    "data",
    "device",
    "ideal",
    "experiment",
    "checkpoint_epochs",
    "metrics",
    "report",
}
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
COUNTS = {
    f"{name}_count" for name in ("forget", "retain", "topk", "kappa")
}  # what an amount comes to, of images or of weights
RECIPE = set(FLAGS.hyperparameters)  # `training` says what of it is unusual
NOT_A_SETTING = (
    {"unlearned_digest"}
    | {FORGOTTEN}
    | NO_SETTINGS
    | COUNTS
    | RECIPE
    | {f"{base}_{name}" for base in ("initial", "ideal") for name in OF_A_BASE_MODEL}
)
UNSAID = {  # what a run means that does not log it, as earlier ones
    "training": "default",
    "unlearn_augment": "none",
    "normalize": "data",
    **dict.fromkeys(("dataset_file", "arch_file", "unlearn_file"), "None"),
}

REQUEST_DIGEST = "request_digest"  # where the slug has but eight letters of it
CODE = ("unlearn_code", "arch_code", "dataset_code")  # digests of users' files

# What a method is set before, with the architecture's own options; every other setting is the method's.
OF_TASK = {
    "dataset",
    "dataset_file",
    "dataset_code",
    "arch",
    "arch_file",
    "arch_code",
    "num_classes",
    "epochs",
    "split_seed",
    "training",
}
OF_TASK |= {"request", "normalize", "image_channels", "duplicates", "train_split", "test_split"}
OF_REQUEST = {
    "class_to_replace",
    "num_indexes_to_replace",
    "forget_indexes",
    REQUEST_DIGEST,
}  # what "request" says in a word
OF_TASK |= OF_REQUEST

# The setting that tells groups apart where one seed has several initial models.
INITIAL, ONE_EACH, SHORT_DIGEST = "initial_digest", "one a seed", 8

COLUMNS = {  # the literature's UA, RA, TA and MIA, and the metrics that each shows
    column: [entry for entry in METRICS if entry.facts.column == column]
    for column in dict.fromkeys(entry.facts.column for entry in METRICS if entry.facts.column)
}
BASE_MODELS = ("initial_", "ideal_")

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
    """What decides a run's result, but for the method and the seed. A hyperparameter of the method is a
    setting, whatever its name.
    """
    own = own_names(params.get("unlearn", ""))
    return tuple(
        sorted(
            (name, value)
            for name, value in params.items()
            if name in own or (name not in NOT_A_SETTING and UNSAID.get(name) != value)
        )
    )


def said(settings: Mapping[str, str], name: str) -> str:
    """A setting's value, of a digest of code a few letters; where a run does not log it, what it means by
    that.
    """
    value = settings.get(name, UNSAID.get(name, "not logged"))
    return value[:SHORT_DIGEST] if name in CODE and name in settings else value


@functools.cache
def own_names(method: str) -> frozenset[str]:
    """The hyperparameters of a method that is registered; none for another, whose settings are told by what
    they are not.
    """
    return METHODS[method].possible_flags if method in METHODS.names else frozenset()


def names_of_task(arch: str) -> set[str]:
    """The settings of a task, with the options of its architecture, if that is registered."""
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
        """The finished run of each seed; the latest, if there are several: the same seed twice is no second
        sample.
        """
        return {run.seed: run for run in sorted(self.runs, key=lambda run: run.start) if run.status == DONE}

    @property
    def not_done(self) -> list[str]:
        """Every run that did not finish, as `3 FAILED`; also where the seed was run again."""
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
        """Those of the seeds of which there is no run at all."""
        return sorted(set(seeds) - {run.seed for run in self.runs}, key=seed_order)

    def over(self, metric: str) -> OverSeeds | None:
        """A metric over the seeds that have it; None if none has."""
        found = [
            self.done[seed].metrics[metric]
            for seed in sorted(self.done, key=seed_order)
            if metric in self.done[seed].metrics
        ]
        return over_seeds(found, unit_of(metric)) if found else None

    @cached_property
    def gap(self) -> OverSeeds | None:
        return self.over(RANKED_BY)


@dataclass(frozen=True)
class Ranked:
    """A group with its rank (None without a gap to rank by, and for the ideal model) and its mark: best,
    within, reference or none.
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
    """The runs by what they were set before, and there by method and its settings."""
    groups: dict[tuple[str, Settings], dict[tuple[str, Settings], Group]] = {}
    for run in runs:
        task, own = divided(run.settings)
        found = groups.setdefault((run.experiment, task), {})
        found.setdefault((run.method, own), Group(run.method, own)).runs.append(run)
    return [
        task_of(experiment, task, [part for group in found.values() for part in by_initial_model(group)])
        for (experiment, task), found in sorted(groups.items(), key=lambda it: it[0])
    ]


def by_initial_model(group: Group) -> list[Group]:
    """The group; where one seed of it was run from several initial models, one for each of these, and one for
    the seeds that have one.

    A seed is repeated by the same model alone: another one, given as --checkpoint, is another experiment.
    Which initial models of two seeds belong together can't be told, so that each stands for itself.
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
        name = run.initial[:SHORT_DIGEST] if run.initial in apart else ONE_EACH
        seeds = sorted((seed for seed, own in several.items() if run.initial in own), key=seed_order)
        own = tuple(sorted((*group.own, (INITIAL, name))))
        found.setdefault(
            run.initial if run.initial in apart else "", Group(group.method, own, seeds)
        ).runs.append(run)
    return list(found.values())


@functools.cache
def divided(settings: Settings) -> tuple[Settings, Settings]:
    """The task's settings, and the method's."""
    names = names_of_task(dict(settings).get("arch", ""))
    return tuple(it for it in settings if it[0] in names), tuple(it for it in settings if it[0] not in names)


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
    """By the mean of avg_gap over the seeds, smallest first; equal means share a rank.

    best: rank 1. within: a mean inside the best's 95 % interval, which is all that a glance can say: it is no
    test. The ideal model comes first without a rank, what has no finite mean over all its seeds last.
    """
    ranked = sorted(
        (group for group in groups if mean_gap(group) is not None and group.method != REFERENCE), key=by_gap
    )
    means = [mean_gap(group) for group in ranked]
    highest = ranked[0].gap.interval[1] if ranked and ranked[0].gap and ranked[0].gap.interval else -math.inf
    marks = [
        "best" if mean == means[0] else "within" if mean is not None and mean <= highest else ""
        for mean in means
    ]
    reference = [Ranked(group, None, "reference") for group in groups if group.method == REFERENCE]
    others = [
        Ranked(group, None, "") for group in groups if mean_gap(group) is None and group.method != REFERENCE
    ]
    placed = [
        Ranked(group, means.index(mean) + 1, mark)
        for group, mean, mark in zip(ranked, means, marks, strict=True)
    ]
    return reference + placed + sorted(others, key=lambda it: (it.group.method.casefold(), it.group.own))


def mean_gap(group: Group) -> float | None:
    """None where a seed has no avg_gap, as where its attack is undecided: a mean over other seeds can't be
    ranked beside means over all.
    """
    return None if group.gap is None or group.gap.n < len(group.done) else group.gap.mean


def by_gap(group: Group) -> tuple[float, str, Settings]:
    return mean_gap(group) or 0.0, group.method.casefold(), group.own


def seed_order(seed: str) -> tuple[int, int, str]:
    return (0, int(seed), seed) if seed.isdecimal() and seed.isascii() else (1, 0, seed)


def labels_of(task: Task) -> dict[int, str]:
    """By a group's id: what its settings differ in from the method's other groups, as `kappa=0.1 topk=50`;
    empty for the only one.
    """
    found = {}
    for ranked in task.ranking:
        siblings = [
            dict(other.group.own) for other in task.ranking if other.group.method == ranked.group.method
        ]
        names = sorted(
            {name for own in siblings for name in own if len({other.get(name) for other in siblings}) > 1}
        )
        own = dict(ranked.group.own)
        found[id(ranked.group)] = " ".join(f"{name}={said(own, name)}" for name in names)
    return found


def heading_of(task: Task, tasks: Sequence[Task]) -> str:
    """The experiment with data, model and request, and what else the tasks differ in."""
    settings = [dict(other.settings) for other in tasks]
    differing = sorted(
        {name for one in settings for name in one if len({other.get(name) for other in settings}) > 1}
    )
    always = ("dataset", "arch", "request")
    own = dict(task.settings)
    others = [name for name in differing if name not in OF_REQUEST.union(always)]
    of_one_name = {one.get(REQUEST_DIGEST) for one in settings if one.get("request") == own.get("request")}
    others += [REQUEST_DIGEST] if len(of_one_name) > 1 else []
    words = [f"{name} {said(own | {REQUEST: task.forgotten}, name)}" for name in (*always, *others)]
    return f"{task.experiment}: {', '.join(words)}; seeds {' '.join(task.seeds)}"
