"""Runs side by side as numbers: who forgets at what price, what kappa does, who is near the ideal model in
what time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from evaluation import METRICS
from evaluation.gap import mean_gap
from evaluation.over_seeds import OverSeeds, over_seeds
from reporter.markdown import capital
from reporter.pareto import pareto_front
from reporter.seeds_summary import (
    BASE_MODELS,
    FORGOTTEN,
    INITIAL,
    RANKED_BY,
    REFERENCE,
    Group,
    SeedRun,
    Settings,
    Task,
    labels_of,
    names_of_task,
    own_names,
    said,
    seed_order,
    unit_of,
    without_base,
)
from reporter.seeds_tables import SECONDS, shown_metrics
from training.storage import shortened

KAPPA, KAPPA_COUNT = "kappa", "kappa_count"
IDEAL_SECONDS = "ideal_seconds"
LONGEST_SLUG = 100  # bytes of what is said of a task in the names of its files
WHOLE_CLASS, PART = "whole classes", "a part"  # of what was trained on

OF_EVERY_METHOD = {
    "unlearn",
    "unlearn_file",
    "unlearn_code",
    "seed",
    FORGOTTEN,
    INITIAL,
    KAPPA_COUNT,
}  # params, beside OF_TASK

Value = TypeVar("Value")


def compared_metrics(metrics: Mapping[str, float], params: Mapping[str, str]) -> dict[str, float]:
    """What a comparison needs of a run's numbers: its own, those of the initial and the ideal model, how many
    weights were switched off.
    """
    of_base = {
        name: value
        for name, value in metrics.items()
        if name.startswith(BASE_MODELS) and without_base(name) in METRICS
    }
    count = params.get(KAPPA_COUNT, "")
    masked = {KAPPA_COUNT: float(count)} if count.isdecimal() else {}
    return shown_metrics(metrics) | of_base | masked


@functools.cache
def compared_names() -> frozenset[str]:
    """The metrics that `compared_metrics` keeps."""
    own = [name for name in METRICS.names if without_base(name) == name]
    return frozenset([*METRICS.names, *(f"{base}{name}" for base in BASE_MODELS for name in own)])


@functools.cache
def known_params(method: str, arch: str) -> frozenset[str]:
    """The params that a run of a registered method on a registered architecture may have, as far as a
    comparison needs them.
    """
    return frozenset(names_of_task(arch) | OF_EVERY_METHOD | own_names(method))


def request_kind(task: Task) -> str:
    """Whether whole classes were forgotten: then test images of them tell what was forgotten."""
    return (
        WHOLE_CLASS
        if any("test_forget_score" in run.metrics for group in groups_of(task) for run in group.done.values())
        else PART
    )


def measured(task: Task, metric: str) -> str:
    """Return the name of a forget or retain metric: that on test images where whole classes were forgotten."""
    return f"test_{metric}" if request_kind(task) == WHOLE_CLASS else metric


def groups_of(task: Task) -> list[Group]:
    return [ranked.group for ranked in task.ranking]


def by_seed(groups: Iterable[Group], value: Callable[[SeedRun], Value | None]) -> dict[str, Value]:
    """What the finished runs of a seed share, as the ideal model's numbers: of each seed what the latest run
    with it says.
    """
    found: dict[str, tuple[int, Value]] = {}
    for group in groups:
        for seed, run in group.done.items():
            own = value(run)
            if own is not None and (seed not in found or run.start >= found[seed][0]):
                found[seed] = run.start, own
    return {seed: found[seed][1] for seed in sorted(found, key=seed_order)}


def of_base_model(
    task: Task, model: Literal["initial", "ideal"], metric: str, groups: Sequence[Group] | None = None
) -> OverSeeds | None:
    """A number of the initial or the ideal model over the task's seeds; `groups`: over those of these groups
    alone.
    """
    values = by_seed(
        groups_of(task) if groups is None else groups, lambda run: run.metrics.get(f"{model}_{metric}")
    )
    return over_seeds(list(values.values()), unit_of(metric)) if values else None


def seconds_of_ideal(task: Task) -> OverSeeds | None:
    """What it takes to train the ideal model, over the task's seeds."""
    values = by_seed(groups_of(task), lambda run: run.metrics.get(IDEAL_SECONDS))
    return over_seeds(list(values.values()), "seconds") if values else None


@dataclass(frozen=True)
class Point:
    """A method in a plane: two numbers over its seeds, both with a finite mean; `front`: no other point is
    better in both.
    """

    label: str
    x: OverSeeds
    y: OverSeeds
    front: bool = False

    @property
    def at(self) -> tuple[float, float]:
        return finite(self.x), finite(self.y)


@dataclass(frozen=True)
class Plane:
    """Points over two metrics.

    left_out: methods that have no finite mean of one of them. front_reason: why there is no front. unjudged:
    points that it can't be said of whether they are on it, for want of an ideal model beside them.
    """

    x_name: str
    y_name: str
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    front_reason: str = ""
    unjudged: tuple[str, ...] = ()


def finite(over: OverSeeds) -> float:
    if over.mean is None:
        raise ValueError("expected a finite mean, got none. Leave the point out")
    return over.mean


def labelled(task: Task) -> dict[str, Group]:
    """The groups by method, and where it has several, by what its settings differ in; not the ideal model's
    own runs.
    """
    labels = labels_of(task)
    return {
        f"{group.method} {labels[id(group)]}".strip(): group
        for group in groups_of(task)
        if group.method != REFERENCE
    }


def forget_against_retain(task: Task) -> Plane:
    """Each method's forget and retain score, and which of them are on the Pareto front.

        costs = (sum over seeds |forget score - the ideal's| / seeds, -mean retain score)    percent; the ideal model of the same seed

    Where there is no ideal model to go by, a forgotten class is best at 0; for a part of a class nobody can
    say, and there is no front. Where some methods have an ideal model beside them, those that have none are
    not judged.
    """
    x_name, y_name = measured(task, "forget_score"), measured(task, "retain_score")
    points, left_out = points_of(task, x_name, y_name)
    groups = labelled(task)
    costs = {point.label: distance_to_ideal(groups[point.label], x_name) for point in points}
    if all(cost is None for cost in costs.values()):
        if request_kind(task) != WHOLE_CLASS:
            return Plane(x_name, y_name, points, left_out, "no ideal model says what forget score to aim at")
        costs = {point.label: point.at[0] for point in points}
    judged = [(point, cost) for point in points if (cost := costs[point.label]) is not None]
    front = {judged[at][0].label for at in pareto_front([(cost, -point.at[1]) for point, cost in judged])}
    places = [at for at, point in enumerate(points) if point.label in front]
    unjudged = tuple(point.label for point in points if costs[point.label] is None)
    return Plane(x_name, y_name, marked(points, places), left_out, unjudged=unjudged)


def distance_to_ideal(group: Group, metric: str) -> float | None:
    """The mean over the seeds of the absolute difference to the ideal model beside each run; None where no
    run has one.
    """
    ideal = f"ideal_{metric}"
    pairs = [
        (run.metrics[metric], run.metrics[ideal])
        for run in group.done.values()
        if {metric, ideal} <= run.metrics.keys()
    ]
    return mean_gap(*zip(*pairs, strict=True)) if pairs else None


def time_against_gap(task: Task) -> Plane:
    """Each method's seconds and avg_gap; on the front is what no other method beats in both.

    What took no measurable time is left out: the axis is logarithmic.
    """
    points, left_out = points_of(task, SECONDS, RANKED_BY)
    timed = [point for point in points if point.at[0] > 0]
    left_out += tuple(point.label for point in points if point not in timed)
    return Plane(SECONDS, RANKED_BY, marked(timed, pareto_front([point.at for point in timed])), left_out)


def points_of(task: Task, x_name: str, y_name: str) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    points, left_out = [], []
    for label, group in labelled(task).items():
        x, y = (group.over(name) for name in (x_name, y_name))
        if x is None or y is None or x.mean is None or y.mean is None:
            left_out.append(label)
        else:
            points.append(Point(label, x, y))
    return tuple(points), tuple(left_out)


def marked(points: Sequence[Point], front: Sequence[int]) -> tuple[Point, ...]:
    return tuple(Point(point.label, point.x, point.y, number in front) for number, point in enumerate(points))


@dataclass(frozen=True)
class KappaLine:
    """A method that was run with several kappas, all else equal: its groups with the number of weights
    switched off, ascending.

    Two kappas may come to the same number, as 0.1 and 819 do: both are there.
    """

    label: str
    groups: tuple[tuple[int, Group], ...]

    @property
    def counts(self) -> list[int]:
        return [count for count, _ in self.groups]

    def over(self, metric: str) -> list[tuple[int, OverSeeds]]:
        """Where the metric has a finite mean."""
        found = [(count, group.over(metric)) for count, group in self.groups]
        return [(count, over) for count, over in found if over is not None and over.mean is not None]


def kappa_lines(task: Task) -> list[KappaLine]:
    """A line for each method, and choice of its other settings, that was run with at least two numbers of
    weights switched off.
    """
    families: dict[tuple[str, Settings], list[tuple[int, Group]]] = {}
    for group in groups_of(task):
        masked = group.over(KAPPA_COUNT)
        if masked is not None and KAPPA in dict(group.own):
            others = tuple(it for it in group.own if it[0] != KAPPA)
            families.setdefault((group.method, others), []).append((round(finite(masked)), group))
    several = {
        key: tuple(sorted(own, key=by_count))
        for key, own in families.items()
        if len({count for count, _ in own}) > 1
    }
    return [
        KappaLine(label_among(key, several), several[key])
        for key in sorted(several, key=lambda it: (it[0].casefold(), it[1]))
    ]


def by_count(counted: tuple[int, Group]) -> tuple[int, Settings]:
    count, group = counted
    return count, group.own


def label_among(family: tuple[str, Settings], families: Mapping[tuple[str, Settings], object]) -> str:
    """The method, and what its settings differ in from those of the same method's other lines."""
    method, settings = family
    siblings = [dict(others) for name, others in families if name == method]
    own = dict(settings)
    names = sorted(
        {name for one in siblings for name in one if len({other.get(name) for other in siblings}) > 1}
    )
    return " ".join([method, *(f"{name}={said(own, name)}" for name in names)])


def about(task: Task) -> str:
    own = dict(task.settings)
    return f"{capital(task.forgotten)} of {own.get('dataset', 'data')} forgotten, {own.get('arch', 'model')}"


def slugs_of(tasks: Sequence[Task]) -> list[str]:
    """A name for the files of each task: data, model and request; numbered where two have the same."""
    names = ("dataset", "arch", "request")
    called = ["_".join(dict(task.settings).get(name, "unknown") for name in names) for task in tasks]
    return unlike([shortened(safe(name), LONGEST_SLUG) for name in called])


def safe(name: str) -> str:
    """A file's name without a sign that a shell, LaTeX or a file system reads."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def unlike(names: Sequence[str]) -> list[str]:
    """The names, each that came before with a number that makes it another."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in range(2, len(names) + 2))
        found.append(
            name if name not in found else next(other for other in numbered if other not in (*found, *names))
        )
    return found
